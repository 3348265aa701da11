"""A logger that keeps what it is given."""

from collections.abc import Mapping
from typing import Any


class FakeLogger:
    """Rows of (step, values)."""

    save_dir, name, version = "logs", "fake", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))
