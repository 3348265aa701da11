"""The attribute that tuning writes to: on the module, in its hparams, on the data module."""

from collections.abc import MutableMapping
from typing import Any

from leyden.engine.errors import MisconfigurationException

__all__ = ["TunedAttribute"]


class TunedAttribute:
    """One value under its name, wherever it is kept; :meth:`set` writes it to all of these places.

    Args:
        name: the attribute; with dots, ``"hparams.optim.lr"``, the way to it from the module.
        places: ``(owner, key)``: an object and its attribute, or a mapping and its key.
    """

    def __init__(self, name: str, places: list[tuple[Any, str]]) -> None:
        self.name = name
        self.places = places

    @classmethod
    def find(cls, model: Any, datamodule: Any, *names: str) -> "TunedAttribute | None":
        """Look for the first of ``names`` that exists; None if none does.

        Raises:
            MisconfigurationException: it exists, and cannot be set.
        """
        for name in names:
            places = _dotted(model, name) if "." in name else _places(model, datamodule, name)
            for owner, key in places:
                found = getattr(type(owner), key, None)
                if isinstance(found, property) and found.fset is None and not _is_mapping(owner):
                    raise MisconfigurationException(
                        f"{type(owner).__name__}.{key} is a property without a setter, so tuning "
                        "cannot write to it: give it one, or make it an attribute"
                    )
            if places:
                return cls(name, places)
        return None

    @property
    def value(self) -> Any:
        """The value at the first place."""
        owner, key = self.places[0]
        return owner[key] if _is_mapping(owner) else getattr(owner, key)

    @property
    def doubled(self) -> bool:
        """Whether several places keep a value, and the values differ."""
        values = [
            owner[key] if _is_mapping(owner) else getattr(owner, key) for owner, key in self.places
        ]
        return any(value != values[0] for value in values[1:])

    @property
    def in_hparams_too(self) -> bool:
        """Whether an object and its hparams both keep it, with one value or with two."""
        first = self.places[0][0]
        hparams = None if _is_mapping(first) else getattr(first, "hparams", None)
        return any(owner is hparams for owner, _ in self.places[1:])

    def set(self, value: Any) -> None:
        """Write to every place."""
        for owner, key in self.places:
            if _is_mapping(owner):
                owner[key] = value
            else:
                setattr(owner, key, value)


def _places(model: Any, datamodule: Any, name: str) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for owner in (model, datamodule):
        if owner is None:
            continue
        if hasattr(owner, name):
            found.append((owner, name))
        hparams: Any = getattr(owner, "hparams", None)
        if _is_mapping(hparams) and name in hparams:
            found.append((hparams, name))
        elif hparams is not None and not _is_mapping(hparams) and hasattr(hparams, name):
            found.append((hparams, name))
    return found


def _dotted(model: Any, name: str) -> list[tuple[Any, str]]:
    *way, last = name.split(".")
    owner = model
    for part in way:
        owner = _step(owner, part)
        if owner is None:
            return []
    there = last in owner if _is_mapping(owner) else hasattr(owner, last)
    return [(owner, last)] if there else []


def _step(owner: Any, part: str) -> Any:
    return owner.get(part) if _is_mapping(owner) else getattr(owner, part, None)


def _is_mapping(owner: Any) -> bool:
    return isinstance(owner, MutableMapping)
