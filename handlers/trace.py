"""One picture of a run: a timeline in the format of Chrome's and Perfetto's trace viewers."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from leyden.engine.notice import warn
from leyden.handlers.profilers import BaseProfiler

__all__ = ["Trace", "Traced"]

_BATCH = 4096  # spans held in memory
_FOOTER = b'\n],"displayTimeUnit":"ms"}\n'


class Trace(BaseProfiler):
    """Writes what a run does, and when, to a file for ``ui.perfetto.dev`` or ``chrome://tracing``.

    Data wait (``get_train_batch``), step, every handler, validation and the writing of checkpoints
    are spans that lie inside one another; each rank is a process with a track for each thread.
    Spans of the user's own come from ``with trainer.profiler.profile("name")``, in any thread.

    The file is written as the run goes on, so memory does not grow, and after each run it is whole.
    Where several processes train together, each writes a file of its own during the run, and at its
    end that of rank 0 takes in the others.

    Args:
        output_filename: the file; rank ``r`` writes ``trace.rank{r}.json``.
        dirpath: its folder; without it the folder of the logs.
        limit: spans at most; 1,000,000 are about 100 MB. What comes later is left out, which a
            warning says.
        clock: gives nanoseconds, the same for all processes of a machine.

    Attributes:
        every_handler: tells whoever binds it that it wants each handler by itself.
        count: spans written so far.
    """

    every_handler = True

    def __init__(
        self,
        output_filename: str | os.PathLike[str] = "trace.json",
        *,
        dirpath: str | os.PathLike[str] | None = None,
        limit: int = 1_000_000,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        super().__init__(output_filename=output_filename, dirpath=dirpath)
        if limit < 1:
            raise ValueError(f"limit={limit} is below 1: it is a number of spans")
        self.limit = limit
        self.count = 0
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        """Have nothing measured and nothing written yet."""
        self._spans: list[tuple[str, int, int, int]] = []  # name, track, start, end
        self._begun = threading.local()
        self._tracks: list[threading.Thread] = []  # the thread that writes to each track now
        self._named = 0
        self._lock = threading.Lock()
        self._heads: dict[tuple[str, int, int], str] = {}  # what the spans of a name begin with
        self._path: str | None = None
        self._end = 0  # bytes of the file that hold spans
        self._warned = False

    def setup(self, log_dir: str | None = None) -> None:
        """Note the folder of the logs; another folder than before begins another file."""
        super().setup(log_dir)
        if self._path is not None and self.path != self._path:
            self._flush()
            self._finish_file()
            self._path, self._end, self._named, self.count = None, 0, 0, 0

    @property
    def path(self) -> str:
        """The file of this process."""
        found, rank = self.report_path or "trace.json", _rank()
        stem, suffix = os.path.splitext(found)
        return found if rank == 0 else f"{stem}.rank{rank}{suffix}"

    def start(self, action_name: str) -> None:
        """Begin a span."""
        try:
            begun = self._begun.stack
        except AttributeError:
            begun = self._begun.stack = []
            self._begun.track = self._track()
        begun.append((action_name, self._clock()))

    def _track(self) -> int:
        """A number for this thread; that of one that has ended, if it has the same name."""
        mine = threading.current_thread()
        with self._lock:
            for index, thread in enumerate(self._tracks):
                if thread.name == mine.name and not thread.is_alive():
                    self._tracks[index] = mine
                    return index + 1
            self._tracks.append(mine)
            return len(self._tracks)

    def stop(self, action_name: str) -> None:
        """End it; spans that began inside it and are still open end with it.

        Raises:
            ValueError: If it was not started in this thread.
        """
        now = self._clock()
        begun = getattr(self._begun, "stack", [])
        if begun and begun[-1][0] == action_name:  # nearly always: spans lie inside one another
            self._spans.append((action_name, self._begun.track, begun.pop()[1], now))
            if len(self._spans) >= _BATCH:
                self._flush()
            return
        if not any(name == action_name for name, _ in begun):
            raise ValueError(
                f"the span {action_name!r} was never started in this thread, so it cannot be "
                f"stopped; running now: {', '.join(name for name, _ in begun) or 'none'}"
            )
        track = self._begun.track
        while True:
            name, since = begun.pop()
            self._spans.append((name, track, since, now))
            if name == action_name:
                break
        if len(self._spans) >= _BATCH:
            self._flush()

    def summary(self) -> str:
        """Say where the file is."""
        return f"\n\nTrace of {self.count + len(self._spans)} spans: {self.path}\n"

    def describe(self) -> None:
        """Make the file whole; what is measured afterwards is added to it."""
        self._flush()
        self._finish_file()

    def gather(self) -> None:
        """Put the spans of all processes that train together into the file of rank 0."""
        self.describe()
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        if distributed.get_world_size() == 1:
            return
        rank = distributed.get_rank()
        with open(self.path, "rb") as file:
            own = file.read(self._end)[len(_HEADER) :]
        everything: list[Any] | None = [None] * distributed.get_world_size() if rank == 0 else None
        distributed.gather_object(own, everything, dst=0)
        if everything is None:
            os.unlink(self.path)
            self._end = self._named = 0
            return
        with open(self.path, "r+b") as file:
            file.seek(self._end)
            for others in everything[1:]:
                if others:
                    file.write(b",\n" + others)
            self._end = file.tell()
            file.write(_FOOTER)
            file.truncate()

    # ------------------------------------------------------------------ the file

    def _flush(self) -> None:
        with self._lock:
            # The list stays the same one, and its head goes: another thread may append right now.
            spans = self._spans[:]
            del self._spans[: len(spans)]
            room = self.limit - self.count
            if len(spans) > room:
                spans = spans[: max(room, 0)]
                if not self._warned:
                    self._warned = True
                    warn(
                        f"the trace {self.path} is full after limit={self.limit} spans: what comes "
                        "later is left out; pass Trainer(profiler=Trace(limit=...)) for more",
                    )
            self.count += len(spans)
            lines = self._metadata()
            heads, rank = self._heads, _rank()
            for name, track, since, until in spans:
                head = heads.get((name, track, rank))
                if head is None:
                    head = f'{{"name":{json.dumps(name)},"ph":"X","pid":{rank},"tid":{track},"ts":'
                    heads[name, track, rank] = head
                # Microseconds, out of nanoseconds: the point is put in by whoever reads them.
                lines.append(f'{head}{since}e-3,"dur":{until - since}e-3}}')
            if lines:
                self._write(",\n".join(lines).encode())

    def _metadata(self) -> list[str]:
        """Names of the tracks that are not named in the file yet."""
        rank, lines = _rank(), []

        def named(kind: str, track: int, **arguments: Any) -> None:
            event = {"name": kind, "ph": "M", "pid": rank, "tid": track, "args": arguments}
            lines.append(json.dumps(event))

        if not self._named and self._tracks:
            named("process_name", 0, name=f"rank {rank}")
            named("process_sort_index", 0, sort_index=rank)
        for number in range(self._named, len(self._tracks)):
            name = self._tracks[number].name
            named("thread_name", number + 1, name="training" if name == "MainThread" else name)
        self._named = len(self._tracks)
        return lines

    def _write(self, data: bytes) -> None:
        path = self._path = self.path
        if not self._end:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "r+b" if self._end else "wb") as file:
            file.seek(self._end)
            file.write(b",\n" + data if self._end else _HEADER + data)
            self._end = file.tell()
            file.truncate()

    def _finish_file(self) -> None:
        if self._path is not None and self._end:
            with open(self._path, "r+b") as file:
                _put(file, self._end, _FOOTER)

    def __getstate__(self) -> dict[str, Any]:
        # What is being measured belongs to this process; another one begins a file of its own.
        kept = ("write_streams", "output_fname", "dirpath", "_log_dir", "_written", "limit")
        return {**{key: self.__dict__[key] for key in kept}, "count": 0, "_clock": self._clock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()


_HEADER = b'{"traceEvents":[\n'


class Traced:
    """Makes a function that runs in another thread a span of its own, where there is a trace.

    Other profilers count what the training does; they do not see it.

    Args:
        owner: has the run's profiler as its attribute ``profiler``.
        name: that of the span.
        function: what to run.
    """

    def __init__(self, owner: Any, name: str, function: Callable[..., None]) -> None:
        self.owner = owner
        self.name = name
        self.function = function

    def __call__(self, *arguments: Any) -> None:
        """Run it."""
        found = getattr(self.owner, "profiler", None)
        with found.profile(self.name) if isinstance(found, Trace) else contextlib.nullcontext():
            self.function(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "owner": None}  # a copy does not drag the Trainer along


def _put(file: BinaryIO, at: int, data: bytes) -> None:
    file.seek(at)
    file.write(data)
    file.truncate()


def _rank() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return next((int(os.environ[n]) for n in ("RANK", "SLURM_PROCID") if os.environ.get(n)), 0)
