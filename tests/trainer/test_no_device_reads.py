"""Between two log steps nothing is read from the device: no value of a tensor reaches Python."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import leyden
from tests.trainer.tiny import Tiny, data

ITERATIONS = 40
READS = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.cpu,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
    torch.Tensor.__index__,
    torch.Tensor.__array__,
    torch.Tensor.__format__,
    torch.Tensor.__repr__,
    torch.Tensor.nonzero,
}


class Reads(TorchFunctionMode):
    """Counts what would wait for a device, had the tensors been on one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        moved = func is torch.Tensor.to and "cpu" in [a for a in args if isinstance(a, str)]
        if func in READS or moved:
            self.seen[getattr(func, "__name__", str(func))] += 1
        return func(*args, **(kwargs or {}))


class Watched(Tiny):
    """Counts from the first training step of an epoch to the last one."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads
        self.counted: Counter[str] = Counter()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 0:
            self.reads.seen.clear()
        if batch_idx == ITERATIONS - 1:
            self.counted = self.reads.seen.copy()
        return super().training_step(batch, batch_idx)


def test_the_counter_counts() -> None:
    x = torch.ones(1)
    with Reads() as reads:
        float(x), x.item(), bool(x), x.tolist(), x.detach().numpy(), x.cpu(), int(x), x.to("cpu")
        x + 1
    assert sum(reads.seen.values()) == 8, reads.seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"gradient_clip_val": 0.5},
        {"accumulate_grad_batches": 4},
        {"profiler": "trace"},
        {"track_grad_norm": 2},
    ],
    ids=lambda given: next(iter(given), "default"),
)
def test_no_reads_between_log_steps(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """With everything that is on by default: loggers, checkpoints, the progress bar, the cost."""
    reads = Reads()
    model = Watched(reads)
    made = leyden.Trainer(default_root_dir=str(tmp_path), max_epochs=1, **arguments)
    names = {type(handler).__name__ for handler in made.handlers}
    assert {"ProgressBar", "LoggerFlush", "ModelCheckpoint", "SummaryPrinter"} <= names
    with reads:
        made.fit(model, list(data(ITERATIONS)), [list(data(2))])
    assert made.engine.state.iteration == ITERATIONS
    assert not model.counted, f"read from the device: {dict(model.counted)}"
    assert reads.seen, "at the epoch's end they are read, all at once"


@pytest.mark.gpu
def test_no_reads_on_a_real_device(tmp_path: Path) -> None:
    """The driver itself says where somebody waits; the fit runs on the device by hand."""
    from leyden.handlers import GradientClipping
    from tests.handlers.small_runs import Small

    small = Small(GradientClipping(0.5))
    small.model.cuda()
    batches = [torch.randn(3, 2, device="cuda") for _ in range(ITERATIONS)]
    small.engine.run(batches[:2], max_epochs=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        small.engine.state.max_epochs = None
        small.engine.run(batches, max_epochs=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(small.weights).all()
