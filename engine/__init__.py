"""The event engine: knows nothing of Lightning, imports torch and ignite only."""

from leyden.engine.dispatch import Channel
from leyden.engine.engine import Engine
from leyden.engine.events import (
    CallableEventWithFilter,
    EventEnum,
    Events,
    EventsList,
    RemovableEventHandle,
    State,
    TrainerEvents,
)
from leyden.engine.filters import Filter
from leyden.engine.ignite_on_xla import mend
from leyden.engine.phases import IllegalMove, Move, Phase
from leyden.engine.records import Entry

__all__ = [
    "CallableEventWithFilter",
    "Channel",
    "Engine",
    "Entry",
    "EventEnum",
    "Events",
    "EventsList",
    "Filter",
    "IllegalMove",
    "Move",
    "Phase",
    "RemovableEventHandle",
    "State",
    "TrainerEvents",
]

mend()  # before the first engine is made: ignite's logger set-up is what fails without
