"""Whoever starts the processes: they train what one would, and the Trainer has it afterwards."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden import compat
from leyden.backends.launchers import ProcessLauncher, ScriptLauncher
from leyden.backends.launchers.spawn import RankEnded
from leyden.backends.strategies import DDPStrategy, FSDPStrategy
from leyden.callbacks import ModelCheckpoint
from leyden.engine import Events
from leyden.engine.errors import MisconfigurationException
from tests.ranks import ENVIRONMENT
from tests.trainer.launch_runs import Counter, Net, loader, trainer_for

pytestmark = pytest.mark.slow

RUNS = Path(__file__).with_name("launch_runs.py")
TWO: dict[str, Any] = {"accelerator": "ddp_cpu", "num_processes": 2}


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    # The sums of two processes are added in another order than those of one.
    return torch.allclose(one, other, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of batches twice as large: two epochs, a third one, a test."""
    net, trainer = Net(), trainer_for(tmp_path_factory.mktemp("alone"))
    trainer.fit(net, loader(8), loader(8))
    two = weights(net)
    trainer.max_epochs = 3
    trainer.fit(net, loader(8), loader(8))
    results = trainer.test(net, loader(8), verbose=False)
    predictions = trainer.predict(net, loader(4))
    return {"two": two, "three": weights(net), "results": results, "predictions": predictions}


# ---------------------------------------------------------------------- processes with the objects


def test_processes_have_pytorch_lightning_where_this_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "written_for_1_1.py").write_text(
        "import pytorch_lightning as pl\nimport torch\n\n\n"
        "class Net(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(4, 2)\n\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return self.layer(batch[0]).sum()\n\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    compat.install(force=True)
    try:
        net = importlib.import_module("written_for_1_1").Net()
        trainer = trainer_for(tmp_path, **TWO, max_epochs=1)
        trainer.fit(net, loader(4))
    finally:
        compat.uninstall()
        sys.modules.pop("written_for_1_1", None)
    assert trainer.global_step == 4


def test_the_trainer_has_what_two_processes_did(tmp_path: Path, alone: dict[str, Any]) -> None:
    counter, saver = Counter(), ModelCheckpoint(monitor="v")
    epochs = counter.epochs
    net = Net()
    seen, parameter = net.seen, net.layers[0].weight
    trainer = trainer_for(tmp_path, callbacks=[counter, saver], checkpoint_callback=True, **TWO)
    assert trainer.use_ddp and trainer.world_size == 2 and trainer.is_global_zero
    assert isinstance(trainer.strategy.launcher, ProcessLauncher)

    assert trainer.fit(net, loader(), loader()) == 1
    assert close(weights(net), alone["two"])
    assert net.layers[0].weight is parameter and not parameter.is_shared()
    assert net.seen is seen and seen == [0, 1, 2, 3] * 2
    assert (counter.batches, counter.epochs, epochs) == (8, [0, 1], [0, 1])
    assert (trainer.current_epoch, trainer.global_step, trainer.state) == (1, 8, "FINISHED")
    assert trainer.callback_metrics.keys() == {"loss", "v"}
    assert Path(saver.best_model_path).exists() and saver.best_model_score is not None
    assert net.trainer is trainer and trainer.model is net

    file = tmp_path / "after.ckpt"
    trainer.save_checkpoint(file)
    kept = torch.load(file, weights_only=True)
    assert kept["global_step"] == 8 and len(kept["optimizer_states"][0]["state"]) == 4

    trainer.max_epochs = 3
    trainer.fit(net, loader(), loader())
    assert close(weights(net), alone["three"])
    assert (trainer.global_step, counter.batches, counter.epochs) == (12, 12, [0, 1, 2])

    (found,) = trainer.test(net, loader(), verbose=False)
    assert found == pytest.approx(alone["results"][0], abs=1e-6)
    predictions = trainer.predict(net, loader(4))
    assert [p.shape for p in predictions] == [p.shape for p in alone["predictions"]]
    assert close(torch.cat(predictions), torch.cat(alone["predictions"]))


def test_what_was_added_by_hand_goes_along(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, gradient_clip_val=0.5, **TWO)
    net, heard = Net(), []
    trainer.engine.add_event_handler(
        Events.ITERATION_COMPLETED(every=3), lambda engine: net.seen.append(-engine.state.iteration)
    )
    trainer.handlers.remove("GradientClipping")
    trainer.fit(net, loader(), loader())
    assert net.seen == [0, 1, 2, -3, 3, 0, 1, -6, 2, 3] and heard == []


def test_layers_that_setup_makes_are_there_afterwards(tmp_path: Path) -> None:
    class Late(Net):
        def setup(self, stage: str) -> None:
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 2))
            self.register_buffer("count", torch.tensor(3))

    net = Late()
    trainer_for(tmp_path, **TWO).fit(net, loader(), loader())
    assert weights(net).shape == (10,) and net.count == 3


