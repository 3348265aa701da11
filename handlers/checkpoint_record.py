"""Which files a checkpoint callback keeps: their scores and names, and that knowledge as state."""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from leyden.engine.notice import warn
from leyden.handlers.callback import Callback
from leyden.handlers.checkpoint_arguments import Triggers
from leyden.handlers.checkpoint_files import exists, remove, write_text
from leyden.handlers.checkpoint_names import check_template, fill, free_name, join
from leyden.handlers.checkpoint_ownership import Origin, is_own, origin_of, same_again
from leyden.handlers.checkpoint_state import weights_of
from leyden.handlers.monitored import Direction, better, resolve_mode, score_of, worst

__all__ = ["CheckpointRecord"]

log = logging.getLogger(__name__)


class CheckpointRecord(Callback):
    """The knowledge of :class:`leyden.handlers.model_checkpoint.ModelCheckpoint` about its files.

    It decides what a file is called and whether it is among the best; it writes no checkpoint. The
    arguments and attributes are described there.
    """

    FILE_EXTENSION: ClassVar[str] = ".ckpt"
    CHECKPOINT_JOIN_CHAR: ClassVar[str] = "-"
    CHECKPOINT_NAME_LAST: ClassVar[str] = "last"

    def __init__(
        self,
        monitor: str | None = None,
        *,
        mode: str = "auto",
        save_top_k: int | None = None,
        save_last: bool | None = None,
        dirpath: str | None = None,
        filename: str | None = None,
        prefix: str = "",
        auto_insert_metric_name: bool = True,
        triggers: Triggers | None = None,
    ) -> None:
        super().__init__()
        if filename:
            check_template(filename)
        self.triggers = Triggers.parse() if triggers is None else triggers
        self.monitor = monitor
        self.mode: Direction = resolve_mode("ModelCheckpoint", monitor, mode)
        self.save_top_k = 1 if save_top_k is None and monitor is not None else save_top_k
        self.save_last = save_last
        self.dirpath = dirpath
        self.filename = filename
        self.prefix = prefix
        self.auto_insert_metric_name = auto_insert_metric_name
        self.current_score: torch.Tensor | None = None
        self.best_k_models: dict[str, torch.Tensor] = {}
        self.kth_best_model_path = ""
        self.kth_value: torch.Tensor = worst(self.mode)
        self.best_model_score: torch.Tensor | None = None
        self.best_model_path = ""
        self.last_model_path = ""
        self._last_step_saved = -1
        # Replaced by the file being written: they go when it is safe, in a resumed run if need be.
        self._superseded: list[str] = []
        self._written: set[str] = set()  # by this process: whose they are need not be read
        self._saved_at = 0.0  # seconds, on the monotonic clock
        self._due = False  # at the end of this epoch, after its validation
        # In a run that failed: what was so before. A resumed run decides on that step once more.
        self._as_before: dict[str, Any] = {}
        # The monitor may be adopted later; the name of the state must not change then.
        self._given_monitor = monitor

    # ------------------------------------------------------------------ scores

    def check_monitor_top_k(self, current: Any) -> bool:
        """Whether a checkpoint with this score is to be kept; a tie with the worst kept is not."""
        if current is None:
            return False
        if self.save_top_k == -1 or len(self.best_k_models) < (self.save_top_k or 0):
            return True
        return better(self.mode, score_of(current), self.best_k_models[self.kth_best_model_path])

    def _extreme(self, *, worst_one: bool) -> str:
        lowest = (self.mode == "min") != worst_one
        return (min if lowest else max)(
            self.best_k_models, key=lambda path: float(self.best_k_models[path])
        )

    # ------------------------------------------------------------------ names

    def format_checkpoint_name(
        self, epoch: int, step: int, metrics: Mapping[str, Any], ver: int | None = None
    ) -> str:
        """Return the path for these values.

        Example:
            >>> record = CheckpointRecord(filename="{epoch}-{acc:.1f}")
            >>> record.format_checkpoint_name(2, 9, {"acc": 0.5}, ver=1)
            'epoch=2-acc=0.5-v1.ckpt'
        """
        name = self._filled(self.filename, {**metrics, "epoch": epoch, "step": step})
        return self._path(name if ver is None else f"{name}{self.CHECKPOINT_JOIN_CHAR}v{ver}")

    @classmethod
    def _format_checkpoint_name(
        cls,
        filename: str | None,
        epoch: int,
        step: int,
        metrics: Mapping[str, Any],
        prefix: str = "",
    ) -> str:
        """Fill a template, as code that derives from Lightning 1.1's ModelCheckpoint does it."""
        name = fill(filename or cls._default_template(), {**metrics, "epoch": epoch, "step": step})
        return cls.CHECKPOINT_JOIN_CHAR.join(part for part in (prefix, name) if part)

    @classmethod
    def _default_template(cls) -> str:
        return cls.CHECKPOINT_JOIN_CHAR.join(("{epoch}", "{step}"))

    def _path(self, name: str) -> str:
        name += self.FILE_EXTENSION
        return join(self.dirpath, name) if self.dirpath else name

    def _free_path(self, trainer: Any, values: dict[str, Any], dropped: str | None = None) -> str:
        """Find a name that no file has, or one of a file that may be written over."""
        replaceable = self._replaceable(trainer, dropped)

        def named(version: int | None) -> str:
            return self.format_checkpoint_name(values["epoch"], values["step"], values, version)

        def taken(path: str) -> bool:
            return self.file_exists(path, trainer) and not replaceable(path)

        return free_name(named, taken)

    def file_exists(self, filepath: str | os.PathLike[str], trainer: Any) -> bool:
        """Whether there is such a file; a name that is taken gets a version."""
        return exists(os.fspath(filepath))

    def _del_model(self, filepath: str) -> None:
        """Remove one file; code that derives from Lightning 1.1's class overrides it."""
        remove(filepath)

    @property
    def known_paths(self) -> set[str]:
        """The files that are kept or about to go."""
        return self.kept_paths | set(self._superseded)

    @property
    def kept_paths(self) -> set[str]:
        """The files that are kept."""
        return {*self.best_k_models, self.last_model_path} - {""}

    def _remove_superseded(self, trainer: Any, later: int | None = None) -> None:
        """Remove what a new file took the place of.

        Args:
            trainer: the run.
            later: keep files of this step for now. A failed run left one, the run goes on from it,
                and there is no newer one yet.
        """
        kept = []
        while self._superseded:
            path = self._superseded.pop()
            if later is not None and getattr(origin_of(path), "step", None) == later:
                kept.append(path)
                continue
            in_use = path in self.kept_paths
            if in_use or not getattr(trainer, "is_global_zero", True) or not exists(path):
                continue
            if path in self._written or is_own(path, getattr(trainer, "run_id", None)):
                self._del_model(path)
                self._written.discard(path)
            else:
                log.info("not removed: %s is not a checkpoint of this run (any more)", path)
        self._superseded = kept

    def _replaceable(self, trainer: Any, dropped: str | None = None) -> Callable[[str], bool]:
        """Tell which files may be written over: ``dropped``, which is to go, and this very
        checkpoint where an earlier process of the run wrote it.
        """
        run = getattr(trainer, "run_id", None)
        savers = getattr(trainer, "checkpoint_callbacks", [self])

        def replaceable(path: str) -> bool:
            if path == dropped:
                return path in self._written or is_own(path, run)
            used = {path for saver in savers for path in saver.known_paths}
            # What a failed run left beside the best is to go, unless it is wanted now.
            if run is None or path in used - (set(self._superseded) - self.kept_paths):
                return False
            origin = Origin(run, getattr(trainer, "optimizer_steps", -1))
            return same_again(path, origin, weights_of(trainer))

        return replaceable

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write ``best_k_models`` as YAML, by default beside the checkpoints."""
        path = (
            join(self.dirpath or "", "best_k_models.yaml")
            if filepath is None
            else os.fspath(filepath)
        )
        lines = [
            f"{_yaml_text(name)}: {float(score)!r}\n" for name, score in self.best_k_models.items()
        ]
        write_text(path, "".join(lines) or "{}\n")

    # ------------------------------------------------------------------ state

    @property
    def period(self) -> int:
        """Epochs from one save to the next; 0 or less: epochs do not count."""
        return self.triggers.period

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint."""
        return self._state_key_of(
            monitor=self._given_monitor, mode=self.mode, **self.triggers.given()
        )

    def state_dict(self) -> dict[str, Any]:
        """What decides which files are kept; the file being written counts as kept."""
        now = {**self._record(), **self._as_before}
        return {
            "monitor": self.monitor,
            "best_model_score": now["best_model_score"],
            "best_model_path": now["best_model_path"],
            "current_score": now["current_score"],
            "dirpath": self.dirpath,
            "best_k_models": dict(now["best_k_models"]),
            "kth_best_model_path": now["kth_best_model_path"],
            "kth_value": now["kth_value"],
            "last_model_path": now["last_model_path"],
            "last_step_saved": now["_last_step_saved"],
            "superseded": list(now["_superseded"]),
            "due": self._due,
            "seconds_since_save": time.monotonic() - self._saved_at
            if self.triggers.seconds
            else 0.0,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave, or what Lightning 1.1 kept of it.

        In another directory the files of the earlier run are left alone: only the best one is
            remembered.
        """
        if self._given_monitor is not None and state.get("monitor") != self._given_monitor:
            warn(
                f"the checkpoint's ModelCheckpoint watched {state.get('monitor')!r}, this one "
                "watches "
                f"{self._given_monitor!r}: its best files are not taken over",
                UserWarning,
            )
            return
        self.monitor = state.get("monitor", self.monitor)
        # Files of before Lightning 0.9 may know only one of the two.
        self.best_model_score = state.get("best_model_score")
        self.best_model_path = state.get("best_model_path") or ""
        if "best_k_models" not in state or state["dirpath"] != self.dirpath:
            return
        if self.save_top_k is None and self.monitor is not None:
            self.save_top_k = 1
        self.current_score = state["current_score"]
        self.best_k_models = dict(state["best_k_models"])
        self.kth_best_model_path = state["kth_best_model_path"]
        self.kth_value = state["kth_value"]
        self.last_model_path = state["last_model_path"]
        self._last_step_saved = state["last_step_saved"]
        self._superseded = list(state["superseded"])
        self._due = state.get("due", False)
        self._saved_at = time.monotonic() - state["seconds_since_save"]
        if self.monitor is None:
            # Written into the file before it was complete.
            self.best_model_path = self.last_model_path

    def _record(self) -> dict[str, Any]:
        """The attributes that a save changes, to undo it."""
        return {
            "current_score": self.current_score,
            "kth_best_model_path": self.kth_best_model_path,
            "kth_value": self.kth_value,
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "last_model_path": self.last_model_path,
            "best_k_models": dict(self.best_k_models),
            "_superseded": list(self._superseded),
            "_last_step_saved": self._last_step_saved,
        }

    def on_save_checkpoint(self, trainer: Any, pl_module: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what a checkpoint keeps."""
        return self.state_dict()

    def on_load_checkpoint(self, checkpointed_state: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take back what a checkpoint kept."""
        self.load_state_dict(checkpointed_state)

    def _filled(self, template: str | None, values: Mapping[str, Any]) -> str:
        template = template or self._default_template()
        name = fill(template, values, insert_names=self.auto_insert_metric_name)
        return self.CHECKPOINT_JOIN_CHAR.join(part for part in (self.prefix, name) if part)


def _yaml_text(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./=+@,-]*", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
