"""Weights & Biases: `WandbLogger`."""

import os
from collections.abc import Mapping
from typing import Any

from leyden.engine.errors import MisconfiguredValue
from leyden.handlers.loggers.base import (
    LightningLoggerBase,
    rank_zero_experiment,
    rank_zero_only,
)
from leyden.handlers.loggers.folder import checked_folder
from leyden.handlers.loggers.hparams import convert_params, flatten_params
from leyden.handlers.loggers.values import scalars

__all__ = ["WandbLogger"]


class WandbLogger(LightningLoggerBase):
    """Logs to Weights & Biases through its package ``wandb``.

    The step goes along as the metric ``trainer/global_step``, which is the axis of all charts. The
    step of W&B itself only counts calls, so rows that come late are not dropped.

    Args:
        name: The run's name.
        save_dir: The folder of its local files; the current one if None.
        offline: Whether to write local files only, for ``wandb sync`` later.
        id: The run's id, to go on with an earlier run.
        anonymous: Whether W&B may do without an account; its newer versions have no use for it.
        version: The same as ``id``.
        project: The project.
        log_model: Must be False: checkpoints are not uploaded.
        experiment: A run that ``wandb.init`` has returned, to be used as it is.
        prefix: Put before each metric's name, with a ``-``.
        kwargs: Further arguments of ``wandb.init``.

    Raises:
        ModuleNotFoundError: If wandb is not installed.
        MisconfigurationException: If ``log_model`` is true, or ``save_dir`` an address such as
            ``s3://runs``; a ``ValueError`` as well.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | os.PathLike[str] | None = None,
        offline: bool = False,
        id: str | None = None,
        anonymous: bool = False,
        version: str | None = None,
        project: str | None = None,
        log_model: bool = False,
        experiment: Any = None,
        prefix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if log_model:
            raise MisconfiguredValue(
                f"log_model={log_model!r}: this logger uploads no checkpoints; leave it at False "
                "and pass the file to logger.experiment.log_artifact(path) when the run is over"
                + ("; checkpoints cannot be uploaded in offline mode" if offline else "")
            )
        if experiment is None:
            _import_wandb()  # refused here, not in the middle of the first epoch
        self._name = name
        self._save_dir = None
        if save_dir is not None:
            self._save_dir = checked_folder(
                save_dir, "WandbLogger", local="pass a local folder; W&B sends them to its server"
            )
        self._offline = offline
        self._id = version or id
        self._anonymous = anonymous
        self._project = project
        self._prefix = prefix
        self._kwargs = kwargs
        self._experiment: Any = None
        if experiment is not None:
            self._use(experiment)

    def _use(self, run: Any) -> None:
        self._experiment = run
        if not hasattr(run, "define_metric"):  # a stand-in for a run, in a test
            return
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run: ``log``, ``config``, ``watch`` and all the rest.

        Where this process has one already, begun by ``wandb.init``, it is that one.
        """
        if self._experiment is None:
            wandb = _import_wandb()
            if wandb.run is not None:
                self._use(wandb.run)
                return self._experiment
            arguments: dict[str, Any] = {
                "name": self._name,
                "dir": self._save_dir,
                "project": self._project,
                "id": self._id,
                "resume": "allow",
                **self._kwargs,
            }
            if self._offline:
                arguments["mode"] = "offline"
            if self._anonymous:
                arguments.setdefault("anonymous", "allow")
            if self._save_dir is not None:
                os.makedirs(self._save_dir, exist_ok=True)
            self._use(wandb.init(**arguments))
        return self._experiment

    @property
    def save_dir(self) -> str | None:
        """The folder of the local files."""
        return self._save_dir

    @property
    def name(self) -> str | None:
        """The project's name once the run has begun, else the run's."""
        if self._experiment is not None:
            # Runs of old versions have a method for it.
            named = getattr(self._experiment, "project_name", None)
            return str(named() if callable(named) else self._experiment.project)
        return self._name

    @property
    def version(self) -> str | None:
        """The run's id; None before it has begun if none was given."""
        return self._id if self._experiment is None else self._experiment.id

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add hyper-parameters to the run's configuration."""
        self.experiment.config.update(flatten_params(convert_params(params)), allow_val_change=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics, with the step among them."""
        row = scalars(self._add_prefix(metrics, self._prefix))
        if step is not None:
            row["trainer/global_step"] = step
        self.experiment.log(row)

    @rank_zero_only
    def watch(self, model: Any, log: str = "gradients", log_freq: int = 100) -> None:
        """Let W&B record histograms of gradients or parameters."""
        self.experiment.watch(model, log=log, log_freq=log_freq)

    @rank_zero_only
    def close(self) -> None:
        """Save and end the run; it cannot be logged to afterwards."""
        self.save()
        if self._experiment is not None:
            self._experiment.finish()

    def __getstate__(self) -> dict[str, Any]:
        # The run belongs to this process; another one joins it by its id.
        return {**self.__dict__, "_experiment": None, "_id": self.version}


def __getattr__(name: str) -> Any:
    """Give the package as ``wandb``, None without it; what a test puts there is used instead."""
    if name != "wandb":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _import_wandb()
    except ModuleNotFoundError:
        return None


def _import_wandb() -> Any:
    if globals().get("wandb") is not None:
        return globals()["wandb"]
    try:
        import wandb
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise ModuleNotFoundError(
            "logger=WandbLogger(...) needs the package wandb, which is not installed: "
            "pip install wandb",
            name="wandb",
        ) from error
    return wandb