def test_a_sharded_model_is_whole_afterwards(tmp_path: Path, alone: dict[str, Any]) -> None:
    net = Net()
    trainer = trainer_for(tmp_path, strategy="fsdp", num_processes=2)
    trainer.strategy.launcher = ProcessLauncher(2)  # by its name it would start pytest again
    trainer.fit(net, loader(), loader())
    trainer.max_epochs = 3
    trainer.fit(net, loader(), loader())
    assert type(net.layers[0]) is torch.nn.Linear
    assert type(net.layers[0].weight) is torch.nn.Parameter
    assert torch.allclose(weights(net), alone["three"], rtol=0, atol=1e-5)


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    class Random(Net):
        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * torch.rand(1).squeeze()

    def trained(*epochs: int) -> torch.Tensor:
        leyden.seed_everything(2)
        net, trainer = Random(), trainer_for(tmp_path, **TWO)
        for until in epochs:
            trainer.max_epochs = until
            trainer.fit(net, loader(), loader())
        return weights(net)

    assert torch.equal(trained(3), trained(1, 3))


def test_tuning_happens_in_all_processes(tmp_path: Path) -> None:
    class Tuned(Net):
        lr = 0.1

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), self.lr)

    net = Tuned()
    found = trainer_for(tmp_path, auto_lr_find=True, **TWO).tune(net, loader(), loader())
    one = Tuned()
    alone = trainer_for(tmp_path, auto_lr_find=True).tune(one, loader(8), loader(8))
    assert found["lr_find"].results["loss"] == pytest.approx(
        alone["lr_find"].results["loss"], rel=1e-4
    )
    assert net.lr == one.lr != 0.1


def test_random_numbers_go_on_as_after_one_process(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trainer_for(tmp_path).fit(Net(), loader(8), loader(8))
    expected = torch.rand(2)
    torch.manual_seed(5)
    trainer_for(tmp_path, **TWO).fit(Net(), loader(), loader())
    assert torch.equal(torch.rand(2), expected)


def test_the_error_of_a_rank_is_that_of_the_call(tmp_path: Path) -> None:
    net = Net(fail_at=3)
    before = weights(net)
    with pytest.raises(ValueError, match="rank one cannot go on") as caught:
        trainer_for(tmp_path, **TWO).fit(net, loader(), loader())
    assert "in training_step" in str(caught.value.__cause__)
    assert torch.equal(weights(net), before)


def test_a_killed_rank_ends_the_call(tmp_path: Path) -> None:
    with pytest.raises(RankEnded, match="rank 1 was killed"):
        trainer_for(tmp_path, **TWO).fit(Net(fail_at=3, how="kill"), loader(), loader())


def test_ctrl_c_ends_the_training_of_all(tmp_path: Path) -> None:
    class Signalling(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == 2 and trainer.is_global_zero:
                (tmp_path / "now").touch()

    def press() -> None:
        while not (tmp_path / "now").exists():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    trainer = trainer_for(tmp_path, max_epochs=100_000, callbacks=[Signalling()], **TWO)
    assert trainer.fit(Net(), loader(), loader()) == 1
    pressing.join()
    assert trainer.interrupted and trainer.state == "INTERRUPTED" and trainer.exit_code == 130
    assert trainer.global_step > 2


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    net = Net()
    net.guard = threading.Lock()
    with pytest.raises(MisconfigurationException, match="the module's attribute 'guard' cannot"):
        trainer_for(tmp_path, **TWO).fit(net, loader(), loader())


# ---------------------------------------------------------------------- the script, torchrun


def run(command: list[str], folder: Path, **arguments: Any) -> subprocess.CompletedProcess[str]:
    whole = [*command, str(RUNS), str(folder), json.dumps(arguments)]
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, **ENVIRONMENT, "PYTHONPATH": paths}
    return subprocess.run(whole, env=env, capture_output=True, text=True, timeout=110, check=False)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize(
    ("command", "arguments", "where"),
    [
        ([sys.executable], {"accelerator": "ddp", "num_processes": 2}, "leyden"),
        (TORCHRUN, {}, "torchrun"),
    ],
    ids=["script", "torchrun"],
)
def test_both_processes_go_through_the_script(
    tmp_path: Path, alone: dict[str, Any], command: list[str], arguments: Any, where: str
) -> None:
    done = run(command, tmp_path, again=True, **arguments)
    assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for rank, one in enumerate(told):
        assert (one["rank"], one["world"], one["where"]) == (rank, 2, where)
        assert (one["step"], one["epoch"]) == (12, 2)
        assert close(torch.tensor(one["weights"]), alone["three"])
        assert one["results"][0] == pytest.approx(alone["results"][0], abs=1e-6)
    assert told[0]["weights"] == told[1]["weights"]


def test_a_script_whose_child_fails_fails(tmp_path: Path) -> None:
    done = run(
        [sys.executable], tmp_path, accelerator="ddp", num_processes=2, fail_at=3, how="kill"
    )
    assert done.returncode == 1
    assert "the process of rank 1 ended with signal 9" in done.stderr
    assert not list(tmp_path.glob("rank*.json"))


def test_a_killed_worker_of_torchrun_goes_on_from_the_last_checkpoint(
    tmp_path: Path, alone: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(RUNS.parents[2])!r})\n"
        "from tests.trainer.launch_runs import main\n"
        "first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "main(Path(sys.argv[1]), dict(checkpoint_callback=True, resume_from_checkpoint='last',\n"
        "     **(dict(fail_at=6, how='kill') if first else {})))\n"
    )
    script = tmp_path / "elastic.py"
    script.write_text(code)
    env = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [*TORCHRUN, "--max-restarts=2", str(script), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=115,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert all(close(torch.tensor(one["weights"]), alone["two"]) for one in told)
    assert told[0]["step"] == 8


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({}, (False, False, False)),
        ({"accelerator": "ddp"}, (False, False, False)),
        ({"accelerator": "ddp_spawn"}, (False, False, False)),
        ({"accelerator": "ddp2"}, (False, False, False)),
        ({"accelerator": "dp"}, (False, False, False)),
        ({"accelerator": "dp", "num_processes": 2}, (False, False, False)),
        ({"num_processes": 2}, (False, True, False)),
        ({"num_nodes": 2}, (False, True, False)),
        ({"accelerator": "ddp_cpu", "num_processes": 2}, (False, True, False)),
        ({"accelerator": "ddp_cpu"}, (False, True, False)),
        ({"strategy": "ddp_find_unused_parameters_true", "devices": 2}, (False, True, False)),
        ({"strategy": "ddp", "accelerator": "cpu"}, (False, True, False)),
        ({"strategy": "single_device"}, (False, False, False)),
    ],
)
def test_flags_are_those_of_1_1(arguments: dict[str, Any], flags: tuple[bool, ...]) -> None:
    trainer = leyden.Trainer(logger=False, checkpoint_callback=False, **arguments)
    assert (trainer.use_dp, trainer.use_ddp, trainer.use_ddp2) == flags


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"gpus": 1, "accelerator": "dp"}, (True, False, 1)),
        ({"gpus": 2, "accelerator": "dp"}, (True, False, 1)),
        ({"gpus": 2, "accelerator": "ddp"}, (False, True, 2)),
        ({"gpus": 2}, (False, True, 2)),
        ({"gpus": None, "accelerator": "dp"}, (False, False, 1)),
    ],
)
def test_what_is_told_of_gpus(
    arguments: dict[str, Any], facts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments["gpus"]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: arguments["gpus"])
    trainer = leyden.Trainer(logger=False, checkpoint_callback=False, **arguments)
    assert (trainer.use_dp, trainer.use_ddp, trainer.num_processes) == facts


