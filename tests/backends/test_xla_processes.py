"""A process for each TPU core, without torch_xla: choices, refusals, and what is averaged when."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import leyden
from leyden.backends.environments import Environment
from leyden.backends.launchers import ProcessLauncher
from leyden.backends.strategies import DDPStrategy, XLAProcessStrategy, XLAStrategy
from leyden.backends.strategies.base import Answer
from leyden.backends.strategies.processes import RankError
from leyden.backends.xla import collectives, runtime
from leyden.engine import Engine, Events
from leyden.engine.errors import MisconfigurationException
from leyden.handlers import GradientAveraging, GradientClipping, OptimizerStep, StepMark
from leyden.sending import dumps

QUIET: dict[str, Any] = dict(logger=False, checkpoint_callback=False)
SPAWN: dict[str, Any] = dict(tpu_cores=8, accelerator="tpu_spawn", **QUIET)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with torch_xla and four cores, whose runtime must not be started here."""

    def started() -> int:
        raise AssertionError("the runtime was started, which takes the cores")

    monkeypatch.setattr(runtime, "problem", lambda: None)
    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: False)
    monkeypatch.setattr(runtime, "device_count", started)
    monkeypatch.setattr(runtime, "process_count", lambda: 4)
    monkeypatch.setattr(runtime, "why_no_processes", lambda: "")


# ------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"tpu_cores": 8, "accelerator": "tpu_spawn"},
        {"tpu_cores": "8", "strategy": "tpu_spawn"},
        {"accelerator": "tpu", "strategy": "tpu_spawn"},
        {"accelerator": "TPU_spawn", "devices": 8},
        {"tpu_cores": 8, "plugins": XLAProcessStrategy()},
        {"plugins": [XLAProcessStrategy(broadcast_buffers=False)]},
    ],
)
def test_arguments_choose_a_process_for_each_core(four_cores: None, arguments: Any) -> None:
    run = leyden.Trainer(**arguments, **QUIET)
    assert type(run.strategy) is XLAProcessStrategy
    assert (run.world_size, run.global_rank, run.on_tpu, run.tpu_id) == (4, 0, True, None)
    assert run.require_distributed_sampler
    assert run.distributed_sampler_kwargs == {"num_replicas": 4, "rank": 0}
    launcher = run.strategy.launcher
    assert isinstance(launcher, ProcessLauncher)
    assert (launcher.count, launcher.method) == (4, "spawn")
    assert {"StepMark", "GradientAveraging"} <= {type(one).__name__ for one in run.handlers}


def test_the_processes_of_torchrun_are_taken(
    four_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}.items():
        monkeypatch.setenv(name, value)
    run = leyden.Trainer(**SPAWN)
    assert (run.strategy.launcher, run.world_size) == (None, 8)
    assert (run.tpu_local_core_rank, run.tpu_global_core_rank, run.node_rank) == (1, 5, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tpu_cores": 1, "accelerator": "tpu_spawn"}, "pass tpu_cores=8"),
        ({"tpu_cores": [2], "accelerator": "tpu_spawn"}, "pass tpu_cores=8"),
        ({"accelerator": "tpu_spawn"}, "no tpu_cores are given: pass tpu_cores=8$"),
        ({**SPAWN, "sync_batchnorm": True}, "one process drives all cores"),
        ({**SPAWN, "num_nodes": 2}, "works within one node"),
        ({"tpu_cores": 8, "plugins": DDPStrategy()}, "two kinds of device"),
        ({"tpu_cores": 1, "plugins": XLAProcessStrategy()}, "pass tpu_cores=8"),
        ({"tpu_cores": 8, "accelerator": "ddp"}, "'tpu_spawn' for a process for each core"),
    ],
)
def test_what_does_not_go_together(four_cores: None, arguments: Any, words: str) -> None:
    with pytest.raises(MisconfigurationException, match=words):
        leyden.Trainer(**{**QUIET, **arguments})


def test_without_torch_xla_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "problem", lambda: "torch_xla is not installed")
    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: False)
    with pytest.raises(MisconfigurationException, match=r"pip install 'leyden\[tpu\]'"):
        leyden.Trainer(**SPAWN)
    with pytest.raises(MisconfigurationException, match=r"pip install 'leyden\[tpu\]'"):
        leyden.Trainer(plugins=XLAProcessStrategy(), **QUIET)


