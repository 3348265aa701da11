"""Count what one process sends in a run of many: a process group that counts, and answers itself.

    python tools/messages.py            print the table
    python tools/messages.py --page     put it into docs/distributed.md

Everything runs as in a real run of that many processes, but for the network: each message is
counted, and answered with what this process sent.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PAGE = Path(__file__).parent.parent / "docs" / "distributed.md"
BATCH, BATCHES = 4, 8
SIZES = (2, 64, 1024)


def _done(value: Any) -> Any:
    future: Any = torch.futures.Future()
    future.set_result(value)
    work: Any = getattr(torch._C, "_distributed_c10d")  # noqa: B009  # no stubs
    return work._create_work_from_future(future)


# The methods are called with what torch's own take, in several shapes each.
_Group: Any = dist.ProcessGroup


class Counting(_Group):
    """Answers as if all processes sent what this one sends.

    Attributes:
        calls: messages by kind.
        volume: bytes that this process sent, by kind.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.calls: Counter[str] = Counter()
        self.volume: Counter[str] = Counter()

    def _count(self, kind: str, tensors: Any) -> None:
        self.calls[kind] += 1
        self.volume[kind] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def allreduce(self, tensors: Any, opts: Any = None) -> Any:
        self._count("all-reduce", tensors)
        return _done(tensors)

    def broadcast(self, tensors: Any, opts: Any = None) -> Any:
        self._count("broadcast", tensors)
        return _done(tensors)

    def allgather(self, output_tensors: Any, input_tensors: Any, opts: Any = None) -> Any:
        self._count("all-gather", input_tensors)
        for row, mine in zip(output_tensors, input_tensors, strict=True):
            for place in row:
                place.copy_(mine)
        return _done(output_tensors)

    def gather(self, output_tensors: Any, input_tensors: Any, opts: Any = None) -> Any:
        self._count("gather", input_tensors)
        for row, mine in zip(output_tensors, input_tensors, strict=False):
            for place in row:
                place.copy_(mine)
        return _done(output_tensors)

    def barrier(self, opts: Any = None) -> Any:
        self._count("barrier", ())
        return _done(None)

    def getBackendName(self) -> str:
        return "counting"

    def size(self) -> int:
        return int(super().size())


def counted(size: int, **arguments: Any) -> Counting:
    """Train two epochs as one process of ``size``, and return what the second one sent."""
    import leyden
    from leyden.backends.environments import Environment
    from leyden.backends.strategies import DDPStrategy, ProcessStrategy
    from leyden.engine import Events

    class Net(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.layers(batch[0]).square().mean()
            for name in ("loss", "a", "b", "c"):
                self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.layers(batch[0]).square().mean(), sync_dist=True)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    group: Any = None

    def make(store: Any, rank: int, world: int, timeout: Any) -> Counting:
        nonlocal group
        group = Counting(rank, world)
        return group

    dist.Backend.register_backend("counting", make, devices=["cpu"])
    dist.init_process_group("counting", rank=0, world_size=size, store=dist.HashStore())
    ProcessStrategy._controls = (dist.group.WORLD, dist.group.WORLD)
    try:
        strategy = DDPStrategy(
            "cpu", Environment("group", 0, 0, 0, size), find_unused_parameters=False
        )
        trainer = leyden.Trainer(
            max_epochs=2,
            plugins=strategy,
            logger=False,
            checkpoint_callback=False,
            progress_bar_refresh_rate=0,
            weights_summary=None,
            num_sanity_val_steps=0,
            **arguments,
        )
        before: list[Any] = []

        def note(engine: Any) -> None:
            before[:] = [group.calls.copy(), group.volume.copy()]

        trainer.engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), note)
        samples = TensorDataset(torch.zeros(size * BATCH * BATCHES, 64))
        few = TensorDataset(torch.zeros(size * BATCH * 2, 64))
        trainer.fit(Net(), DataLoader(samples, BATCH), DataLoader(few, BATCH))
        group.calls.subtract(before[0])
        group.volume.subtract(before[1])
        return group
    finally:
        dist.destroy_process_group()
        ProcessStrategy._controls = (None, None)


def table() -> str:
    """The messages of one epoch, for several numbers of processes."""
    rows = [
        "| processes | accumulated | all-reduce | bytes | all-gather | broadcast | other |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in SIZES:
        for factor in (1, 4):
            group = counted(size, accumulate_grad_batches=factor)
            other = sum(group.calls[kind] for kind in ("gather", "barrier"))
            calls, volume = group.calls, group.volume
            rows.append(
                f"| {size:,} | {factor} | {calls['all-reduce']} | {volume['all-reduce']:,} | "
                f"{calls['all-gather']} | {calls['broadcast']} | {other} |"
            )
    return "\n".join(rows)


def main() -> int:
    """Print the table, or put it between its marks on the page."""
    warnings.simplefilter("ignore")
    text = table()
    if "--page" not in sys.argv:
        print(text)
        return 0
    page = PAGE.read_text(encoding="utf-8")
    marks = r"(<!-- messages -->\n).*?(\n<!-- end of messages -->)"
    PAGE.write_text(
        re.sub(marks, lambda m: m[1] + text + m[2], page, flags=re.DOTALL), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