def test_a_plugin_and_a_name_are_one_strategy() -> None:
    with pytest.raises(MisconfigurationException, match="='ddp' are two strategies"):
        leyden.Trainer(plugins=FSDPStrategy(), accelerator="ddp", num_processes=2)
    both = leyden.Trainer(
        plugins=DDPStrategy(),
        accelerator="ddp_cpu",
        num_processes=2,
        checkpoint_callback=False,
        logger=False,
    )
    assert isinstance(both.strategy.launcher, ProcessLauncher) and both.world_size == 2
    with pytest.raises(MisconfigurationException, match="one process to distribute to"):
        leyden.Trainer(plugins=DDPStrategy(), logger=False).fit(Net(), loader(), loader())


@pytest.mark.parametrize("name", ["ddp", "ddp_spawn", "ddp2", "dp"])
def test_nothing_to_distribute_to_is_told_when_it_runs(tmp_path: Path, name: str) -> None:
    trainer = trainer_for(tmp_path, accelerator=name)
    with pytest.raises(MisconfigurationException, match=name):
        trainer.fit(Net(), loader(), loader())
    assert trainer.strategy.launcher is None


def test_names_choose_the_launcher() -> None:
    def launcher(**arguments: Any) -> type:
        trainer = leyden.Trainer(logger=False, checkpoint_callback=False, **arguments)
        return type(trainer.strategy.launcher)

    assert launcher(accelerator="ddp", num_processes=2) is ScriptLauncher
    assert launcher(strategy="ddp", devices=2) is ScriptLauncher
    assert launcher(num_processes=2) is ProcessLauncher
    assert launcher(strategy="ddp_notebook", devices=2) is ProcessLauncher
    assert launcher() is type(None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_processes": 4}, "2 processes are there .*torchrun.* num_processes=4 asks for 4"),
        ({"num_nodes": 2}, "on 1 machines, and num_nodes=2"),
        ({"devices": 3, "accelerator": "cpu"}, "num_processes=3 asks for 3"),
    ],
)
def test_processes_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], said: str
) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29400",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MisconfigurationException, match=said):
        leyden.Trainer(logger=False, checkpoint_callback=False, **arguments)
    trainer = leyden.Trainer(logger=False, checkpoint_callback=False)
    assert trainer.use_ddp and trainer.world_size == 2
    single = leyden.Trainer(logger=False, checkpoint_callback=False, strategy="single_device")
    assert not single.use_ddp and single.world_size == 1


def test_a_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", str(port))
        trainer = trainer_for(tmp_path)
        with pytest.raises(MisconfigurationException, match=f"127.0.0.1:{port}, and that port is"):
            trainer.fit(Net(), loader(), loader())
