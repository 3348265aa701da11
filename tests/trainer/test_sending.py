"""Pickles by value, with names for what the reader has of its own."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import pytest

import leyden
from leyden.engine.errors import MisconfigurationException
from leyden.sending import Late, dumps, loads


def test_known_objects_are_those_of_the_reader() -> None:
    mine, yours = object(), object()
    blob = dumps({"it": mine, "again": [mine], "other": 3}, {"thing": mine})
    found = loads(blob, {"thing": yours})
    assert found["it"] is yours and found["again"][0] is yours and found["other"] == 3


def test_a_callback_arrives_without_the_engines_it_listens_on() -> None:
    callback = leyden.callbacks.EarlyStopping(monitor="v")
    leyden.Trainer(callbacks=callback, logger=False, checkpoint_callback=False)
    assert callback.attached
    assert not loads(dumps(callback, {}), {}).attached


def test_a_module_that_no_path_leads_to_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    home = ModuleType("nowhere_to_be_found")
    exec("class Thing:\n    size = 3\n", home.__dict__)
    monkeypatch.setitem(sys.modules, home.__name__, home)
    blob = dumps(home.Thing(), {})
    monkeypatch.delitem(sys.modules, home.__name__)
    assert loads(blob, {}).size == 3


def test_a_module_that_a_path_leads_to_goes_by_its_name() -> None:
    blob = dumps(leyden.Callback, {})
    assert loads(blob, {}) is leyden.Callback and len(blob) < 200


def test_only_the_trainer_itself_is_there_while_it_is_made() -> None:
    late = Late("the trainer")
    assert late["trainer"] == "the trainer"
    with pytest.raises(MisconfigurationException, match="the Trainer's engine"):
        _ = late["engine"]


def test_what_cannot_be_pickled_raises() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        dumps(sys._getframe(), {})
