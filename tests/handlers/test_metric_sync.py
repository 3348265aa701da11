"""sync_dist over two real processes (gloo), and free of cost in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.metric_sync import is_writer, op_name, world_size
from tests.handlers.metrics_fakes import Run


def test_one_process_needs_no_collective() -> None:
    run = Run()
    run.batch(0)
    run.log("a", 1.0, on_step=True, on_epoch=True, sync_dist=True)
    run.log("b", 1.0, rank_zero_only=True)
    run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"a": 1.0, "a_step": 1.0, "a_epoch": 1.0, "b": 1.0}
    assert world_size() == 1 and is_writer()


@pytest.mark.parametrize(
    "op, name",
    [("mean", "mean"), ("avg", "mean"), (None, "mean"), ("SUM", "sum"), (dist.ReduceOp.MAX, "max")],
)
def test_operations_are_known_by_word_and_by_constant(op: Any, name: str) -> None:
    assert op_name(op, "a", "training_step") == name


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    calls = []
    original = dist.all_reduce

    def counted(*args: Any, **kw: Any) -> Any:
        calls.append(args[0].numel())
        return original(*args, **kw)

    dist.all_reduce = counted
    run = Run(log_every_n_steps=2)
    run.recorder.train_epoch_started()
    for i in range(2):
        run.batch(i, size=1 + 2 * rank)  # rank 0 sees 1 sample a batch, rank 1 three
        value = torch.tensor(float(rank + i))
        run.log("mean", value, on_step=True, on_epoch=True, sync_dist=True)
        run.log("sum", value, on_step=False, on_epoch=True, sync_dist=True, sync_dist_op="sum")
        run.log("number", float(rank), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        run.log("max", value, on_step=False, on_epoch=True, sync_dist=True, sync_dist_op="max")
        run.log("local", value, on_step=False, on_epoch=True)
        run.log("zero", 1.0, on_step=False, on_epoch=True, rank_zero_only=True)
        if i == 0 or rank == 0:
            run.log("some", value, on_step=False, on_epoch=True, sync_dist=True)
        run.recorder.train_batch_ended(write=True)
    steps = len(calls)
    run.recorder.train_epoch_ended(None)
    try:
        run.log("bad", 1.0, sync_dist=True, rank_zero_only=True)
        refused = False
    except MisconfigurationException:
        refused = True
    out = {
        "callback": run.metrics()["callback"],
        "rows": len(run.rows),
        "calls": [steps, len(calls)],
    }
    torch.save({**out, "refused": refused}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_in_one_call_a_boundary(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for rank, out in enumerate(ranks):
        callback = out["callback"]
        # the row of step 1 averages 1 and 2
        assert callback["mean_step"] == 1.5
        # weighted by samples: rank 0 saw 0 and 1 once, rank 1 saw 1 and 2 three times
        assert callback["mean_epoch"] == pytest.approx((0 + 1 + 3 * (1 + 2)) / 8)
        assert callback["sum"] == pytest.approx(0.5 + 1.5)
        assert callback["number"] == 0.5
        assert callback["max"] == 1.5
        assert callback["local"] == rank + 0.5
        # rank 1 logged it in one batch of two only: 3 samples beside rank 0's 2
        assert callback["some"] == pytest.approx((0 + 1 + 3 * 1) / 5)
        assert ("zero" in callback) == (rank == 0)
        assert out["refused"]
        # one for the due row; at the epoch's end one for sums and means, one for the maximum
        assert out["calls"] == [1, 3]
        assert out["rows"] == (2 if rank == 0 else 0)
