"""LoggerGuard: a logger that fails is said loudly, tried again, suspended; the run goes on."""

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from leyden.handlers.loggers import LightningLoggerBase, LoggerGuard


class Flaky(LightningLoggerBase):
    """Fails while `down`; keeps what it was given otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.down: Exception | None = None
        self.calls: list[Any] = []
        self.tries = 0

    def _call(self, call: Any) -> None:
        self.tries += 1
        if self.down is not None:
            raise self.down
        self.calls.append(call)

    @property
    def experiment(self) -> None:
        return None

    name = "flaky"  # type: ignore[assignment]
    version = 0  # type: ignore[assignment]

    def agg_and_log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.log_metrics(metrics, step)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._call((dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._call(params)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        self._call("graph")

    def save(self) -> None:
        self._call("save")

    def finalize(self, status: str) -> None:
        self._call(status)

    def close(self) -> None:
        self._call("close")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_stands_out_while_all_is_well(clock: Clock) -> None:
    logger = Flaky()
    guard = LoggerGuard(logger, clock=clock)
    guard.log_hyperparams({"a": 1})
    guard.log_metrics({"x": torch.tensor(1.0)}, 1)
    guard.agg_and_log_metrics({"x": 2.0}, 2)
    guard.agg_and_log_metrics({"x": 3.0}, 3)
    guard.log_graph(None)
    guard.save()
    guard.finalize("success")
    guard.close()
    assert logger.calls[:3] == [{"a": 1}, ({"x": 1.0}, 1), ({"x": 2.0}, 2)]
    assert logger.calls[3:] == [({"x": 3.0}, 3), "graph", "save", "success", "close"]


def test_a_short_outage_loses_nothing(clock: Clock) -> None:
    logger = Flaky()
    guard = LoggerGuard(logger, wait=10.0, clock=clock)
    guard.log_metrics({"x": 0.0}, 0)
    logger.down = OSError(28, "No space left on device")
    with pytest.warns(UserWarning, match="Flaky failed in log_metrics: OSError.*No space left"):
        guard.log_metrics({"x": torch.tensor(1.0)}, 1)
    tries = logger.tries
    guard.log_metrics({"x": 2.0}, 2)  # too early: kept without a try
    guard.save()
    assert logger.tries == tries
    clock.now = 10.0
    with pytest.warns(UserWarning, match="2 calls are kept|3 calls are kept"):
        guard.log_metrics({"x": 3.0}, 3)
    logger.down = None
    clock.now = 29.9
    guard.log_metrics({"x": 4.0}, 4)
    assert len(logger.calls) == 1
    clock.now = 30.0
    with pytest.warns(UserWarning, match="works again after 2 failed tries; nothing is lost"):
        guard.save()
    assert logger.calls == [({"x": float(i)}, i) for i in range(5)] + ["save"]
    guard.log_metrics({"x": 5.0}, 5)
    assert logger.calls[-1] == ({"x": 5.0}, 5)


def test_a_dead_logger_is_suspended_and_says_what_is_lost(clock: Clock) -> None:
    logger = Flaky()
    guard = LoggerGuard(logger, retries=1, wait=1.0, clock=clock)
    logger.down = ConnectionError("refused")
    with pytest.warns(UserWarning, match="1 more failures suspend"):
        guard.log_metrics({"x": 0.0}, 0)
    clock.now = 1.0
    with pytest.warns(UserWarning, match="failed 2 times.*suspended.*2 calls are kept"):
        guard.log_metrics({"x": 1.0}, 1)
    assert guard.suspended
    tries = logger.tries
    clock.now = 1000.0
    guard.log_metrics({"x": 2.0}, 2)
    guard.save()
    assert logger.tries == tries
    with pytest.warns(UserWarning, match="at the end of the run: Conn.*; 3 calls are lost"):
        guard.finalize("success")
    logger.down = None
    guard.log_metrics({"x": 9.0}, 9)  # the next run with this logger tries anew
    assert logger.calls == [({"x": 9.0}, 9)] and not guard.suspended


def test_the_end_brings_back_what_was_kept(clock: Clock) -> None:
    logger = Flaky()
    guard = LoggerGuard(logger, retries=0, clock=clock)
    logger.down = ConnectionError("refused")
    with pytest.warns(UserWarning, match="suspended"):
        guard.log_metrics({"x": 0.0}, 0)
    logger.down = None
    with pytest.warns(UserWarning, match="works again after 1 failed tries; nothing is lost"):
        guard.finalize("success")
    assert logger.calls == [({"x": 0.0}, 0), "success"]


def test_only_so_much_is_kept(clock: Clock) -> None:
    logger = Flaky()
    guard = LoggerGuard(logger, keep=2, wait=1.0, clock=clock)
    logger.down = OSError("down")
    with pytest.warns(UserWarning):
        guard.log_metrics({"x": 0.0}, 0)
    for step in (1, 2):
        guard.log_metrics({"x": 1.0}, step)
    logger.down = None
    clock.now = 1.0
    with pytest.warns(UserWarning, match="works again after 1 failed tries; 2 calls are lost"):
        guard.log_metrics({"x": 1.0}, 3)
    assert [step for _, step in logger.calls] == [2, 3]


@pytest.mark.parametrize("error", [TypeError("t"), ValueError("v"), AttributeError("a")])
def test_mistakes_are_raised(error: Exception, clock: Clock) -> None:
    logger = Flaky()
    logger.down = error
    guard = LoggerGuard(logger, clock=clock)
    with warnings.catch_warnings(), pytest.raises(type(error)):
        guard.log_metrics({"x": 0.0}, 0)
    with pytest.raises(ValueError, match="'x' is a tensor of shape"):
        guard.log_metrics({"x": torch.ones(2)}, 0)


def test_an_interrupt_is_no_failure(clock: Clock) -> None:
    class Stopped(Flaky):
        def save(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LoggerGuard(Stopped(), clock=clock).save()


def test_a_graph_that_fails_is_said_once(clock: Clock) -> None:
    logger = Flaky()
    guard = LoggerGuard(logger, clock=clock)
    logger.down = RuntimeError("cannot trace")
    with pytest.warns(UserWarning, match="model's graph: RuntimeError: cannot trace"):
        guard.log_graph(None)
    logger.down = None
    guard.log_metrics({"x": 1.0}, 1)
    assert logger.calls == [({"x": 1.0}, 1)]


def test_bad_arguments() -> None:
    for kwargs in ({"retries": -1}, {"wait": -1.0}, {"keep": 0}):
        with pytest.raises(ValueError, match="is too small"):
            LoggerGuard(Flaky(), **kwargs)  # type: ignore[arg-type]


def test_a_row_goes_to_the_gathering_that_a_logger_writes_itself() -> None:
    class Gathers(Flaky):
        def agg_and_log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
            self._call(("gathered", dict(metrics), step))

    gathers = Gathers()
    guard = LoggerGuard(gathers)
    guard.log_row({"a": 1.0}, 3)
    assert gathers.calls == [("gathered", {"a": 1.0}, 3), "save"]
    assert guard.dirty

    class Plain(Flaky):
        agg_and_log_metrics = LightningLoggerBase.agg_and_log_metrics

    plain = Plain()
    LoggerGuard(plain).log_row({"a": 1.0}, 3)
    assert plain.calls == [({"a": 1.0}, 3)]
