"""Start processes, get answers and errors back, leave nothing running."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch

from leyden.backends.environments import find_environment
from leyden.backends.launchers import ProcessLauncher, ScriptLauncher, launcher_for
from leyden.backends.launchers.lifeline import share_threads
from leyden.backends.launchers.ranks import RemoteTraceback
from leyden.backends.launchers.script import why_no_script
from leyden.backends.launchers.spawn import RankEnded
from leyden.engine.errors import MisconfigurationException

pytestmark = pytest.mark.slow


def launched(function: Callable[..., Any], *args: Any, count: int = 2) -> list[Any]:
    def entry(*given: Any) -> bytes:
        return cloudpickle.dumps(function(*given))

    launcher = ProcessLauncher(count, grace=5)
    return [cloudpickle.loads(one) for one in launcher.run(cloudpickle.dumps((entry, args)))]


def gone(pid: int, within: float = 10) -> bool:
    """Whether a process ends in time; one that nobody has waited for counts as ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        threading.Event().wait(0.02)
    return False


def test_each_process_knows_its_place_and_answers_in_order() -> None:
    def place() -> tuple[int, int, int, str | None, int]:
        found = find_environment()
        return found.global_rank, found.local_rank, found.world_size, found.name, os.getpid()

    answers = launched(place, count=3)
    assert [answer[:4] for answer in answers] == [(rank, rank, 3, "leyden") for rank in range(3)]
    pids = {answer[4] for answer in answers}
    assert len(pids) == 3 and os.getpid() not in pids
    assert all(gone(pid) for pid in pids)


def test_no_process_shares_the_memory_of_a_tensor() -> None:
    weight = torch.zeros(3)

    def step() -> list[float]:
        weight.add_(1)
        return weight.tolist()

    assert launched(step) == [[1.0] * 3, [1.0] * 3]
    assert weight.tolist() == [0.0] * 3


def test_the_environment_of_now_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING_OF_MINE", "1")
    assert launched(lambda: os.environ.get("SOMETHING_OF_MINE")) == ["1", "1"]


class OwnError(Exception):
    """As one of a user's: it cannot be rebuilt from its arguments."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")


def test_an_error_comes_back_as_it_was_raised_with_its_traceback() -> None:
    def fail() -> None:
        if os.environ["RANK"] == "1":
            raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing") as caught:
        launched(fail)
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback) and cause.rank == 1
    assert "in fail" in str(cause) and str(cause).count("Traceback") == 1


def test_an_error_that_cannot_be_sent_is_told() -> None:
    def fail() -> None:
        raise OwnError(3, why="so")

    with pytest.raises(RankEnded, match="raised .*OwnError: 3: so"):
        launched(fail)


def test_a_rank_that_is_killed_ends_the_others_in_time(tmp_path: Path) -> None:
    def die_or_wait() -> None:
        (tmp_path / str(os.getpid())).touch()
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait(600)

    began = time.monotonic()
    with pytest.raises(RankEnded, match="rank 0 was killed"):
        launched(die_or_wait)
    assert time.monotonic() - began < 60
    assert all(gone(int(path.name)) for path in tmp_path.iterdir())


def test_an_exit_of_a_rank_is_the_exit_of_the_parent() -> None:
    with pytest.raises(SystemExit) as caught:
        launched(lambda: sys.exit(143))
    assert caught.value.code == 143


def test_ctrl_c_arrives_in_every_rank_once(tmp_path: Path) -> None:
    def wait_for_it() -> int:
        (tmp_path / os.environ["RANK"]).touch()
        try:
            threading.Event().wait(60)
        except KeyboardInterrupt:
            return 1
        return 0

    def press() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        assert launched(wait_for_it) == [1, 1]
    finally:
        pressing.join()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SystemExit),
        (None, RankEnded),
    ],
)
def test_a_server_of_processes_that_dies_while_it_starts_is_explained(
    number: int | None, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal Ctrl-C reaches it as well, and it dies of it while it imports."""

    def start(process: Any) -> None:
        if number is not None:
            os.kill(os.getpid(), number)
        raise EOFError("unexpected EOF")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", start)
    with pytest.raises(expected) as caught:
        launched(os.getpid)
    assert isinstance(caught.value.__cause__, EOFError)
    if expected is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM


def test_a_signal_that_comes_before_a_rank_is_there_arrives_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_it() -> int:
        try:
            threading.Event().wait(60)
        except KeyboardInterrupt:
            return 1
        return 0

    launched(os.getpid)  # the server of processes is up, and deaf to Ctrl-C
    ready = multiprocessing.process.BaseProcess.start

    def start(process: Any) -> None:
        if process.name == "leyden-rank-1":
            os.kill(os.getpid(), signal.SIGINT)
        ready(process)

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", start)
    # Rank 1 hears of it before it waits, or while it does.
    with contextlib.suppress(KeyboardInterrupt):
        assert launched(wait_for_it) == [1, 1]


@pytest.mark.parametrize("how", ["spawn", "script"])
def test_no_rank_outlives_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, threading
            from pathlib import Path
            folder, how = Path(sys.argv[1]), sys.argv[2]
            def wait():
                (folder / f"{os.getpid()}.pid").touch()
                threading.Event().wait(600)
            if how == "spawn":
                import cloudpickle
                from leyden.backends.launchers import ProcessLauncher
                ProcessLauncher(2).run(cloudpickle.dumps((wait, ())))
            else:
                from leyden.backends.launchers import ScriptLauncher
                from leyden.backends.launchers.lifeline import hold_lifeline
                from leyden.backends.launchers.script import tell_ready
                if "RANK" not in os.environ:
                    ScriptLauncher(2).start()
                    wait()
                hold_lifeline()
                tell_ready()
                wait()
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), how])
    try:
        until = time.monotonic() + 100
        while len(list(tmp_path.glob("*.pid"))) < 2:
            assert parent.poll() is None and time.monotonic() < until
            threading.Event().wait(0.02)
    finally:
        parent.kill()
        parent.wait()
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert all(gone(pid) for pid in pids)


def test_a_script_that_ends_before_it_has_a_run_is_told() -> None:
    launcher = ScriptLauncher(2, command=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="rank 1 ended, with exit code 3, before"):
        launcher.start()
    assert all(child.returncode == 3 for child in launcher.children.values())


def test_a_child_that_fails_ends_the_other_children() -> None:
    code = (
        "import os, threading\n"
        "os.write(int(os.environ['LEYDEN_READY']), b'1')\n"
        "os.environ['RANK'] == '1' and os._exit(9)\n"
        "threading.Event().wait(600)\n"
    )
    launcher = ScriptLauncher(3, command=[sys.executable, "-c", code])
    place = launcher.start()
    try:
        assert (place.global_rank, place.world_size) == (0, 3)
        assert launcher.explain().startswith("the process of rank 1 ended with exit code 9")
        assert gone(launcher.children[2].pid)
    finally:
        launcher.end(grace=0)
    with pytest.raises(RuntimeError, match="start the script again"):
        launcher.guarded(lambda: None)


def test_several_machines_have_to_know_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MisconfigurationException, match=r"NODE_RANK \(0 to 1\), MASTER_ADDR and"):
        ScriptLauncher(1, 2).start()
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "4000")
    launcher = ScriptLauncher(1, 2)
    place = launcher.start()
    launcher.end()
    assert (place.global_rank, place.world_size, place.init_method) == (1, 2, "tcp://10.0.0.1:4000")


def test_a_session_without_a_script_gets_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    place = find_environment({"LEYDEN_INIT_METHOD": "file:///m", "RANK": "0", "WORLD_SIZE": "2"})
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert "interactive" in why_no_script()
    assert isinstance(launcher_for(place, spawning=False), ProcessLauncher)
    monkeypatch.delattr(sys, "ps1")
    monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-"])
    assert "standard input" in why_no_script()
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "pass"])
    assert why_no_script() == ""
    assert isinstance(launcher_for(place, spawning=False), ScriptLauncher)
    assert isinstance(launcher_for(place, spawning=True), ProcessLauncher)


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert share_threads(2, cores=8) == 4
        assert share_threads(16, cores=8) == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert share_threads(2, cores=8) == 1  # as it was: the user has said how many
    finally:
        torch.set_num_threads(before)
