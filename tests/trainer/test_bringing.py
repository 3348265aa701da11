"""What happens to a batch on its way to the device, and when copies get a stream of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden import bringing
from leyden.backends.strategies import Strategy
from leyden.bringing import Bringing
from tests.trainer.tiny import BATCHES, Bare, data, trainer, weights


class Copy:
    """Stands in for the copy on a stream of its own."""

    def __init__(self, device: torch.device, move: Any, tensors: Any) -> None:
        self.device = device

    def begin(self, batch: Any) -> tuple[str, Any]:
        return "begun", batch

    def finish(self, begun: tuple[str, Any]) -> Any:
        assert begun[0] == "begun"
        return f"{begun[1]} on {self.device}"


@pytest.fixture(autouse=True)
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringing, "SideCopy", Copy)


def way(
    model: Any, device: str = "cuda:0", datamodule: Any = None, strategy: Any = None
) -> Bringing:
    model._device = torch.device(device)
    used = strategy or Strategy()
    return Bringing(SimpleNamespace(model=model, datamodule=datamodule, strategy=used))


def test_on_a_cpu_nothing_is_called() -> None:
    plain = way(Bare(), "cpu")
    assert plain.whole() is None and plain.of_feed([1]) == {"transfer": None}


def test_on_a_gpu_batches_have_a_stream_and_a_head_start_where_workers_load() -> None:
    found = way(Bare())
    whole = found.whole()
    assert whole is not None and whole("batch") == "batch on cuda:0"
    parts = found.of_feed(data())
    assert parts["ahead"] is False
    assert parts["transfer"](parts["stage"]("batch")) == "batch on cuda:0"
    loaded: DataLoader[Any] = DataLoader(torch.ones(4), num_workers=1)  # type: ignore[arg-type]
    assert found.of_feed(loaded)["ahead"] is True
    assert found.of_feed([1, 2])["ahead"] is False
    # One stream for a run, however often it is asked for.
    assert len(found._copies) == 1


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device"])
@pytest.mark.parametrize("owner", ["module", "data module"])
def test_a_hook_that_must_see_the_batch_first_has_no_stream_beside_it(
    hook: str, owner: str
) -> None:
    def own(self: Any, batch: Any, *rest: Any) -> str:
        return f"{batch} by {hook}"

    if owner == "module":
        found = way(type("Own", (Bare,), {hook: own})())
    else:
        module = type("Data", (leyden.LightningDataModule,), {hook: own})()
        found = way(Bare(), datamodule=module)
    parts = found.of_feed(DataLoader(torch.ones(4), num_workers=1))  # type: ignore[arg-type]
    assert set(parts) == {"transfer"}
    whole = found.whole()
    assert whole is not None and whole("batch") == parts["transfer"]("batch") == f"batch by {hook}"
    assert not found._copies


def test_what_comes_after_the_copy_sees_the_batch_on_the_device() -> None:
    class After(Bare):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return f"{batch}, then loader {dataloader_idx}"

    parts = way(After()).of_feed(data())
    assert parts["transfer"](parts["stage"]("batch")) == "batch on cuda:0, then loader 0"
    whole = way(After(), "cpu").whole()
    assert whole is not None and whole("batch") == "batch, then loader 0"


def test_a_strategy_spreads_what_is_on_the_device() -> None:
    class Spreading(Strategy):
        def split_batch(self, batch: Any) -> Any:
            return f"{batch}, spread"

    whole = way(Bare(), strategy=Spreading()).whole()
    assert whole is not None and whole("batch") == "batch on cuda:0, spread"
    whole = way(Bare(), strategy=Strategy()).whole()
    assert whole is not None and whole("batch") == "batch on cuda:0"


@pytest.mark.parametrize("ahead", [False, True])
def test_weights_are_the_same_by_way_of_the_stage(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a copy between loader and step change no number, one batch ahead or not."""

    def trained() -> torch.Tensor:
        model = Bare()
        trainer(max_epochs=2, accumulate_grad_batches=2).fit(model, data(shuffle=True))
        return weights(model)

    plain = trained()
    begun: list[Any] = []
    parts = {
        "stage": lambda batch: begun.append(batch) or batch,
        "transfer": lambda batch: batch,
        "ahead": ahead,
    }
    monkeypatch.setattr(Bringing, "of_feed", lambda self, loader: parts)
    assert torch.equal(trained(), plain)
    assert len(begun) == 2 * BATCHES