def test_a_process_that_holds_the_tpu_starts_no_others(
    four_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "why_no_processes", lambda: "this process holds the TPU")
    with pytest.raises(MisconfigurationException, match="holds the TPU: make this Trainer first"):
        leyden.Trainer(**SPAWN)


def test_a_ready_strategy_of_one_core_is_used(
    four_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "device_count", lambda: 4)
    ready = XLAStrategy(2)
    assert leyden.Trainer(tpu_cores=1, plugins=ready, **QUIET).strategy is ready


def test_one_core_needs_no_processes(four_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "process_count", lambda: 1)
    run = leyden.Trainer(**SPAWN)
    assert (type(run.strategy).__name__, run.strategy.launcher) == ("XLAStrategy", None)


# ------------------------------------------------------------------------ what is asked of XLA


class Fake:
    """Stands for torch_xla.

    Args:
        kind: of its devices.
        world: how many cores it joins.
    """

    def __init__(self, kind: str = "TPU", world: int = 4) -> None:
        self.calls: list[Any] = []
        self.running = self.spmd = self.plugins = False
        modules: dict[str, Any] = {
            name: types.ModuleType(name)
            for name in (
                "torch_xla",
                "torch_xla.core",
                "torch_xla.core.xla_model",
                "torch_xla.runtime",
                "torch_xla._internal",
                "torch_xla._internal.tpu",
                "torch_xla._internal.pjrt",
                "torch_xla.experimental",
                "torch_xla.experimental.plugins",
            )
        }
        for name, module in modules.items():
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(modules[parent], own, module)
        self.modules = modules
        modules["torch_xla"]._XLAC = types.SimpleNamespace(
            _xla_runtime_is_initialized=lambda: self.running
        )
        modules["torch_xla"].sync = lambda: self.calls.append("sync")
        times = modules["torch_xla.runtime"]
        times.device_type, times.world_size = (lambda: kind), (lambda: world)
        times.is_spmd = lambda: self.spmd
        modules["torch_xla._internal.tpu"].num_local_processes = lambda: 4
        modules["torch_xla._internal.pjrt"].initialize_multiprocess = self._called("join")
        modules["torch_xla.core.xla_model"].all_reduce = self._called("all_reduce")
        own_plugins = modules["torch_xla.experimental.plugins"]
        own_plugins.using_dynamic_plugins = lambda: self.plugins
        own_plugins.default = lambda: types.SimpleNamespace(physical_chip_count=lambda: 6)

    def _called(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.calls.append((name, *args, kwargs))

    def install(self, patch: pytest.MonkeyPatch) -> Fake:
        for name, module in self.modules.items():
            patch.setitem(sys.modules, name, module)
        return self


def test_cores_are_counted_as_torch_xlas_launch_counts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake("TPU").install(monkeypatch)
    assert runtime.process_count() == 4
    fake.plugins = True
    assert runtime.process_count() == 6
    Fake("CPU").install(monkeypatch)
    monkeypatch.setenv("CPU_NUM_DEVICES", "3")
    assert runtime.process_count() == 3
    monkeypatch.delenv("CPU_NUM_DEVICES")
    assert runtime.process_count() == 1


def test_each_process_becomes_that_of_its_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPU_NUM_DEVICES", "4")
    fake = Fake("CPU").install(monkeypatch)
    runtime.join(2, 4)
    assert fake.calls == [("join", 2, 4, {})]
    assert runtime.os.environ["CPU_NUM_DEVICES"] == "1"


def test_why_a_process_cannot_leave_the_cores_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("TPU").install(monkeypatch)
    assert runtime.why_no_processes() == ""
    fake.running = True
    assert "holds the TPU" in runtime.why_no_processes()
    Fake("CPU").install(monkeypatch).running = True
    assert runtime.why_no_processes() == ""
    fake = Fake("CPU").install(monkeypatch)
    fake.spmd = True
    assert "all of them as one" in runtime.why_no_processes()


@pytest.mark.parametrize("world", [8, 1])
def test_cores_that_do_not_fit_the_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """TPUs of version 2 and 3 have two cores a process."""
    fake = Fake("TPU", world).install(monkeypatch)
    monkeypatch.setattr(runtime, "begin", lambda: torch.device("cpu"))
    strategy = XLAProcessStrategy(environment=Environment("leyden", 1, 1, 0, 4))
    with pytest.raises(MisconfigurationException, match=f"has 4 processes, and XLA joins {world}"):
        strategy.connect()
    assert fake.calls == [("join", 1, 4, {})]


def test_on_tpus_the_sum_is_recorded_and_nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("TPU", 4).install(monkeypatch)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 4)
    tensors = [torch.ones(2), torch.zeros(1)]
    collectives.reduce(tensors, scale=0.25)
    collectives.reduce([])
    [(name, kind, held, options)] = fake.calls
    assert (name, kind, options) == ("all_reduce", "sum", {"scale": 0.25, "pin_layout": False})
    assert all(one is other for one, other in zip(held, tensors, strict=True))


