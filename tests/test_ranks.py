"""The pool of ranks that other tests use: what it answers, and what is left after an error."""

import os
import signal
import time
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import RankFailure, Ranks, ranks

__all__: list[str] = []


def gone(process_id: int) -> bool:
    """Whether no process of this number is left."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def average() -> tuple[int, float, int]:
    value = torch.tensor(float(dist.get_rank()))
    dist.all_reduce(value)
    return dist.get_rank(), value.item() / dist.get_world_size(), os.getpid()


def first_raises() -> None:
    if dist.get_rank() == 0:
        raise LookupError("nothing of that name")
    dist.barrier()


def second_is_killed() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def first_waits() -> None:
    if dist.get_rank() == 0:
        dist.barrier()


def warns() -> None:
    warnings.warn("look", UserWarning, stacklevel=1)


class TestPool:
    def test_each_rank_answers_from_a_process_that_stays(self) -> None:
        first, second = ranks(2).run(average), ranks(2).run(average)
        assert [answer[:2] for answer in first] == [(0, 0.5), (1, 0.5)]
        assert first == second

    def test_a_function_inside_a_test_is_sent_with_its_values(self) -> None:
        factor = torch.tensor(3)

        def work(more: int) -> Any:
            return factor * more + dist.get_rank()

        assert ranks(2).run(work, 4) == [torch.tensor(12), torch.tensor(13)]

    def test_the_ranks_start_from_one_seed(self) -> None:
        one = ranks(2).run(lambda: torch.rand(2).tolist())
        assert one[0] == one[1] == ranks(2).run(lambda: torch.rand(2).tolist())[0]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("function", "message", "error"),
        [
            (first_raises, "(?s)rank 0 raised:.*LookupError: nothing of that", "LookupError"),
            (second_is_killed, "rank [01] (died|raised)", None),
            (first_waits, "rank 0 did not answer within 0.5 s", ""),
            (warns, "(?s)rank [01] raised:.*UserWarning: look", "UserWarning"),
        ],
    )
    def test_after_an_error_no_rank_is_left_and_the_next_test_gets_new_ones(
        self, function: Any, message: str, error: str | None
    ) -> None:
        pool = ranks(2)
        ids = [process.pid for process in pool.processes]
        begun = time.monotonic()
        with pytest.raises(RankFailure, match=message) as raised:
            pool.run(function, timeout=0.5 if function is first_waits else 20)
        assert error is None or raised.value.error == error
        assert time.monotonic() - begun < 5
        assert all(gone(number) for number in ids)
        assert not pool.alive
        assert ranks(2) is not pool
        assert [answer[1] for answer in ranks(2).run(average)] == [0.5, 0.5]

    @pytest.mark.slow
    def test_closing_leaves_no_process_and_no_file(self) -> None:
        pool = Ranks(3)
        ids, folder = [process.pid for process in pool.processes], pool.folder
        pool.close()
        assert all(gone(number) for number in ids)
        assert not os.path.exists(folder)
