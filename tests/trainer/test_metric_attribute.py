"""``self.log(metric_attribute=...)``: metric objects that are no attributes are saved by path."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.engine.errors import MisconfigurationException
from tests.handlers.test_metric_objects import Share
from tests.trainer.tiny import BATCHES, Bare, data, trainer

PATHS = ["scores.train.0", "helper.score"]


class Hidden(Bare):
    """Logs metric objects that hang in a dict of lists, and on an object of another kind."""

    def __init__(self, paths: list[str] | None = None, stop_at: int = -1) -> None:
        super().__init__()
        self.scores = {"train": [Share()]}
        self.helper = SimpleNamespace(score=Share())
        self.paths = paths or [None, None]  # type: ignore[list-item]
        self.stop_at = stop_at

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(batch, batch_idx)
        right = torch.tensor([batch_idx % 3, batch_idx % 2])
        for name, metric, path in zip(
            ("one", "two"), (self.scores["train"][0], self.helper.score), self.paths, strict=True
        ):
            metric.update(right, torch.tensor([0, 0]))
            self.log(name, metric, metric_attribute=path)
        return loss

    def on_train_batch_end(self, *rest: Any) -> None:
        if rest[-2] == self.stop_at:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/middle.ckpt")


def values(made: Any) -> dict[str, float]:
    return {name: float(made.callback_metrics[name]) for name in ("one", "two")}


def test_a_resumed_epoch_ends_with_the_same_values(tmp_path: Path) -> None:
    whole = trainer(tmp_path, max_epochs=1)
    whole.fit(Hidden(PATHS, stop_at=3), data())
    assert values(whole) == {"one": pytest.approx(5 / 12), "two": pytest.approx(5 / 12)}
    again = trainer(tmp_path, max_epochs=1, resume_from_checkpoint=str(tmp_path / "middle.ckpt"))
    model = Hidden(PATHS)
    again.fit(model, data())
    assert values(again) == values(whole)
    assert again.engine.state.iteration == BATCHES


def test_without_it_a_checkpoint_says_what_is_lost(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="metric_attribute='path'") as told:
        made.fit(Hidden(stop_at=3), data())
    texts = [str(one.message) for one in told]
    assert len(texts) == 2 and "Share that training_step logs as 'one'" in texts[0]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("scores.train.1", "is not found there"),
        ("scores.test.0", "is not found there"),
        ("helper.score", "is not found there"),
        ("scores.train.first", "is not found there"),
        ("nothing", "is not found there"),
        (3, "metric_attribute=3"),
    ],
)
def test_a_wrong_path_is_refused(path: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        trainer(tmp_path, max_epochs=1).fit(Hidden([path, "helper.score"]), data())


def test_a_number_has_no_attribute(tmp_path: Path) -> None:
    class Number(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("number", 1.0, metric_attribute="net")
            return super().training_step(batch, batch_idx)

    with pytest.raises(MisconfigurationException, match="the value is a float, and only metric"):
        trainer(tmp_path, max_epochs=1).fit(Number(), data())
