"""Processes that a launcher joined: one fails, and the others end soon and say why."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

from leyden.backends.environments import find_environment
from leyden.backends.strategies import DDPStrategy
from leyden.backends.strategies.processes import RankError
from tests.ranks import ENVIRONMENT, PRELOADED
from tests.test_ranks import gone
from tests.trainer.ranks_runs import Bare, loader, trainer

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def rank_main(variables: dict[str, str], failing: str, connection: Any) -> None:
    """Train as one of several processes; send what came of it."""
    os.environ.update(variables)
    rank = int(variables["RANK"])

    class Fails(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if rank == 1 and batch_idx == 2:
                if failing == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise LookupError("row 17 is not there")
            return super().training_step(batch, batch_idx)

    begun = time.monotonic()
    try:
        made = trainer(max_epochs=1)
        assert isinstance(made.strategy, DDPStrategy) and find_environment().started
        made.fit(Fails(), loader(24, 4))
    except BaseException as error:
        text = "".join(traceback.format_exception_only(error))
        connection.send((type(error).__name__, text, time.monotonic() - begun))
    else:
        connection.send(("", "", time.monotonic() - begun))


def launch(target: Callable[..., Any], failing: str) -> list[Any]:
    """Start two processes as torchrun would, and wait for both."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port, started = str(free_port()), []
    try:
        for rank in range(2):
            variables = {**ENVIRONMENT, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(variables, failing, theirs))
            process.start()
            theirs.close()
            started.append((process, ours))
        found: list[Any] = []
        for _, connection in started:
            assert connection.poll(30), "no answer within 30 s"
            try:
                found.append(connection.recv())
            except EOFError:
                found.append(None)
        return found
    finally:
        for process, _ in started:
            process.join(10)
            process.kill()
            process.join(10)
            assert gone(process.pid)


def test_the_others_name_the_rank_that_raised_and_what_it_said() -> None:
    first, second = launch(rank_main, "raises")
    assert second[:2] == ("LookupError", "LookupError: row 17 is not there\n")
    assert first[0] == RankError.__name__
    assert "rank 0 ends because rank 1 failed with LookupError: row 17 is not there" in first[1]
    assert first[2] < 10  # not the timeout of 60 s


def test_the_others_end_when_a_rank_is_killed() -> None:
    first, second = launch(rank_main, "killed")
    assert second is None
    assert first[0] == RankError.__name__
    assert "rank 0 lost another process, which ended without a word" in first[1]
    assert first[2] < 15
