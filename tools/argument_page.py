"""Write docs/arguments.md, and the table in docs/from-lightning.md: every argument of the Trainer.

python tools/argument_page.py           write the files
python tools/argument_page.py --check   only say whether they are up to date, by the exit status

Types, defaults and meanings come from `TrainerConfig`, today's names from `config_names`, the
handlers from Trainers that are made with each argument's example.
"""

import contextlib
import io
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import leyden
from leyden.arguments import argument_descriptions
from leyden.config import TrainerConfig, defaults
from leyden.config_names import ALIASES
from leyden.engine.errors import MisconfigurationException, NotBuilt
from leyden.settings import ANY_TIME, FIXED

__all__ = ["EXAMPLES", "GROUPS", "PARTS", "TODAY", "handlers_of", "main", "move_page", "page"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, MOVE = DOCS / "arguments.md", DOCS / "from-lightning.md"

#: Each argument with a value that does something.
EXAMPLES: dict[str, dict[str, Any]] = {
    "How long": {
        "max_epochs": 10,
        "min_epochs": 3,
        "max_steps": 5000,
        "min_steps": 100,
        "max_time": {"hours": 2},
        "limit_train_batches": 0.1,
        "limit_val_batches": 10,
        "limit_test_batches": 10,
        "limit_predict_batches": 10,
        "fast_dev_run": True,
        "overfit_batches": 4,
    },
    "Optimization": {
        "accumulate_grad_batches": 4,
        "gradient_clip_val": 1.0,
        "gradient_clip_algorithm": "value",
        "track_grad_norm": 2,
        "terminate_on_nan": True,
        "truncated_bptt_steps": 25,
        "automatic_optimization": False,
        "auto_lr_find": True,
        "auto_scale_batch_size": "power",
    },
    "Validation": {
        "val_check_interval": 0.25,
        "check_val_every_n_epoch": 2,
        "num_sanity_val_steps": 0,
    },
    "Watching": {
        "callbacks": "[EarlyStopping('val_loss')]",
        "logger": "CSVLogger('runs')",
        "log_every_n_steps": 10,
        "flush_logs_every_n_steps": 200,
        "progress_bar_refresh_rate": 0,
        "process_position": 1,
        "weights_summary": "full",
        "profiler": "simple",
        "log_gpu_memory": "min_max",
        "move_metrics_to_cpu": True,
    },
    "Checkpoints and folders": {
        "checkpoint_callback": False,
        "default_root_dir": "runs",
        "weights_save_path": "checkpoints",
        "resume_from_checkpoint": "last.ckpt",
    },
    "Data and repeatability": {
        "deterministic": True,
        "benchmark": True,
        "reload_dataloaders_every_epoch": True,
        "prepare_data_per_node": False,
        "replace_sampler_ddp": False,
    },
    "Devices, processes, precision": {
        "gpus": 1,
        "auto_select_gpus": True,
        "tpu_cores": 8,
        "num_processes": 2,
        "num_nodes": 2,
        "accelerator": "ddp",
        "distributed_backend": "ddp",
        "sync_batchnorm": True,
        "plugins": "[MyPlugin()]",
        "precision": 16,
        "amp_backend": "native",
        "amp_level": "O2",
        "compile": True,
        "cuda_graph": True,
    },
}
HARDWARE = "Devices, processes, precision"
GROUPS = {title: tuple(examples) for title, examples in EXAMPLES.items()}

#: What arguments do that make no handler.
PARTS = {
    "max_epochs": "the engine: `run(max_epochs=)`",
    "limit_train_batches": "the feed of the training engine",
    "limit_test_batches": "the feed of the test engine",
    "limit_predict_batches": "the feed of the prediction engine",
    "fast_dev_run": "other arguments; says which",
    "overfit_batches": "other arguments; says which",
    "truncated_bptt_steps": "the step",
    "automatic_optimization": "the step",
    "num_sanity_val_steps": "fit, before training",
    "callbacks": "the callbacks and handlers given",
    "log_every_n_steps": "MetricRecorder",
    "move_metrics_to_cpu": "MetricRecorder",
    "default_root_dir": "loggers, ModelCheckpoint",
    "weights_save_path": "ModelCheckpoint",
    "resume_from_checkpoint": "fit, before the sanity check",
    "prepare_data_per_node": "fit, before setup",
    "replace_sampler_ddp": "the loaders",
    "log_gpu_memory": "the loggers",
    "auto_lr_find": "tune",
    "auto_scale_batch_size": "tune",
    "precision": "the step",
    "compile": "the step",
    "cuda_graph": "the step",
    "amp_backend": "the step",
    "amp_level": "the step",
    "gpus": "devices",
    "auto_select_gpus": "devices",
    "tpu_cores": "devices",
    "num_processes": "processes",
    "num_nodes": "processes",
    "accelerator": "processes",
    "distributed_backend": "processes",
    "sync_batchnorm": "the model",
    "plugins": "what they say",
}

#: What became of the arguments in Lightning 2.x; those not listed kept their name.
TODAY = {
    "checkpoint_callback": "`enable_checkpointing`",
    "progress_bar_refresh_rate": "`enable_progress_bar`; rate: `TQDMProgressBar(refresh_rate=)`",
    "process_position": "`TQDMProgressBar(process_position=)`",
    "weights_summary": "`enable_model_summary`; `ModelSummary(max_depth=)`",
    "weights_save_path": "gone: `ModelCheckpoint(dirpath=)`",
    "resume_from_checkpoint": "`fit(ckpt_path=)`",
    "reload_dataloaders_every_epoch": "`reload_dataloaders_every_n_epochs`",
    "replace_sampler_ddp": "`use_distributed_sampler`",
    "prepare_data_per_node": "an attribute of the data module",
    "flush_logs_every_n_steps": "gone: an argument of some loggers",
    "log_gpu_memory": "gone: `DeviceStatsMonitor()`",
    "track_grad_norm": "gone: `grad_norm()` in `on_before_optimizer_step`",
    "truncated_bptt_steps": "gone: manual optimization",
    "terminate_on_nan": "gone; `detect_anomaly` is slower",
    "automatic_optimization": "an attribute of the module",
    "move_metrics_to_cpu": "gone",
    "auto_lr_find": "`Tuner(trainer).lr_find(model)`",
    "auto_scale_batch_size": "`Tuner(trainer).scale_batch_size(model)`",
    "gpus": "`accelerator='gpu', devices=`",
    "auto_select_gpus": "gone",
    "tpu_cores": "`accelerator='tpu', devices=`",
    "num_processes": "`accelerator='cpu', devices=`",
    "accelerator": "`strategy=`, where it named a way to distribute",
    "distributed_backend": "`strategy=`",
    "compile": "`fit(torch.compile(model))`",
    "cuda_graph": "none",
    "amp_backend": "gone: native only",
    "amp_level": "gone",
}

#: How leyden differs from both where one might not expect it; the rest is in differences.md.
DIFFERS = {
    "max_steps": "0 is refused; -1, as in 2.x, is no limit",
    "min_epochs": "epochs that have to run are run in full",
    "min_steps": "honoured in the middle of an epoch as well",
    "max_time": "not in 1.1.8; the same values as in 2.x",
    "limit_predict_batches": "not in 1.1.8",
    "compile": "not in 1.1.8; 2.x takes a compiled module, so does leyden",
    "cuda_graph": "in neither of them",
    "gradient_clip_algorithm": "not in 1.1.8",
    "callbacks": "ignite's handlers as well; the order of the list does not matter to leyden's own",
    "val_check_interval": "1 is every batch, 1.0 once an epoch; the plan says which was meant",
    "resume_from_checkpoint": "also in the middle of an epoch, bit for bit",
    "progress_bar_refresh_rate": "redrawn by the clock; 0 shows none",
    "num_sanity_val_steps": "leaves training's random numbers alone",
    "fast_dev_run": "prints what it changed",
    "overfit_batches": "prints what it changed",
    "accumulate_grad_batches": "a dict as well, which 2.x dropped",
    "deterministic": "'warn' as in 2.x",
    "reload_dataloaders_every_epoch": "n > 1: every n-th epoch",
}


def handlers_of() -> dict[str, list[str]]:
    """Return the classes of the handlers that each argument makes, as Trainers really have them."""
    found: dict[str, list[str]] = {name: [] for name in defaults()}

    def note(argument: str, handler: Any) -> None:
        name = type(handler).__name__
        if argument in found and name not in found[argument]:
            found[argument].append(name)

    for title, examples in EXAMPLES.items():
        for argument, value in examples.items():
            if title == HARDWARE or argument == "log_gpu_memory":
                continue  # what they make depends on the machine
            words = isinstance(value, str) and "(" in value
            # Cutting off needs a limit; a folder must not be made, so the default logger stays out.
            given: dict[str, Any] = {} if words else {argument: value}
            given |= {"gradient_clip_val": 1.0} if argument == "gradient_clip_algorithm" else {}
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the page says which are
                try:
                    trainer = leyden.Trainer(**given)
                except NotBuilt:
                    continue  # the page says so
            for handler in trainer.handlers:
                note(getattr(handler, "origin", "").split("=")[0], handler)
            for feature, handler in trainer._run.features.items():
                for name in getattr(feature, "arguments", ()):
                    note(name, handler)
    return found


def _example(argument: str) -> str:
    value = next(group[argument] for group in EXAMPLES.values() if argument in group)
    shown = value if isinstance(value, str) and "(" in value else repr(value)
    return f"`{argument}={shown}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type(argument: str) -> str:
    annotation = next(f.type for f in fields(TrainerConfig) if f.name == argument)
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    words = text.replace("datetime.", "").replace("typing.", "").replace("PathLike[str]", "path")
    parts = words.replace("os.", "").replace("list[Any]", "list").split(" | ")
    return " or ".join("object" if part == "Any" else part for part in parts)


def _made(argument: str, handlers: dict[str, list[str]]) -> str:
    made = ", ".join(handlers[argument])
    return made if made else PARTS[argument]


def _names(argument: str) -> list[str]:
    """Today's names that leyden accepts for an argument of 1.1."""
    direct = [
        name
        for name, alias in ALIASES.items()
        if alias.meaning.startswith((f"{argument},", f"{argument};", f"True: {argument}="))
    ]
    if argument in ("gpus", "tpu_cores", "num_processes"):
        direct.append("devices")
    if argument in ("accelerator", "distributed_backend"):
        direct.append("strategy")
    if argument == "resume_from_checkpoint":
        direct.append("fit(ckpt_path=)")
    return list(dict.fromkeys(direct))


def _changes(argument: str) -> str:
    if argument in FIXED:
        return "no"
    return "at any time" if argument in ANY_TIME else "between runs"


TEXT = """# Arguments of the Trainer

Made by `tools/argument_page.py` from the code; a test compares the two. All arguments are optional
and given by name. Each can be read back from the Trainer under its own name, and set there
(`trainer.max_epochs = 5`) as the last column says. `LEYDEN_TRAINER_MAX_EPOCHS=5` in the environment
fills an argument that the code does not give; `PL_TRAINER_MAX_EPOCHS=5` wins over the code, as in
Lightning 1.1. Names that Lightning 2.x uses are accepted where they stand below.

A wrong name, type, value or combination is refused when the Trainer is made:

```text
{errors}
```

`print(trainer.plan())` shows which handlers the arguments of a Trainer have made.
"""

#: Refused, for the page: what is printed is what the Trainer says.
WRONG: tuple[dict[str, Any], ...] = (
    {"max_epoch": 5},
    {"gradient_clip_val": -1.0},
    {"limit_train_batches": 1.5},
    {"val_check_interval": 0},
)


def _errors() -> str:
    lines = []
    for given in WRONG:
        (name, value), *_ = given.items()
        try:
            leyden.Trainer(**given)
        except MisconfigurationException as error:
            lines += [f">>> leyden.Trainer({name}={value!r})", f"{type(error).__name__}: {error}"]
    return "\n".join(lines)


def page() -> str:
    """Return docs/arguments.md."""
    handlers, meanings = handlers_of(), argument_descriptions(TrainerConfig)
    out = [TEXT.format(errors=_errors())]
    for title, names in GROUPS.items():
        out += [
            f"## {title}\n",
            "| argument | type, default | meaning | makes | 2.x name | change |",
        ]
        out.append("| --- | --- | --- | --- | --- | --- |")
        for name in names:
            meaning = " ".join(meanings[name].split())
            today = ", ".join(f"`{one}`" for one in _names(name))
            cells = (
                _example(name),
                f"{_type(name)}, `{defaults()[name]!r}`",
                meaning,
                _made(name, handlers),
                today,
                _changes(name),
            )
            out.append(f"| {' | '.join(map(_cell, cells))} |")
        out.append("")
    return "\n".join(out)


BEGIN, END = "<!-- made by tools/argument_page.py -->", "<!-- end -->"


def move_page() -> str:
    """Return docs/from-lightning.md with its table made anew."""
    before, rest = MOVE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    handlers = handlers_of()
    rows = ["| 1.1 | made of it | 2.x | differs |", "| --- | --- | --- | --- |"]
    for name in defaults():
        today = TODAY.get(name, "the same")
        cells = (f"`{name}`", _made(name, handlers), today, DIFFERS.get(name, ""))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return f"{before}{BEGIN}\n\n{chr(10).join(rows)}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write or check the files; return the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    made = {PAGE: page(), MOVE: move_page()}
    if arguments:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