def test_strangers_to_xla_add_up_over_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its CPU devices are, and the processes of a group. Here two that hold the same."""
    fake = Fake("CPU", 1).install(monkeypatch)
    sent: list[Tensor] = []

    def all_reduce(tensor: Tensor, op: Any, group: Any = None) -> None:
        sent.append(tensor.clone())
        tensor.mul_(2)

    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    tensors = [torch.ones(2, 2), torch.arange(3), torch.full((), 5.0)]
    collectives.reduce(tensors)
    assert [one.tolist() for one in tensors] == [[[2.0, 2.0], [2.0, 2.0]], [0, 2, 4], 10.0]
    assert [one.numel() for one in sent] == [5, 3]  # one message for each type
    collectives.reduce(tensors[:1], scale=0.25)
    assert tensors[0].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert fake.calls == ["sync"] * 2


def test_a_tensor_of_a_core_is_sent_as_one_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's own would start XLA where it is read."""

    class Far(Tensor):
        @property
        def device(self) -> Any:  # type: ignore[override]
            return types.SimpleNamespace(type="xla")

    pytest.importorskip("cloudpickle")
    copied: list[Any] = []
    monkeypatch.setattr("leyden.sending.host_copy", lambda one: copied.append(one) or torch.ones(1))
    far = torch.zeros(1).as_subclass(Far)
    assert b"numpy" not in dumps({"loss": far}, {})
    assert len(copied) == 1 and copied[0] is far


# ------------------------------------------------------------------------ gradients


