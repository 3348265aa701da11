"""The table that is printed when training begins."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.summary_printer import SummaryPrinter


def engine_with(**state: Any) -> Engine:
    engine = Engine(lambda engine, batch: None)
    for name, value in state.items():
        setattr(engine.state, name, value)
    return engine


MODEL = nn.Sequential(nn.Sequential(nn.Linear(2, 3)))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({}, ["Sequential"]),
        ({"mode": "top"}, ["Sequential"]),
        ({"mode": "full"}, ["Sequential", "Linear"]),
        ({"max_depth": 2}, ["Sequential", "Linear"]),
        ({"max_depth": 0}, []),
    ],
)
def test_it_prints_the_table_once_a_run(arguments: dict[str, Any], shown: list[str]) -> None:
    texts: list[str] = []
    engine = engine_with(model=MODEL)
    SummaryPrinter(**arguments, write=texts.append).attach(engine)
    engine.run([0, 1], max_epochs=2)
    assert len(texts) == 1
    assert [word for word in ("Sequential", "Linear") if word in texts[0]] == shown
    assert "9         Total params" in texts[0]


def test_a_training_run_has_an_event_of_its_own() -> None:
    texts: list[str] = []
    engine = engine_with(model=MODEL)
    engine.register_events(*TrainerEvents)
    printer = SummaryPrinter(write=texts.append)
    printer.attach(engine)
    engine.run([0])
    assert not texts
    engine.fire_event(TrainerEvents.PRETRAIN_STARTED)
    assert len(texts) == 1
    printer.detach()
    engine.fire_event(TrainerEvents.PRETRAIN_STARTED)
    assert len(texts) == 1 and not engine.has_event_handler(printer.show, Events.STARTED)


def test_only_rank_zero_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for zero in (False, True):
        engine = engine_with(trainer=SimpleNamespace(is_global_zero=zero))
        SummaryPrinter(model=MODEL).attach(engine)
        engine.run([0])
        assert bool(capsys.readouterr().out) is zero


@pytest.mark.parametrize(
    "arguments", [{"mode": "half"}, {"mode": "top", "max_depth": 1}, {"max_depth": -3}]
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException):
        SummaryPrinter(**arguments)


def test_a_missing_model_is_named() -> None:
    engine = engine_with()
    SummaryPrinter().attach(engine)
    with pytest.raises(MisconfigurationException, match=r"set engine\.state\.model"):
        engine.run([0])
