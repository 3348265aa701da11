"""Copies on a stream of their own: with streams that are made up, then with real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from leyden.backends.side_copy import SideCopy
from leyden.transfer import move_to_device, tensors_of


class Event:
    """Done when its stream has come so far."""

    def __init__(self, stream: Stream, position: int) -> None:
        self.stream, self.position = stream, position


class Stream:
    """Work that waits until somebody waits for it, as a device's does."""

    def __init__(self, device: Any = None) -> None:
        self.work: list[Any] = []
        self.waited: list[Event] = []

    def record_event(self) -> Event:
        return Event(self, len(self.work))

    def wait_event(self, event: Event) -> None:
        self.waited.append(event)
        while event.stream.work[: event.position]:
            event.stream.work.pop(0)()
            event.position -= 1


class Cuda:
    """As much of ``torch.cuda`` as is asked for."""

    Stream = Stream

    def __init__(self) -> None:
        self.now = Stream()

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def current_stream(self, device: Any) -> Stream:
        return self.now


class Late(torch.Tensor):
    """A tensor that says which streams use its memory."""

    users: list[Any]

    def record_stream(self, stream: Any) -> None:
        self.users.append(stream)


def device_of(cuda: Cuda) -> Any:
    """A move whose copies are made when the stream gets there, not before."""

    def move(batch: Any, device: Any) -> Any:
        moved = []
        for source in batch:
            target = torch.full_like(source, float("nan")).as_subclass(Late)
            target.users = []
            cuda.now.work.append(lambda target=target, source=source: target.copy_(source))
            moved.append(target)
        return moved

    return move


def test_a_batch_is_there_when_it_is_taken_and_not_before() -> None:
    cuda = Cuda()
    copy = SideCopy("cpu", device_of(cuda), tensors_of, cuda=cuda)
    first, second = ([torch.full((2,), float(n)), torch.ones(1) * n] for n in (1, 2))
    begun, next_begun = copy.begin(first), copy.begin(second)
    assert all(bool(tensor.isnan().all()) for tensor in (*begun[0], *next_begun[0]))
    assert cuda.now.work == []  # nothing of it is on the stream that computes
    taken = copy.finish(begun)
    assert [tensor.tolist() for tensor in taken] == [[1.0, 1.0], [1.0]]
    assert bool(next_begun[0][0].isnan().all())
    assert [tensor.users for tensor in taken] == [[cuda.now], [cuda.now]]
    assert [tensor.tolist() for tensor in copy.finish(next_begun)] == [[2.0, 2.0], [2.0]]
    assert len(cuda.now.waited) == 2


def test_what_moves_itself_is_moved_where_it_is_computed() -> None:
    class Graph:
        def to(self, device: Any) -> str:
            return "moved"

    def never(device: Any) -> Any:
        raise AssertionError("a stream was made")

    cuda = Cuda()
    cuda.Stream = never  # type: ignore[assignment]
    copy = SideCopy("cpu", move_to_device, tensors_of, cuda=cuda)
    batch = [Graph(), torch.ones(2)]
    assert tensors_of(batch) is None
    assert copy.finish(copy.begin(batch))[0] == "moved"


@pytest.mark.gpu
def test_the_copy_overlaps_with_what_was_launched_before_it() -> None:
    copy = SideCopy("cuda", move_to_device, tensors_of)
    a = torch.randn(4096, 4096, device="cuda")
    batch = torch.randn(64 << 20).pin_memory()
    began, copied, computed = (torch.cuda.Event(enable_timing=True) for _ in range(3))

    def compute() -> None:
        for _ in range(40):
            a.mm(a)

    compute()  # the first use of a kernel loads it
    copy.finish(copy.begin(batch))
    torch.cuda.synchronize()
    began.record()
    compute()
    computed.record()
    begun = copy.begin(batch)
    copy._stream.record_event(copied)
    moved = copy.finish(begun)
    torch.cuda.synchronize()
    assert torch.equal(moved.cpu(), batch)
    print(
        f"computed after {began.elapsed_time(computed):.2f} ms, "
        f"copied after {began.elapsed_time(copied):.2f} ms"
    )
    # Launched later, on its own stream: it does not wait for the end of the computation.
    assert began.elapsed_time(copied) < began.elapsed_time(computed)


@pytest.mark.gpu
def test_copies_do_not_wait_for_the_device() -> None:
    copy = SideCopy("cuda", move_to_device, tensors_of)
    batches = [torch.full((1 << 16,), float(n)).pin_memory() for n in range(20)]
    copy.finish(copy.begin(batches[0]))
    torch.cuda.synchronize()
    sums = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            sums.append(copy.finish(copy.begin(batch)).sum())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [float(total) for total in sums] == [float(n) * (1 << 16) for n in range(20)]
