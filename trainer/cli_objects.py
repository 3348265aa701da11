"""What a command line makes beside Trainer, module and data: a saved configuration, optimizers."""

import importlib
import os
import zlib
from collections.abc import Mapping
from typing import Any

from leyden.callback import Callback
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.checkpoint_files import exists, make_directory, write_text
from leyden.handlers.checkpoint_names import join

__all__ = ["SaveConfigCallback", "configured", "drawn_seed", "instantiate_class"]


class SaveConfigCallback(Callback):
    """Writes the whole configuration into the folder of the run, when training begins.

    Without a logger there is no such folder, and nothing is written.

    Args:
        text: the configuration, as YAML.
        config_filename: the name of the file.
        overwrite: replace a file that is there, rather than refuse to.
    """

    def __init__(
        self, text: str, config_filename: str = "config.yaml", *, overwrite: bool = False
    ) -> None:
        super().__init__()
        self.text = text
        self.config_filename = config_filename
        self.overwrite = overwrite

    def setup(self, trainer: Any, pl_module: Any, stage: str | None = None) -> None:
        """Write the file, in the first process."""
        if stage != "fit" or trainer.logger is None or not trainer.is_global_zero:
            return
        folder = trainer.log_dir
        if folder is None:
            return
        path = join(folder, self.config_filename)
        if exists(path) and not self.overwrite:
            raise MisconfigurationException(
                f"{path} is there already, and this run would replace it: give the run a folder of "
                "its own, or pass save_config_kwargs={'overwrite': True}, or "
                "save_config_callback=None"
            )
        make_directory(folder)
        write_text(path, self.text)


def instantiate_class(args: Any, init: Mapping[str, Any]) -> Any:
    """Make an object of ``{"class_path": ..., "init_args": ...}``.

    Args:
        args: what comes first: one value, or a tuple of them.
        init: the class, by its import path, and its arguments by name.

    Example:
        >>> instantiate_class((1, 2), {"class_path": "datetime.timedelta"})
        datetime.timedelta(days=1, seconds=2)
    """
    module, _, name = str(init["class_path"]).rpartition(".")
    made = getattr(importlib.import_module(module), name)
    first = args if isinstance(args, tuple) else (args,)
    return made(*first, **dict(init.get("init_args") or {}))


def configured(give: Any, model: Any, specs: dict[str, Any], config: dict[str, Any]) -> Any:
    """Make the optimizer and the scheduler that options named, over the parameters of a module.

    Args:
        give: what puts them together, ``LeydenCLI.configure_optimizers``.
        model: the module.
        specs: ``{"optimizer": ..., "lr_scheduler": ...}`` as ``instantiate_class`` takes them.
        config: when the scheduler steps, and by which metric.
    """
    optimizer = instantiate_class((model.parameters(),), specs["optimizer"])
    if "lr_scheduler" not in specs:
        return give(model, optimizer)
    scheduler = instantiate_class((optimizer,), specs["lr_scheduler"])
    return give(model, optimizer, {**config, "scheduler": scheduler})


def drawn_seed(env: Mapping[str, str]) -> int:
    """Draw a random seed; the processes of one run get the same."""
    if not any(name in env for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        return int.from_bytes(os.urandom(4), "little")
    # Told by the process that started this one.
    if env.get("PL_GLOBAL_SEED", "").isdigit():
        return int(env["PL_GLOBAL_SEED"])
    shared = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
    return zlib.crc32("|".join(env.get(name, "") for name in shared).encode())
