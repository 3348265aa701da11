"""A position, a logger and short calls for the tests of the metric recorder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from leyden.handlers.metrics import MetricRecorder


def position(**kw: Any) -> SimpleNamespace:
    given = dict(epoch=1, iteration=1, batch=None, batch_idx=0, global_step=0)
    return SimpleNamespace(**{**given, "optimizer_idx": None, "split_idx": None, **kw})


class Rows:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, Any], int]] = []

    def log_row(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert step is not None
        assert all(isinstance(v, (int, float)) for v in metrics.values()), metrics
        self.rows.append((dict(metrics), step))


class Run:
    """A recorder with its position and logger, driven as a training loop drives it."""

    def __init__(self, **kw: Any) -> None:
        self.state = position()
        self.logger = Rows()
        args: dict[str, Any] = dict(log_every_n_steps=1, logger=self.logger)
        self.recorder = MetricRecorder(**{**args, **kw})
        self.recorder.bind(self.state)

    @property
    def rows(self) -> list[tuple[dict[str, Any], int]]:
        return self.logger.rows

    def log(self, name: Any, value: Any, hook: str | None = "training_step", **kw: Any) -> None:
        self.recorder.hook = hook
        args: dict[str, Any] = dict(
            prog_bar=False, logger=True, on_step=None, on_epoch=None, reduce_fx=torch.mean,
            enable_graph=False, sync_dist=False, sync_dist_op="mean", sync_dist_group=None,
            add_dataloader_idx=True, batch_size=None, rank_zero_only=False,
        )  # fmt: skip
        assert not set(kw) - set(args)
        self.recorder.log(None, name, value, *{**args, **kw}.values())
        self.recorder.hook = None

    def batch(self, i: int, size: int = 2) -> None:
        self.state.batch = (torch.zeros(size, 3), torch.zeros(size))
        self.state.batch_idx = i
        self.state.global_step = i

    def metrics(self) -> dict[str, dict[str, Any]]:
        r = self.recorder
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in r.callback_metrics.items()}
        return {
            "callback": plain,
            "logged": dict(r.logged_metrics),
            "progress_bar": dict(r.progress_bar_metrics),
        }

    def evaluate(self, stage: str, loaders: list[list[Any]], log: Any, end: Any = None) -> Any:
        """An evaluation run over loaders of batches; `log(batch_idx, loader_idx)` is the step."""
        self.recorder.eval_started(stage, len(loaders))
        for d, loader in enumerate(loaders):
            for i, batch in enumerate(loader):
                self.recorder.eval_batch_started(batch, i, d)
                log(i, d)
                self.recorder.eval_batch_ended()
        results = self.recorder.eval_epoch_ended(end() if end else None)
        self.recorder.eval_finished()
        return results
