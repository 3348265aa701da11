"""Which process this is, by a group, by variables of torchrun, SLURM and leyden's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from leyden.backends import slurm
from leyden.backends.environments import (
    Environment,
    find_environment,
    variables_of,
)
from leyden.engine.errors import MisconfigurationException

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "70123",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def test_what_leyden_sets_is_what_it_finds() -> None:
    place = Environment("leyden", 3, 1, 1, 4, 2, "tcp://10.0.0.1:1234")
    assert find_environment(variables_of(place)) == place


def test_variables_of_leyden_win_over_those_of_torchrun() -> None:
    place = Environment("leyden", 1, 1, 0, 2, 1, "file:///meet")
    assert find_environment({**TORCHRUN, **variables_of(place)}) == place


def test_torchrun_wins_over_slurm() -> None:
    assert find_environment({**TORCHRUN, **SRUN}, per_node=2, num_nodes=2).name == "torchrun"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"RANK": "first"}, "RANK='first', which is no number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='', which is no number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http', which is no number"),
        ({"RANK": "8"}, "RANK=8 with WORLD_SIZE=8: a rank is from 0 to 7"),
    ],
)
def test_variables_that_make_no_sense_are_named(change: dict[str, str], said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        find_environment({**TORCHRUN, **change})


def test_slurm_tells_its_tasks_which_they_are() -> None:
    found = find_environment(SRUN, per_node=2, num_nodes=2)
    assert found == Environment("slurm", 3, 1, 1, 4, 2, "tcp://gpu07:15123")
    assert found.started and found.per_node == 2


@pytest.mark.parametrize(
    ("change", "per_node", "nodes"),
    [
        ({}, 1, 1),  # one process was asked for, four tasks are there
        ({}, 4, 2),
        ({"SLURM_JOB_NAME": "bash"}, 2, 2),
        ({"SLURM_JOB_NAME": "interactive"}, 2, 2),
        ({"SLURM_NTASKS": ""}, 2, 2),
    ],
)
def test_slurm_does_not_manage(change: dict[str, str], per_node: int, nodes: int) -> None:
    found = find_environment({**SRUN, **change}, per_node=per_node, num_nodes=nodes)
    assert found == Environment()


def test_a_batch_script_without_srun_is_no_task(caplog: pytest.LogCaptureFixture) -> None:
    alone = {name: value for name, value in SRUN.items() if "STEP" not in name}
    assert not slurm.manages(alone, 2, 2)
    assert "start the script with srun" in caplog.text


def test_a_task_without_its_number_is_told_to_use_srun() -> None:
    with pytest.raises(MisconfigurationException, match="SLURM_PROCID=None.*with srun"):
        find_environment({k: v for k, v in SRUN.items() if k != "SLURM_PROCID"}, per_node=4)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n0", "n0"),
        ("n[0-1]", "n0"),
        ("n[007-009,12],m3", "n007"),
        ("a,b", "a"),
        ("rack[2,4]-[1-3]x", "rack2-1x"),
        ("node-1.example", "node-1.example"),
        ("", "127.0.0.1"),
    ],
)
def test_first_node_of_a_list(nodes: str, first: str) -> None:
    assert slurm.first_node(nodes) == first


@pytest.mark.parametrize(
    ("env", "port"),
    [
        ({"SLURM_JOB_ID": "70123"}, 15123),
        ({"SLURM_JOB_ID": "7"}, 15007),
        ({}, 12910),
        ({"SLURM_JOB_ID": "70123", "MASTER_PORT": "4000"}, 4000),
    ],
)
def test_port_follows_from_the_job(env: dict[str, str], port: int) -> None:
    assert slurm.port(env) == port


def test_job_id_outside_of_shells_only() -> None:
    assert slurm.job_id(SRUN) == 70123
    assert slurm.job_id({**SRUN, "SLURM_JOB_NAME": "bash"}) is None
    assert slurm.job_id({}) is None
    assert slurm.root_node({**SRUN, "MASTER_ADDR": "head"}) == "head"


@pytest.mark.parametrize(("code", "done"), [(0, True), (1, False)])
def test_requeue_asks_scontrol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, done: bool
) -> None:
    told = tmp_path / "told"
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {told}\necho no such job >&2\nexit {code}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.requeue(12) is done
    assert told.read_text() == "requeue 12\n"


def test_requeue_without_scontrol_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm.requeue(12)
    assert "no scontrol" in caplog.text
