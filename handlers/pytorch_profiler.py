"""A profiler of operators and kernels: `PyTorchProfiler`, on ``torch.profiler``."""

import os
from collections.abc import Callable
from typing import Any

from leyden.handlers.loggers.ranks import is_rank_zero
from leyden.handlers.profilers import BaseProfiler

__all__ = ["PyTorchProfiler"]


class PyTorchProfiler(BaseProfiler):
    """Measures operators and kernels of a few training batches.

    Measuring holds every operator's call in memory, so by default the first batch is left out, one
    warms up and three are measured. Actions appear as ranges of their name.

    Args:
        output_filename: The report's file; without it the report is printed.
        dirpath: The file's folder; see `BaseProfiler`.
        schedule: What to measure, by batch, as ``torch.profiler.schedule`` makes it; None for the
            default above.
        step_action: The action whose end is the end of a batch.
        row_limit: Rows of the table; -1 for all.
        sort_by_key: The column that sorts the table; by default the time of the kernels on CUDA,
            else that of the operators on the CPU, without what they call.
        group_by_input_shapes: Whether a row is an operator with one shape of inputs; needs
            ``record_shapes=True`` among ``profiler_kwargs``.
        trace_filename: Where to write a Chrome trace, below ``dirpath``; None for none.
        profiler_kwargs: Further arguments of ``torch.profiler.profile``.
    """

    def __init__(
        self,
        output_filename: str | os.PathLike[str] | None = None,
        *,
        dirpath: str | os.PathLike[str] | None = None,
        schedule: Callable[[int], Any] | None = None,
        step_action: str = "run_training_batch",
        row_limit: int = 20,
        sort_by_key: str | None = None,
        group_by_input_shapes: bool = False,
        trace_filename: str | os.PathLike[str] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        super().__init__(output_filename=output_filename, dirpath=dirpath)
        if group_by_input_shapes and not profiler_kwargs.get("record_shapes"):
            raise ValueError(
                "group_by_input_shapes=True needs the shapes: pass record_shapes=True as well"
            )
        self.schedule = schedule
        self.step_action = step_action
        self.row_limit = row_limit
        self.sort_by_key = sort_by_key
        self.group_by_input_shapes = group_by_input_shapes
        self.trace_filename = None if trace_filename is None else os.fspath(trace_filename)
        self._kwargs = profiler_kwargs
        self._profile: Any = None
        self._ranges: list[tuple[str, Any]] = []
        self._events: Any = None

    def start(self, action_name: str) -> None:
        """Open a range; the first one begins the measurement."""
        from torch.profiler import profile, record_function, schedule

        if self._profile is None:
            plan = self.schedule or schedule(wait=1, warmup=1, active=3, repeat=1)
            self._profile = profile(schedule=plan, on_trace_ready=self._ready, **self._kwargs)
            self._profile.start()
        opened: Any = record_function(action_name)
        opened.__enter__()
        self._ranges.append((action_name, opened))

    def stop(self, action_name: str) -> None:
        """Close the range; that of ``step_action`` ends a batch.

        Raises:
            ValueError: If it was not started.
        """
        for index in range(len(self._ranges) - 1, -1, -1):
            if self._ranges[index][0] == action_name:
                self._ranges.pop(index)[1].__exit__(None, None, None)
                break
        else:
            names = ", ".join(repr(name) for name, _ in self._ranges) or "none"
            raise ValueError(
                f"the action {action_name!r} was never started, so it cannot be stopped: "
                f"start({action_name!r}) comes first; running now: {names}"
            )
        if action_name == self.step_action and self._profile is not None:
            self._profile.step()

    def _ready(self, profile: Any) -> None:
        self._events = profile.key_averages(group_by_input_shape=self.group_by_input_shapes)
        if self.trace_filename is not None and is_rank_zero():
            path = os.path.join(self.dirpath or self._log_dir or "", self.trace_filename)
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            profile.export_chrome_trace(path)

    def summary(self) -> str:
        """End the measurement and return the table of operators."""
        while self._ranges:
            self._ranges.pop()[1].__exit__(None, None, None)
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        if self._events is None:
            return (
                "\n\nProfiler Report\n\nNothing was measured: the run was over before the "
                f"schedule's first active batch (batches end with {self.step_action!r}).\n"
            )
        import torch

        key = self.sort_by_key
        if key is None:
            key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self._events.table(sort_by=key, row_limit=self.row_limit)
        return f"\n\nProfiler Report\n\n{table}\n"

    def __getstate__(self) -> dict[str, Any]:
        # A running measurement belongs to this process.
        return {**self.__dict__, "_profile": None, "_ranges": [], "_events": None}
