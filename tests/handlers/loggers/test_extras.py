"""The loggers of extra packages: run for real where these are there, refused clearly where not."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leyden.handlers.loggers import MLFlowLogger, WandbLogger


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
    pytest.importorskip("wandb", reason="the package wandb is missing")
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
def test_mlflow_on_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the package mlflow is missing")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
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
