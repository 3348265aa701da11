"""Start the script again, once for each further device: Lightning 1.1's ``ddp``.

This process is the first rank of its machine. The others run the same command from the beginning;
their Trainer finds in the environment which rank it is, and waits for the others when it first
runs something. What the script does after that it does in all processes.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any

from leyden.backends.environments import Environment, variables_of
from leyden.backends.launchers.lifeline import LIFELINE_VARIABLE, share_threads
from leyden.engine.errors import MisconfigurationException

__all__ = ["READY_VARIABLE", "ScriptLauncher", "tell_ready", "why_no_script"]

log = logging.getLogger(__name__)

#: The end of a pipe on which a child says that its Trainer has something to run.
READY_VARIABLE = "LEYDEN_READY"
#: Seconds that children get to end by themselves when the script is over.
GRACE = 30.0
_PATIENCE = 30.0  # seconds between two lines that say who is waited for


def why_no_script() -> str:
    """Why this process cannot be started again with the same command; empty if it can."""
    if parent_process() is not None:
        return "this is a process of multiprocessing"
    if hasattr(sys, "ps1") or sys.flags.interactive or "ipykernel" in sys.modules:
        return "this is an interactive session"
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if (file is None or not os.path.exists(file)) and "-c" not in sys.orig_argv:
        return "it comes from the standard input"
    return ""


def tell_ready() -> None:
    """Say to the process that started this one that it can be joined now."""
    text = os.environ.pop(READY_VARIABLE, "")
    if text.isdigit():
        os.write(int(text), b"1")
        os.close(int(text))


class ScriptLauncher:
    """Starts the script again for the other ranks of this machine.

    Args:
        per_node: processes of each machine.
        num_nodes: machines; on each the script is started by hand, with ``NODE_RANK``,
            ``MASTER_ADDR`` and ``MASTER_PORT`` in its environment.
        command: what to run; None: what this process runs.

    Attributes:
        children: those that were started, by their global rank.
        failed: rank and end of the first child that failed by itself.
    """

    def __init__(self, per_node: int, num_nodes: int = 1, command: list[str] | None = None) -> None:
        self.per_node = per_node
        self.num_nodes = num_nodes
        self.command = command
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.failed: tuple[int, str] | None = None
        self._folder = ""
        self._lifeline = -1
        self._over = False
        self._stopping = threading.Lock()

    # ------------------------------------------------------------------ start

    def start(self, extra: Mapping[str, str] | None = None) -> Environment:
        """Start the other processes, wait until each has something to run, return our place.

        Args:
            extra: further variables for the children.

        Raises:
            MisconfigurationException: the machines do not know one another's address.
            RuntimeError: a child ended before it had anything to run.
        """
        node, init_method = self._meeting_point()
        place = Environment(
            "leyden",
            node * self.per_node,
            0,
            node,
            self.per_node * self.num_nodes,
            self.num_nodes,
            init_method,
        )
        watched, self._lifeline = os.pipe()
        atexit.register(self.end)
        ready: dict[int, int] = {}
        try:
            for local in range(1, self.per_node):
                own = replace(place, global_rank=place.global_rank + local, local_rank=local)
                ready[own.global_rank] = self._start(own, watched, extra or {})
            share_threads(self.per_node)
            self._await(ready)
        except BaseException:
            self.end(grace=0)
            raise
        finally:
            os.close(watched)
            for end in ready.values():
                os.close(end)
        if self.children:
            threading.Thread(target=self._watch, name="leyden-children", daemon=True).start()
        return place

    def _start(self, place: Environment, watched: int, extra: Mapping[str, str]) -> int:
        """Start one process; returns the end of the pipe on which it says that it is ready."""
        ours, theirs = os.pipe()
        env = {
            **os.environ,
            **variables_of(place),
            **extra,
            "PL_IN_DDP_SUBPROCESS": "1",
            READY_VARIABLE: str(theirs),
            LIFELINE_VARIABLE: str(watched),
        }
        command = self.command or [sys.executable, *sys.orig_argv[1:]]
        try:
            self.children[place.global_rank] = subprocess.Popen(
                command, env=env, pass_fds=(watched, theirs)
            )
        finally:
            os.close(theirs)
        return ours

    def _meeting_point(self) -> tuple[int, str]:
        self._folder = tempfile.mkdtemp(prefix="leyden-")
        if self.num_nodes == 1:
            return 0, f"file://{os.path.join(self._folder, 'meet')}"
        env = os.environ
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
        text = env.get("NODE_RANK", env.get("GROUP_RANK", ""))
        if missing or not text.isdigit() or int(text) >= self.num_nodes:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise MisconfigurationException(
                f"num_nodes={self.num_nodes}: the environment does not say which machine this is "
                "and where the first one is; start the script with torchrun or SLURM, or set "
                f"NODE_RANK (0 to {self.num_nodes - 1}), MASTER_ADDR and MASTER_PORT on each "
                f"(NODE_RANK={text!r}{', without ' + ' and '.join(missing) if missing else ''})"
            )
        return int(text), f"tcp://{env['MASTER_ADDR']}:{env['MASTER_PORT']}"

    def _await(self, ready: Mapping[int, int]) -> None:
        """Wait for the children: they have all of the script before its first run to do again."""
        missing, since = dict(ready), time.monotonic()
        while missing:
            # An end is readable when the child has written, and when it is gone.
            readable = wait(list(missing.values()), _PATIENCE)
            for rank in [rank for rank, end in missing.items() if end in readable]:
                if not os.read(missing.pop(rank), 1):
                    code = _code(self.children[rank].wait())
                    raise RuntimeError(
                        f"the process of rank {rank} ended, with {code}, before it had anything "
                        "to run: accelerator='ddp' starts the script again, and each process has "
                        "to reach the same fit or test; what it printed is above"
                    )
            if not readable:
                waited = int(time.monotonic() - since)
                log.warning("waiting for ranks %s since %s s", sorted(missing), waited)

    # ------------------------------------------------------------------ watch, end

    def _watch(self) -> None:
        """A child that fails takes the others along."""
        running = dict(self.children)
        while running:
            for rank, child in list(running.items()):
                try:
                    code = child.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
                del running[rank]
                if code and self.failed is None and not self._over:
                    self.failed = (rank, _code(code))
                    self._stop()
                    return

    def guarded(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run what all processes run; where it fails, none of them goes on.

        Raises:
            BaseException: what it raised; where that came of the end of another process, an error
                that names this one.
        """
        if self._over:
            raise RuntimeError(
                "the other processes of this run have ended, after an error or an interrupt: "
                "start the script again"
            )
        try:
            return method(*args, **kwargs)
        except Exception as error:
            # Errors of the strategy that name the other rank say more.
            lost = isinstance(error, RuntimeError) and not getattr(error, "ranks", ())
            told = self.explain() if lost else ""
            self.end(grace=3)
            if told:
                raise RuntimeError(told) from error
            raise

    def explain(self) -> str:
        """After this process failed: which child failed before it, and how; empty if none did."""
        until = time.monotonic() + 3
        # Its connections are closed before a process is gone.
        while self.failed is None and time.monotonic() < until:
            if all(child.poll() == 0 for child in self.children.values()):
                break
            threading.Event().wait(0.05)
        if self.failed is None:
            return ""
        rank, code = self.failed
        return f"the process of rank {rank} ended with {code}; what it printed is above"

    def end(self, grace: float = GRACE) -> None:
        """Wait for the children, stop those that do not end; none is left afterwards."""
        atexit.unregister(self.end)
        self._over = True
        until = time.monotonic() + grace
        for child in self.children.values():
            try:
                child.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                break
        self._stop()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        with self._stopping:
            alive = [child for child in self.children.values() if child.poll() is None]
            for child in alive:
                child.terminate()
            until = time.monotonic() + 5
            for child in alive:
                try:
                    child.wait(max(until - time.monotonic(), 0))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def _code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
