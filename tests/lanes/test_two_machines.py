"""Two machines, as far as processes can tell: two network namespaces joined by a cable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import ENVIRONMENT
from tests.trainer.launch_runs import Net, loader, trainer_for

pytestmark = pytest.mark.slow

RUNS = Path(__file__).resolve().parents[1] / "trainer" / "launch_runs.py"
PORT = 29403


def why_not() -> str:
    """What is missing on this machine; empty if nothing is."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "there is no ip command (iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"leyden-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def machines() -> Iterator[list[tuple[str, str]]]:
    """The names of two namespaces, each with the interface that the other one is behind."""
    why = why_not()
    if why:
        pytest.skip(why)
    names = [f"leyden-{os.getpid()}-{i}" for i in (0, 1)]
    cables = [f"ley{os.getpid() % 100_000}v{i}" for i in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1])
        ip("link", "set", cables[1], "netns", names[1])
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, cables, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def together(machines: list[tuple[str, str]], commands: list[list[str]], **more: str) -> list[str]:
    """Run a command on each machine at the same time; returns what each said."""
    running = []
    for number, ((name, cable), command) in enumerate(zip(machines, commands, strict=True)):
        env = {**os.environ, **ENVIRONMENT, "GLOO_SOCKET_IFNAME": cable, **more}
        env["NODE_RANK"] = str(number)
        running.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *command],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = []
    try:
        for process in running:
            said.append(process.communicate(timeout=110)[0])
            assert process.returncode == 0, said[-1]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return said


@pytest.mark.parametrize("how", ["torchrun", "script"])
def test_two_machines_train_what_one_process_does(
    machines: list[tuple[str, str]], tmp_path: Path, how: str
) -> None:
    arguments: dict[str, Any] = {"accelerator": "ddp", "num_nodes": 2}
    rest = [str(RUNS), str(tmp_path), json.dumps(arguments)]
    more = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if how == "script":
        more |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": str(PORT)}
        commands = [[sys.executable, *rest]] * 2
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        torchrun += ["--nproc-per-node=1", "--master-addr=10.77.0.1", f"--master-port={PORT}"]
        commands = [[*torchrun, f"--node-rank={number}", *rest] for number in (0, 1)]
    together(machines, commands, **more)
    net = Net()
    trainer_for(tmp_path / "one").fit(net, loader(8), loader(8))
    one = torch.cat([p.detach().flatten() for p in net.parameters()])
    for rank in (0, 1):
        told = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert (told["rank"], told["world"], told["step"]) == (rank, 2, 8)
        # The sums of two processes are added in another order than those of one.
        assert torch.allclose(torch.tensor(told["weights"]), one, rtol=0, atol=1e-6)
