"""A SLURM cluster of two nodes on this machine: its job is stopped, put back in line, goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.ranks import ENVIRONMENT
from tests.trainer.launch_runs import Net, loader, trainer_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol")
#: batches an epoch, so that there is time to stop in one.
BATCHES = 20

CONF = """
ClusterName=leyden
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
SlurmctldPort={ports[0]}
JobRequeue=1
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP
"""

SCRIPT = """
import json, sys, threading
from pathlib import Path
import torch
import leyden
from tests.trainer.launch_runs import Net, loader, trainer_for

class Slowly(leyden.Callback):
    def on_train_batch_end(self, trainer, *rest):
        (folder / "begun").touch()
        threading.Event().wait(0.1)

folder, batches = Path(sys.argv[1]), int(sys.argv[2])
net = Net()
trainer = trainer_for(folder / "root", accelerator="ddp", num_nodes=2, callbacks=[Slowly()])
trainer.fit(net, loader(4, 8 * batches), loader())
told = {
    "weights": torch.cat([p.detach().flatten() for p in net.parameters()]).tolist(),
    "where": trainer.strategy.environment.name,
    "managed": trainer.is_slurm_managing_tasks,
    "steps": len(net.seen),
    "step": trainer.global_step,
}
(folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))
"""


def why_not() -> str:
    """What is missing on this machine; empty if nothing is."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld munge"
    return "" if os.geteuid() == 0 else "a SLURM cluster needs root to start"


def eventually(what: Callable[[], object], within: float, log: Callable[[], str]) -> None:
    until = time.monotonic() + within
    while not what():
        assert time.monotonic() < until, log()
        threading.Event().wait(0.2)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find the cluster."""
    why = why_not()
    if why:
        pytest.skip(why)
    folder = tmp_path / "slurm"
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, ports=free_ports(3)))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    env = {**os.environ, **ENVIRONMENT, "SLURM_CONF": str(conf)}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    commands = [munge, ["slurmctld", "-D", "-f", str(conf)]]
    commands += [["slurmd", "-D", "-N", node, "-f", str(conf)] for node in ("n0", "n1")]
    running: list[subprocess.Popen[bytes]] = []
    with open(folder / "said", "wb") as said:
        try:
            for command in commands:
                running.append(subprocess.Popen(command, env=env, stdout=said, stderr=said))
                if command is munge:
                    eventually((folder / "munge.socket").exists, 20, (folder / "said").read_text)

            def idle() -> bool:
                told = ["sinfo", "--noheader", "--format=%T %D"]
                found = subprocess.run(told, env=env, capture_output=True, text=True, check=False)
                return found.stdout.split() == ["idle", "2"]

            eventually(idle, 60, (folder / "said").read_text)
            yield env
        finally:
            subprocess.run(["scancel", "--user=root"], env=env, capture_output=True, check=False)
            _await_no_job(env)
            for process in reversed(running):
                process.terminate()
            for process in running:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _await_no_job(env: dict[str, str]) -> None:
    """Let the processes of jobs end: nobody looks after them when the cluster is gone."""
    until = time.monotonic() + 40
    while time.monotonic() < until:
        listed = ["squeue", "--noheader"]
        found = subprocess.run(listed, env=env, capture_output=True, text=True, check=False)
        if found.returncode or not found.stdout.strip():
            return
        threading.Event().wait(0.2)


def test_a_job_whose_time_is_up_goes_on_at_the_next_batch(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    script, batch, said = folder / "train.py", folder / "job.sh", folder / "said"
    script.write_text(f"import sys\nsys.path[:0] = [{str(ROOT)!r}]\n{SCRIPT}")
    batch.write_text(
        textwrap.dedent(
            f"""\
            #!/bin/bash
            #SBATCH --job-name=leyden --nodes=2 --ntasks=2 --requeue --time=5
            #SBATCH --output={said} --open-mode=append
            export MASTER_ADDR=127.0.0.1
            env | grep SLURM_STEP && echo "the batch script has a step"
            srun --unbuffered {sys.executable} {script} {folder} {BATCHES}
            """
        )
    )

    def slurm(*command: str) -> str:
        done = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    job = slurm("sbatch", "--parsable", str(batch))
    eventually((folder / "begun").exists, 100, lambda: said.read_text() if said.exists() else "")
    slurm("scancel", "--signal=USR1", job)
    eventually(lambda: "is put back in line" in said.read_text(), 60, said.read_text)
    assert [path.name for path in (folder / "root").iterdir()] == ["hpc_ckpt_1.ckpt"]

    def state(name: str) -> bool:
        return f"JobState={name}" in slurm("scontrol", "show", "job", job)

    eventually(lambda: state("PENDING"), 60, said.read_text)
    # By itself SLURM waits two minutes.
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    results = [folder / f"rank{rank}.json" for rank in (0, 1)]
    eventually(lambda: all(path.exists() for path in results), 100, said.read_text)
    eventually(lambda: state("COMPLETED"), 60, said.read_text)

    net = Net()
    trainer_for(tmp_path / "one").fit(net, loader(8, 8 * BATCHES), loader())
    one = torch.cat([p.detach().flatten() for p in net.parameters()])
    for path in results:
        told = json.loads(path.read_text())
        assert (told["where"], told["managed"], told["step"]) == ("slurm", True, 2 * BATCHES)
        assert told["steps"] < 2 * BATCHES  # the others were done in the first turn
        # The sums of two processes are added in another order than those of one.
        assert torch.allclose(torch.tensor(told["weights"]), one, rtol=0, atol=1e-6)
    assert "the batch script has a step" not in said.read_text()