class Two(XLAProcessStrategy):
    """One of two processes; of the other it is known what it would send.

    Args:
        theirs: which of its parameters have gradients.
        sent: what it adds to the sums.
    """

    def __init__(self, theirs: list[int], sent: float = 0.0) -> None:
        super().__init__("cpu", Environment("leyden", 1, 1, 0, 2))
        self.theirs = theirs
        self.sent = sent
        self.asked = 0

    def ask(self, numbers: Any) -> Answer:
        self.asked += 1
        return Answer([max(pair) for pair in zip(numbers, self.theirs, strict=True)])

    def _share(self, tensors: Any) -> None:
        return


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each sum had; the other process brings twos."""
    sizes: list[int] = []

    def reduce(tensors: Any, op: Any = None, *, scale: float = 1.0, group: Any = None) -> None:
        sizes.append(len(tensors))
        for tensor in tensors:
            tensor.add_(2.0).mul_(scale)

    monkeypatch.setattr(collectives, "reduce", reduce)
    return sizes


def parts() -> tuple[nn.Linear, torch.optim.SGD]:
    model = nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


def test_gradients_are_averaged_over_both(reduced: list[int]) -> None:
    model, optimizer = parts()
    strategy = Two([1, 1])
    strategy.prepare(model, [optimizer], manual=False)
    for _ in range(3):
        model.weight.grad, model.bias.grad = torch.full((1, 2), 4.0), torch.zeros(1)
        strategy.average_gradients(optimizer)
        assert model.weight.grad.tolist() == [[3.0, 3.0]]
        assert model.bias.grad.tolist() == [1.0]
    assert reduced == [2] * 3
    assert strategy.asked == 1  # a message a run, not a step


def test_a_layer_that_only_the_other_uses_gets_its_part(reduced: list[int]) -> None:
    model, optimizer = parts()
    strategy = Two([1, 1])
    strategy.prepare(model, [optimizer], manual=False)
    model.weight.grad = torch.zeros(1, 2)
    strategy.average_gradients(optimizer)
    assert model.bias.grad is not None and model.bias.grad.tolist() == [1.0]


def test_a_layer_that_nobody_uses_stays_without(reduced: list[int]) -> None:
    model, optimizer = parts()
    strategy = Two([1, 0])
    strategy.prepare(model, [optimizer], manual=False)
    model.weight.grad = torch.zeros(1, 2)
    strategy.average_gradients(optimizer)
    assert model.bias.grad is None and reduced == [1]
    model.bias.grad = torch.ones(1)
    with pytest.raises(RankError, match=r"rank 1: a parameter of shape \(1,\) has its first"):
        strategy.average_gradients(optimizer)


def test_each_optimizer_has_its_own(reduced: list[int]) -> None:
    one, first = parts()
    other, second = parts()
    strategy = Two([1, 1])
    strategy.prepare(nn.ModuleList([one, other]), [first, second], manual=True)
    for parameter in (*one.parameters(), *other.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    strategy.average_gradients(second)
    assert one.bias.grad is not None and one.bias.grad.tolist() == [0.0]
    assert other.bias.grad is not None and other.bias.grad.tolist() == [1.0]
    strategy.after_backward()  # by hand all are averaged, as backward passes of DDP do
    assert one.bias.grad.tolist() == [1.0]
    strategy.prepare(one, [first], manual=False)
    strategy.after_backward()
    assert one.bias.grad.tolist() == [1.0]
    strategy.release()


def test_the_average_comes_before_all_that_look_at_gradients() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def average(given: Any) -> None:
        assert given is optimizer and weight.grad is not None
        weight.grad.fill_(8.0)

    engine = Engine(lambda engine, batch: weight.sum())
    for handler in (GradientClipping(0.5), GradientAveraging(average), OptimizerStep(optimizer)):
        handler.attach(engine)
    engine.run([0, 1], max_epochs=1)
    assert weight.item() == pytest.approx(-1.0, abs=1e-5)


def test_an_average_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="average_gradients"):
        GradientAveraging(None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------ between steps


def test_what_is_recorded_between_steps_is_run_by_itself() -> None:
    calls: list[str] = []
    engine = Engine(lambda engine, batch: None)
    StepMark(lambda: calls.append("mark"), flush=lambda: calls.append("flush")).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: calls.append("epoch"))
    engine.run([0, 1], max_epochs=2)
    assert calls == ["epoch", "flush", "mark", "mark"] * 2


# ------------------------------------------------------------------------ what the doctor says


def test_the_report_says_what_stands_for_tpu_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from leyden.backends import device_report

    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: False)
    monkeypatch.setattr(runtime, "problem", lambda: "torch_xla 2.9.0 does not work with torch 2.13")
    found = device_report.device_report()
    assert found["kinds"]["tpu"]["why"].startswith("torch_xla 2.9.0 does not work with torch 2.13")
    rows = {row["value"]: row for row in found["arguments"] if "tpu" in row["value"]}
    assert set(rows) == {"'tpu'", "'tpu_spawn'"} and not any(r["usable"] for r in rows.values())
    monkeypatch.setattr(runtime, "problem", lambda: None)
    monkeypatch.setattr(device_report, "version", lambda name: "2.9.0")
    Fake("CPU").install(monkeypatch)
    monkeypatch.setenv("CPU_NUM_DEVICES", "3")
    found = device_report.device_report()["kinds"]["tpu"]
    assert found["count"] == 3 and "the CPU's own (PJRT_DEVICE=CPU)" in found["devices"][0]["name"]
    Fake("TPU").install(monkeypatch)
    found = device_report.device_report()["kinds"]["tpu"]
    assert found["devices"] == [{"name": "4, through torch_xla 2.9.0"}]
    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: True)
    found = device_report.device_report()["kinds"]["tpu"]
    assert found["why"] == "" and "plain devices of torch" in found["devices"][0]["name"]
