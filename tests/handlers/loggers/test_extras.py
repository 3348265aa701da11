"""The loggers of extra packages: run for real where these are there, refused clearly where not.

`make test-loggers` installs the packages and runs this file with LEYDEN_TEST_LOGGERS=1: there a
missing one is a failure.
"""

import importlib.util
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.engine import Events
from leyden.handlers.loggers import CSVLogger, MLFlowLogger, WandbLogger
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer


def needs(package: str) -> None:
    """Skip the test where the package is missing and nobody has promised it."""
    if importlib.util.find_spec(package) is None:
        reason = f"needs the package {package}: make test-loggers"
        if os.environ.get("LEYDEN_TEST_LOGGERS"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.parametrize(
    ("cls", "package", "command"),
    [(WandbLogger, "wandb", "pip install wandb"), (MLFlowLogger, "mlflow", "pip install mlflow")],
)
def test_a_missing_package_is_named(
    cls: type, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    real = __import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("builtins.__import__", without)
    with pytest.raises(ModuleNotFoundError, match=f"{cls.__name__}.*{command}"):
        cls()


@pytest.mark.parametrize(
    ("cls", "package", "said"),
    [
        (WandbLogger, "wandb", r"WandbLogger\(save_dir='s3://b/r'\).*pass a local folder"),
        (MLFlowLogger, "mlflow", r"MLFlowLogger\(save_dir='s3://b/r'\).*tracking_uri="),
    ],
)
def test_files_that_cannot_be_elsewhere(cls: Any, package: str, said: str) -> None:
    needs(package)
    with pytest.raises(ValueError, match=said):
        cls(save_dir="s3://b/r")


@pytest.mark.slow
def test_importing_the_loggers_imports_no_extra() -> None:
    code = (
        "import leyden.handlers.loggers, sys; "
        "print([m for m in ('wandb', 'mlflow', 'tensorboardX', 'rich') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_wandb_offline(tmp_path: Path) -> None:
    needs("wandb")
    logger = WandbLogger(
        name="mine", save_dir=tmp_path, offline=True, project="demo", settings={"silent": True}
    )
    assert (logger.name, logger.version, logger.save_dir) == ("mine", None, str(tmp_path))
    assert not list(tmp_path.iterdir())
    logger.log_hyperparams({"lr": 0.1, "net": {"width": 4}})
    logger.log_metrics({"loss": torch.tensor(0.5)}, 10)
    logger.log_metrics({"late": 1.0}, 3)
    run = logger.experiment
    assert run.summary["loss"] == 0.5 and run.summary["trainer/global_step"] == 3
    assert dict(run.config) == {"lr": 0.1, "net/width": 4}
    assert logger.version == run.id and logger.name == "demo"
    assert pickle.loads(pickle.dumps(logger)).version == run.id
    logger.finalize("success")
    logger.close()
    assert list(tmp_path.rglob(f"run-{logger.version}.wandb"))
    with pytest.raises(ValueError, match="log_model=True: this logger uploads no checkpoints"):
        WandbLogger(log_model=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_mlflow_on_local_files(tmp_path: Path) -> None:
    needs("mlflow")
    logger = MLFlowLogger("demo", save_dir=tmp_path / "runs", tags={"who": "me"})
    assert logger.save_dir == str(tmp_path / "runs") and not list(tmp_path.iterdir())
    logger.log_hyperparams({"lr": 0.1, "long": "x" * 900, **{f"p{i}": i for i in range(150)}})
    for step in range(3):
        logger.log_metrics({"loss": torch.tensor(step / 2), "epoch": 0}, step)
    logger.finalize("failed")
    client = logger.experiment
    run = client.get_run(logger.version)
    assert run.info.status == "FAILED" and run.data.tags["who"] == "me"
    assert run.data.params["lr"] == "0.1" and len(run.data.params["long"]) == 250
    assert run.data.params["p149"] == "149"
    history = client.get_metric_history(logger.run_id, "loss")
    assert [(row.step, row.value) for row in history] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    again = MLFlowLogger("demo", save_dir=tmp_path / "runs", run_id=logger.run_id)
    again.log_metrics({"loss": 9.0}, 3)
    assert again.name == logger.name
    assert len(client.get_metric_history(logger.run_id, "loss")) == 4
    with pytest.raises(ValueError, match="'a' is 'text' of type str"):
        again.log_metrics({"a": "text"}, 0)
    json.dumps([logger.name, logger.version])  # plain names: they become folders


def wandb_records(path: Path) -> Iterator[Any]:
    """Read a run's file as W&B's server would get it: leveldb's log format, protobuf inside."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # a process of its own writes the file; this waits for its end
    text = path.read_bytes()
    assert text[:4] == b":W&B"
    at, block, whole = 7, 32768, b""
    while at < len(text):
        if block - at % block < 7:  # no room for a header: padding
            at += block - at % block
            continue
        _, size, kind = struct.unpack("<IHB", text[at : at + 7])
        whole += text[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(whole)
            whole = b""


class Configured(Tiny):
    """Has hyper-parameters."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_a_run_reaches_wandb(tmp_path: Path) -> None:
    needs("wandb")
    logger = WandbLogger(
        save_dir=tmp_path, offline=True, project="demo", settings={"silent": True}, id="mine"
    )
    made = trainer(
        tmp_path, max_epochs=2, logger=[logger, CSVLogger(tmp_path)], log_every_n_steps=2
    )
    model = Configured()
    made.fit(model, data(), data(2))
    logger.close()
    (path,) = tmp_path.rglob("run-mine.wandb")
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for record in wandb_records(path):
        for item in [*record.run.config.update, *record.config.update]:
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    assert config["lr"] == 0.1
    steps = [row["trainer/global_step"] for row in rows if "loss_step" in row]
    assert steps == [1, 3, 5, 7, 9, 11]
    last = [row for row in rows if "loss_epoch" in row][-1]
    assert last["loss_epoch"] == pytest.approx(float(made.callback_metrics["loss_epoch"]), rel=1e-6)
    assert [row["epoch"] for row in rows if "val_score" in row] == [0, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_a_run_reaches_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    folder = tmp_path / "a folder"
    logger = MLFlowLogger("demo", save_dir=folder)
    made = trainer(
        tmp_path, max_epochs=2, logger=logger, log_every_n_steps=2, checkpoint_callback=True
    )
    made.fit(Configured(), data(), data(2))
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    assert logger.save_dir == str(folder)
    assert logger.experiment_id and logger.run_id
    run = folder / logger.experiment_id / logger.run_id
    assert (run / "params" / "lr").read_text() == "0.1"
    lines = [line.split() for line in (run / "metrics" / "loss_step").read_text().splitlines()]
    assert [int(line[2]) for line in lines] == [1, 3, 5, 7, 9, 11]
    scores = [line.split() for line in (run / "metrics" / "val_score").read_text().splitlines()]
    assert float(scores[-1][1]) == pytest.approx(float(made.callback_metrics["val_score"]))
    assert "status: 3" in (run / "meta.yaml").read_text()  # FINISHED
    (saved,) = folder.rglob("*.ckpt")
    assert saved.is_relative_to(run / "checkpoints")


def attached_to_fit(handler: Any, folder: Path) -> None:
    """Attach a logger handler of ignite to a Trainer's engine, and train one epoch."""
    made = trainer(folder, max_epochs=1)
    handler.attach_output_handler(
        made.engine,
        Events.ITERATION_COMPLETED(every=3),
        tag="ignite",
        output_transform=lambda loss: {"loss": loss},
    )
    made.fit(Bare(), data())
    handler.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_ignites_tensorboard_handler(tmp_path: Path) -> None:
    # ignite has it write with torch's writer, which is the package tensorboard.
    tensorboard = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the package tensorboard is missing",
    )
    from ignite.handlers.tensorboard_logger import TensorboardLogger

    attached_to_fit(TensorboardLogger(log_dir=str(tmp_path / "logs")), tmp_path)
    found = tensorboard.EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.step for event in found.Scalars("ignite/loss")] == [3, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_ignites_wandb_handler(tmp_path: Path) -> None:
    needs("wandb")
    from ignite.handlers.wandb_logger import WandBLogger

    attached_to_fit(WandBLogger(mode="offline", dir=str(tmp_path), id="mine"), tmp_path)
    (path,) = tmp_path.rglob("run-mine.wandb")
    rows = [record.history for record in wandb_records(path) if record.HasField("history")]
    keys = [{item.key or "/".join(item.nested_key) for item in row.item} for row in rows]
    assert len(rows) == BATCHES / 3
    assert all("ignite/loss" in names for names in keys)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
def test_ignites_mlflow_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    import mlflow
    from ignite.handlers.mlflow_logger import MLflowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    try:
        attached_to_fit(MLflowLogger(tracking_uri=(tmp_path / "runs").as_uri()), tmp_path)
    finally:
        mlflow.set_tracking_uri(before)
    (path,) = tmp_path.rglob("metrics/ignite loss")
    assert [line.split()[2] for line in path.read_text().splitlines()] == ["3", "6"]
