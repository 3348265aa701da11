"""A process for each TPU core, on torch_xla's CPU devices, whose sums go over the host there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.handlers.checkpoint_io import load
from tests.backends import xla_ranks
from tests.backends.xla_cases import (
    CLOSE,
    Net,
    Validated,
    adamw,
    loader,
    settings,
    trainer,
    weights,
)

pytestmark = [pytest.mark.xla, pytest.mark.slow, pytest.mark.usefixtures("four_devices")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def two_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("CPU_NUM_DEVICES", "2")
    yield


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found; one launch for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PJRT_DEVICE", "CPU")
        return xla_ranks.launched(tmp_path_factory.mktemp("ranks"), 2)


# ------------------------------------------------------------------------ torch_xla's own launch


@pytest.mark.parametrize("here", [True, False])
def test_runs_where_torch_xla_launches_and_records_one_collective_a_step(here: bool) -> None:
    command = [sys.executable, "-m", "tests.backends.xla_launched", *["--here"][: int(here)]]
    env = {**settings(1), "XLA_ALWAYS_ALLREDUCE": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["all-reduce"] == 1  # of all gradients together
    assert found["loss"] < 1e-5 and found["weights"] < 1e-5
    # Nothing is read but, once, the weights to begin with.
    assert found["counts"]["MarkStep"] == found["steps"] == 9
    assert (found["counts"]["reads"], found["counts"]["on the CPU"]) == (1, 0)
    assert set(map(tuple, found["reduced"].values())) == {(0.0, 1.0, 2.0)}
    assert found["gathered"] == [[0.0, 1.0, 2.0]]


# ------------------------------------------------------------------------ two processes


def test_each_process_has_a_core_and_its_share(ranks: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(part["place"] for part in ranks):
        assert found["ranks"] == [rank, rank, 2, rank]
        assert (found["device"], found["alone"], found["sampler"]) == ("xla:0", "1", True)
        assert found["batches"] == 4  # of eight


def test_sums_and_parts_of_all_processes(ranks: list[dict[str, Any]]) -> None:
    for found in (part["place"] for part in ranks):
        assert found["reduced"] == {
            "mean": [0.5] * 3,
            "sum": [1.0] * 3,
            "min": [0.0] * 3,
            "max": [1.0] * 3,
        }
        assert found["gathered"] == [[1.0, 2.0]] * 2
        assert found["flags"] == [[False] * 3, [True] * 3]
        assert found["gradient"] == [3.0, 3.0]  # 1 of the first process, 2 of the second


@pytest.mark.parametrize("name", [name for name in xla_ranks.RUNS if name != "bfloat16"])
def test_learns_what_two_processes_of_ddp_learn(
    ranks: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    first, second = (part["trained"][name] for part in ranks)
    assert torch.equal(first["weights"], second["weights"])
    assert all(torch.equal(a, b) for a, b in zip(first["buffers"], second["buffers"], strict=True))
    make, arguments = xla_ranks.RUNS[name]
    module = make()
    run = trainer(tmp_path, max_epochs=2, accelerator="ddp_cpu", num_processes=2, **arguments)
    run.fit(module, loader(48, 4), loader(8, 2))
    assert torch.allclose(first["weights"], weights(module), **CLOSE)
    assert first["steps"] == second["steps"] == run.global_step
    for mine, theirs in zip(first["buffers"], module.buffers(), strict=True):
        # torch_xla keeps the variance of the batch where torch keeps the estimate of the data's.
        assert torch.allclose(mine.float(), theirs.float(), atol=0.5)
    if name == "validated":
        assert first["val_loss"] == second["val_loss"]
        assert first["val_loss"] == pytest.approx(float(run.callback_metrics["val_loss"]), rel=1e-5)


def test_half_precision_is_bfloat16(ranks: list[dict[str, Any]]) -> None:
    runs = ranks[0]["trained"]
    found, other = (part["trained"]["bfloat16"]["weights"] for part in ranks)
    assert torch.equal(found, other) and found.dtype == torch.float32
    assert runs["bfloat16"]["steps"] == runs["clipped"]["steps"]


def test_a_layer_that_one_process_goes_past_is_trained(ranks: list[dict[str, Any]]) -> None:
    first, second = (part["unused"] for part in ranks)
    assert torch.equal(first["weights"], second["weights"])
    assert first["moved"] and second["moved"]


def test_a_first_gradient_after_the_first_step_is_told_of(ranks: list[dict[str, Any]]) -> None:
    for part in ranks:
        assert "has its first gradient after the first step" in part["late"]["told"]
        assert "(1, 6)" in part["late"]["told"]


def test_a_killed_run_goes_on_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    for found in (part["resumed"] for part in ranks):
        assert found["losses"] and found["weights"] and all(found["buffers"])
        assert found["again"] > 0
    first, second = (part["resumed"]["first"] for part in ranks)
    assert first != second  # of shares of their own


# ------------------------------------------------------------------------ through the Trainer


def test_the_trainer_starts_the_processes_and_takes_back_what_they_made(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", save_last=True)
    module = Validated(adamw)
    run = trainer(
        tmp_path, max_epochs=2, callbacks=[saver], checkpoint_callback=True, **xla_ranks.SPAWN
    )
    assert (run.world_size, run.on_tpu, run.tpu_id) == (2, True, None)
    assert {"StepMark", "GradientAveraging"} <= {type(one).__name__ for one in run.handlers}
    run.fit(module, loader(24, 2), loader(8, 2))
    assert (run.global_step, run.current_epoch) == (12, 1)
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert len(module.losses) == 12 and module.losses[0].device.type == "cpu"
    assert Path(saver.best_model_path).exists()
    held = load(tmp_path / "last.ckpt")["state_dict"]
    assert torch.equal(torch.cat([value.flatten() for value in held.values()]), weights(module))
    expected = Validated(adamw)
    trainer(tmp_path, max_epochs=2).fit(expected, loader(24, 4), loader(8, 4))
    assert torch.allclose(weights(module), weights(expected), **CLOSE)
    found = torch.cat(run.predict(Predicting(), loader(8, 2)))
    assert torch.allclose(found, torch.stack([x for x, _ in loader(8).dataset]).sum(1))


class Predicting(Net):
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return batch[0].sum(1)


def test_an_error_in_one_process_is_raised_here(tmp_path: Path) -> None:
    class Failing(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_rank == 1 and batch_idx == 1:
                raise KeyError("no such thing")
            return super().training_step(batch, batch_idx)

    with pytest.raises(KeyError, match="no such thing"):
        trainer(tmp_path, max_epochs=1, **xla_ranks.SPAWN).fit(Failing(), loader(16, 2))


def test_one_core_needs_no_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CPU_NUM_DEVICES", "1")
    run = trainer(tmp_path, max_epochs=1, **xla_ranks.SPAWN)
    assert (run.world_size, run.strategy.launcher) == (1, None)
    assert type(run.strategy).__name__ == "XLAStrategy"


def test_processes_after_spmd_are_refused(tmp_path: Path) -> None:
    code = """
import torch_xla.runtime as xr
from tests.backends.xla_ranks import SPAWN, trainer
xr.use_spmd()
try:
    trainer(".", **SPAWN)
except ValueError as error:
    print(error)
except Exception as error:
    print(error)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=settings(2), capture_output=True, text=True)
    assert "driven all of them as one" in ended.stdout
