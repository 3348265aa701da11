"""The event engine: knows nothing of Lightning, imports torch and ignite only."""

from leyden.engine.dispatch import Channel, Entry
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
from leyden.engine.phases import IllegalMove, Move, Phase

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
