"""A warm pool of processes that are joined by torch.distributed, for tests on several ranks.

Starting processes and importing torch takes seconds; a function on ranks that wait takes
milliseconds. So the ranks are started once and kept, and a test sends them its function::

    def average() -> float:
        value = torch.tensor(float(dist.get_rank()))
        dist.all_reduce(value, dist.ReduceOp.AVG)
        return value.item()

    assert ranks(2).run(average) == [0.5, 0.5]

Each rank has the default process group (gloo), the environment of one thread, warnings as errors,
and a seed that is the same for every test. What a function leaves behind is gone only where it says
so: change nothing global. After an error, a timeout or a rank that died the whole pool is killed,
and the next test gets a fresh one. pytest's end kills them all (``conftest.py``).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["ENVIRONMENT", "Ranks", "RankFailure", "close_all", "ranks"]

#: What real launches in tests set, too.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
#: Bounds each wait of a collective call inside a rank, in seconds.
GROUP_TIMEOUT = 60
PRELOADED = ["torch", "torch.distributed", "torch.optim", "torch._dynamo", "leyden", "pytest"]
#: and for what leyden itself launches later, from the same server.
PRELOADED += ["leyden.trainer", "leyden.launching"]

_pools: dict[int, Ranks] = {}


class RankFailure(RuntimeError):
    """A rank raised, died, or did not answer in time.

    Attributes:
        rank: its number.
        error: the name of the type it raised; empty where it died or was too slow.
    """

    def __init__(self, rank: int, message: str, error: str = "") -> None:
        super().__init__(f"rank {rank} {message}")
        self.rank = rank
        self.error = error


def ranks(count: int) -> Ranks:
    """Return the pool of this many ranks, started now if there is none."""
    pool = _pools.get(count)
    if pool is None or not pool.alive:
        pool = _pools[count] = Ranks(count)
    return pool


@atexit.register
def close_all() -> None:
    """Kill the ranks of every pool."""
    while _pools:
        _pools.popitem()[1].close()


class Ranks:
    """So many processes, in one process group, that wait for functions.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.folder = tempfile.mkdtemp(prefix="ranks-")
        init = f"file://{os.path.join(self.folder, 'store')}"
        self.processes: list[Any] = []
        self.connections: list[Connection] = []
        self.alive = True
        previous = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update(ENVIRONMENT)  # the server of forks inherits it, and keeps it
        try:
            for rank in range(count):
                ours, theirs = context.Pipe()
                # Not a daemon, which could have no loader workers.
                process = context.Process(target=_serve, args=(rank, count, init, theirs))
                process.start()
                theirs.close()
                self.processes.append(process)
                self.connections.append(ours)
            self._answers(60)
        finally:
            for name, value in previous.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Any]:
        """Call the function on every rank and return what each returned, in their order.

        Args:
            function: of a test module, or inside of a test.
            args: for it, on each rank alike.
            timeout: seconds that all of it may take.

        Raises:
            RankFailure: for the first rank that raised, died or did not answer; no rank is left.
        """
        # Imported here: this module is imported by every rank that runs a test module.
        import cloudpickle

        sent = cloudpickle.dumps((function, args))
        for rank, connection in enumerate(self.connections):
            try:
                connection.send_bytes(sent)
            except OSError as error:
                self.close()
                raise RankFailure(rank, "died before it got the function") from error
        return self._answers(timeout)

    def _answers(self, timeout: float) -> list[Any]:
        found: dict[int, Any] = {}
        until = time.monotonic() + timeout
        missing = dict(enumerate(self.connections))
        while missing:
            ready = wait(list(missing.values()), max(until - time.monotonic(), 0))
            if not ready:
                self.close()
                raise RankFailure(min(missing), f"did not answer within {timeout} s")
            for rank in [rank for rank, connection in missing.items() if connection in ready]:
                try:
                    fine, value, kind = pickle.loads(missing.pop(rank).recv_bytes())
                except (EOFError, OSError) as error:
                    self.close()
                    raise RankFailure(rank, "died") from error
                if not fine:
                    self.close()
                    raise RankFailure(rank, f"raised:\n{value}", kind)
                found[rank] = value
        return [found[rank] for rank in sorted(found)]

    def close(self) -> None:
        """Kill every rank; none is left when this returns."""
        self.alive = False
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(10)
            assert not process.is_alive(), f"{process} outlived its kill"
            process.close()
        for connection in self.connections:
            connection.close()
        self.processes, self.connections = [], []
        shutil.rmtree(self.folder, ignore_errors=True)


def _serve(rank: int, count: int, init: str, connection: Connection) -> None:
    """Be one rank: join the others, then answer functions until nobody asks any more."""
    import cloudpickle
    import torch
    import torch.distributed as dist

    from leyden.engine.rng import seed_all

    torch.set_num_threads(1)
    # Loader workers start as they do in any process; a forkserver would hand itself down.
    multiprocessing.set_start_method(None, force=True)
    dist.init_process_group(
        "gloo",
        init_method=init,
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=GROUP_TIMEOUT),
    )
    connection.send_bytes(pickle.dumps((True, None, "")))
    while True:
        try:
            blob = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                # ignite imports torch.distributed.optim, which still compiles with torch.jit.
                warnings.filterwarnings("ignore", r".torch\.jit\.\w+. is dep", DeprecationWarning)
                function, args = pickle.loads(blob)
                seed_all(0)
                value = function(*args)
                # Who sent more than the others is found here, not in the next test.
                dist.barrier()
            answer = cloudpickle.dumps((True, value, ""))
        except BaseException as error:
            answer = pickle.dumps((False, traceback.format_exc(), type(error).__name__))
        connection.send_bytes(answer)
