"""Predictions of a test, written to files when it is over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["Predictions"]


class Predictions:
    """Collects predictions by file and name; a file holds a list with one dict for each sample."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, list[Any]]] = {}

    def add(self, filename: str, values: Mapping[str, Any]) -> None:
        """Append the predictions of a batch.

        Args:
            filename: The file they go to.
            values: For each name a tensor or list with an item for each sample. Tensors are copied
                to the CPU, for the device's memory is needed.
        """
        kept = self._files.setdefault(filename, {})
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                # A clone of each item: torch.save writes the whole storage behind a view.
                samples = value.detach().cpu()
                items = [item.clone() for item in (samples if samples.dim() else samples[None])]
            elif isinstance(value, (list, tuple)):
                items = list(value)
            else:
                raise TypeError(
                    f"the prediction {name!r} is of type {type(value).__name__}: pass a tensor or "
                    "a list with an item for each sample"
                )
            kept.setdefault(name, []).extend(items)

    def mark(self) -> dict[tuple[str, str], int]:
        """Say how many items there are by file and name, for :meth:`drop`."""
        return {
            (filename, name): len(items)
            for filename, columns in self._files.items()
            for name, items in columns.items()
        }

    def drop(self, mark: Mapping[tuple[str, str], int] | None) -> None:
        """Take back what was added since the mark; None: since the beginning."""
        for filename, columns in self._files.items():
            for name, items in columns.items():
                del items[(mark or {}).get((filename, name), 0) :]

    def write(self, rank: int = 0, world_size: int = 1) -> list[Path]:
        """Write the files and forget the predictions.

        Args:
            rank: The number of this process; it is in the file name where there are several.
            world_size: The number of processes.

        Returns:
            The files written.

        Raises:
            ValueError: A file has another number of items for one name than for another.
        """
        written = []
        for filename, columns in self._files.items():
            lengths = {name: len(items) for name, items in columns.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(
                    f"the predictions for {filename!r} have different numbers of items, {lengths}: "
                    "write an item of every name for each sample"
                )
            path = Path(filename)
            if world_size > 1:
                path = path.with_name(f"{path.stem}_rank_{rank}{path.suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            torch.save(rows, path)
            written.append(path)
        self._files.clear()
        return written
