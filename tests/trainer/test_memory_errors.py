"""Memory that runs out in a run: the same error, with the place, the batch and what to try."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.trainer.tiny import Bare, Tiny, data, trainer


def told(error: BaseException) -> str:
    return "\n".join([*getattr(error, "__notes__", []), str(error)])


class Greedy(Tiny):
    """Asks for more than there is, in a step of one's choice."""

    def __init__(self, step: str, at: int = 2) -> None:
        super().__init__()
        self.greedy, self.at = step, at

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.ask("training", batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.ask("validation", batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.ask("test", batch_idx)

    def ask(self, step: str, batch_idx: int) -> None:
        if step == self.greedy and batch_idx == self.at:
            torch.empty(1 << 60)


def test_in_training() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        trainer(max_epochs=1, accumulate_grad_batches=2).fit(Greedy("training"), data(), data())
    assert type(caught.value) is RuntimeError
    found = told(caught.value)
    assert "memory ran out in training, at epoch 0, batch 2, on cpu" in found
    assert "the batch: [0] (4, 5) float32, [1] (4, 1) float32" in found
    assert "accumulate_grad_batches=4" in found and "auto_scale_batch_size=True" in found
    assert "bf16" not in found  # on a CPU that gains nothing
    assert found.count("memory ran out") == 1


def test_in_the_validation_of_fit() -> None:
    with pytest.raises(RuntimeError) as caught:
        trainer(max_epochs=1).fit(Greedy("validation", 1), data(), data(2))
    found = told(caught.value)
    assert "memory ran out in validation, at batch 1, on cpu" in found
    assert "a smaller batch_size for val_dataloader" in found
    assert found.count("memory ran out") == 1


def test_in_a_test_of_several_loaders() -> None:
    model = Greedy("test", 0)
    with pytest.raises(RuntimeError) as caught:
        trainer().test(model, [data(1), data(2)])
    assert "memory ran out in test, at loader 0, batch 0, on cpu" in told(caught.value)


def test_the_error_of_a_device() -> None:
    class Device(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run = trainer(max_epochs=1, accumulate_grad_batches={1: 4})
    run._run.strategy.root_device = torch.device("cuda:0")
    run._run.strategy.place = lambda model: None  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run.fit(Device(), data())
    found = told(caught.value)
    assert "on cuda:0" in found and 'precision="bf16"' in found
    assert "accumulate_grad_batches={0: 2} and so on" in found


def test_while_a_batch_is_made() -> None:
    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            raise MemoryError("no room for a row")

    loader: Any = torch.utils.data.DataLoader(Rows(), 2)
    with pytest.raises(MemoryError) as caught:
        trainer(max_epochs=1).fit(Bare(), loader)
    assert "none was at hand, it was being made" in told(caught.value)


def test_other_errors_are_left_alone() -> None:
    class Wrong(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError) as caught:
        trainer(max_epochs=1).fit(Wrong(), data())
    assert told(caught.value) == "of another kind"
