"""What of TPUs can be tested without torch_xla: refusals, gathered batches, marks."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

import leyden
from leyden.backends.precision import precision_for
from leyden.backends.precision.quantized import (
    _round,
    channel_scales,
    fake_quantize,
    fake_quantize_input,
)
from leyden.backends.strategies import Strategy, XLAFullyShardedStrategy, XLASpmdStrategy
from leyden.backends.strategies import xla as strategies
from leyden.backends.strategies.xla import XLAStrategy, check_tpu_cores, tpu_strategy
from leyden.backends.xla import moving, runtime, to_host
from leyden.backends.xla.gathered import GatheredBatches, gathered
from leyden.backends.xla.trees import each_tensor
from leyden.engine import Engine, rng
from leyden.engine.errors import MisconfigurationException
from leyden.engine.feed import Feed
from leyden.engine.ignite_on_xla import mend
from leyden.handlers import GradientAccumulation, OptimizerStep, StepMark
from leyden.handlers.evaluation import evaluator

QUIET: dict[str, Any] = dict(logger=False, checkpoint_callback=False)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without torch_xla."""
    monkeypatch.setattr(runtime, "problem", lambda: "torch_xla is not installed")
    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: False)


@pytest.fixture
def with_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has it, and two devices."""
    monkeypatch.setattr(runtime, "problem", lambda: None)
    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: False)
    monkeypatch.setattr(runtime, "device_count", lambda: 2)


# ------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("cores", [1, 8, [1], [8], "1", "8"])
def test_without_torch_xla_the_cure_is_named(without: None, cores: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"pip install 'leyden\[tpu\]'") as raised:
        leyden.Trainer(tpu_cores=cores, **QUIET)
    assert type(raised.value).__name__ == "MisconfigurationException"
    assert "tpu_cores=" in str(raised.value)


@pytest.mark.parametrize("cores", [0, 2, True, [9], [0], [1, 2], 1.5, [], "3"])
def test_other_numbers_of_cores_are_refused(with_xla: None, cores: Any) -> None:
    with pytest.raises(MisconfigurationException, match="tpu_cores="):
        leyden.Trainer(tpu_cores=cores, **QUIET)


def test_a_torch_xla_for_another_torch_is_told_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> Any:
        raise ImportError("_XLAC.so: undefined symbol: deleteNode")

    parts = types.SimpleNamespace(
        import_module=broken,
        util=types.SimpleNamespace(find_spec=lambda name: object()),
        metadata=types.SimpleNamespace(version=lambda name: "2.9.0"),
    )
    monkeypatch.setattr(runtime, "importlib", parts)
    why = runtime.problem()
    assert why is not None and "torch_xla 2.9.0 does not work with torch" in why
    assert "undefined symbol" in why


def test_a_missing_torch_xla_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert runtime.problem() == "torch_xla is not installed"
    with pytest.raises(ValueError, match="tpu_cores=1 trains through torch_xla"):
        runtime.require("tpu_cores=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tpu_cores": [3]}, "asks for core 3, and this machine has 1 to 2"),
        ({"tpu_cores": 8, "accelerator": "ddp"}, "do not go together"),
        ({"tpu_cores": 1, "accelerator": "fsdp"}, "nothing to cut up"),
        ({"tpu_cores": 1, "accelerator": "cpu"}, "two kinds of device"),
        ({"tpu_cores": 1, "precision": "16-mixed"}, "not in float16"),
        ({"tpu_cores": 1, "precision": 16, "amp_backend": "apex"}, "levels are about float16"),
    ],
)
def test_what_does_not_go_together(with_xla: None, arguments: Any, words: str) -> None:
    with pytest.raises(MisconfigurationException, match=words):
        leyden.Trainer(**arguments, **QUIET)


@pytest.mark.parametrize(
    ("arguments", "kind", "device", "core"),
    [
        ({"tpu_cores": 1}, XLAStrategy, "xla:0", None),
        ({"tpu_cores": [2]}, XLAStrategy, "xla:1", 2),
        ({"tpu_cores": 8}, XLASpmdStrategy, "xla:0", None),
        ({"tpu_cores": "8", "accelerator": "tpu"}, XLASpmdStrategy, "xla:0", None),
        ({"accelerator": "tpu"}, XLASpmdStrategy, "xla:0", None),
        ({"accelerator": "tpu", "devices": 1}, XLAStrategy, "xla:0", None),
        ({"tpu_cores": 8, "accelerator": "xla"}, XLASpmdStrategy, "xla:0", None),
        ({"tpu_cores": 8, "accelerator": "fsdp"}, XLAFullyShardedStrategy, "xla:0", None),
    ],
)
def test_arguments_choose_a_strategy(
    with_xla: None, arguments: Any, kind: type, device: str, core: int | None
) -> None:
    run = leyden.Trainer(**arguments, **QUIET)
    assert type(run.strategy) is kind
    assert str(run.root_device) == device
    assert (run.tpu_id, run.use_tpu, run.on_tpu, run.on_gpu) == (core, True, True, False)
    assert (run.world_size, run.tpu_local_core_rank, run.tpu_global_core_rank) == (1, 0, 0)
    assert not run.require_distributed_sampler
    assert "StepMark" in run.handlers


def test_a_plain_tpu_of_torchs_own_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written against TorchTPU's documentation; nothing of it can be run without a TPU."""
    monkeypatch.setattr(runtime, "has_plain_tpu", lambda: True)
    asked: list[Any] = []

    def device(kind: str, index: int) -> torch.device:
        asked.append(kind)  # whose name torch has only where the TPU is
        return torch.device("privateuseone", index)

    monkeypatch.setattr(strategies, "torch", types.SimpleNamespace(device=device))
    found = tpu_strategy([3], None)
    assert type(found) is Strategy and not found.lazy
    assert (asked, found.root_device.index) == (["tpu"], 2)
    check_tpu_cores(1, None, "tpu_cores=1")
    with pytest.raises(MisconfigurationException, match="plain device of torch"):
        check_tpu_cores(8, None, "tpu_cores=8")


@pytest.mark.parametrize(("kind", "there"), [("tpu", True), ("cuda", False)])
def test_a_plain_tpu_is_asked_for_in_torchs_words(
    monkeypatch: pytest.MonkeyPatch, kind: str, there: bool
) -> None:
    known = types.SimpleNamespace(
        is_available=lambda: True, current_accelerator=lambda: types.SimpleNamespace(type=kind)
    )
    monkeypatch.setattr(torch, "accelerator", known, raising=False)
    assert runtime.has_plain_tpu() is there
    monkeypatch.delattr(torch, "accelerator")
    assert runtime.has_plain_tpu() is False  # before torch 2.6


@pytest.mark.parametrize("device", ["xla", "tpu"])
def test_half_precision_is_bfloat16(device: str) -> None:
    found = precision_for(16, device)
    assert (found.name, found.scaler) == ("bf16-mixed", None)


# ------------------------------------------------------------------------ batches of all cores


def dataset(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count), torch.arange(count) * 10)


def read(batches: Any) -> list[list[int]]:
    return [batch[0].tolist() for batch in batches]


@pytest.mark.parametrize(("cores", "sizes"), [(2, [6, 6, 1]), (4, [12, 1]), (8, [13])])
def test_a_step_takes_the_batches_of_all_cores(cores: int, sizes: list[int]) -> None:
    loader = DataLoader(dataset(13), batch_size=3)
    found = gathered(loader, cores)
    batches = read(found)
    assert [len(batch) for batch in batches] == sizes
    assert sum(batches, []) == list(range(13))
    assert len(found) == len(sizes)
    assert read(loader) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12]]  # left as it was


@pytest.mark.parametrize(("whole", "sizes"), [(True, [6, 6]), (False, [6, 6, 3])])
def test_a_last_batch_of_fewer_is_left_out_where_the_loader_does(
    whole: bool, sizes: list[int]
) -> None:
    loader = DataLoader(dataset(16), batch_size=3, drop_last=True)
    found = gathered(loader, 2, whole=whole)
    assert [len(batch) for batch in read(found)] == sizes
    assert len(found) == len(sizes)
    kept = gathered(DataLoader(dataset(16), batch_size=3), 2, whole=True)
    assert [len(batch) for batch in read(kept)] == [6, 6, 4]


def test_one_core_leaves_the_loader() -> None:
    loader = DataLoader(dataset(4))
    assert gathered(loader, 1) is loader


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_gathered_batches_resume_by_their_indices(workers: int) -> None:
    def feed() -> Feed:
        order = torch.Generator().manual_seed(5)
        loader = DataLoader(
            dataset(40), batch_size=3, shuffle=True, generator=order, num_workers=workers
        )
        return Feed(gathered(loader, 2))

    whole = feed()
    epoch = iter(whole)
    first = read(next(epoch) for _ in range(3))
    state = whole.state_dict(3)
    rest = read(epoch)
    again = feed()
    again.load_state_dict(state)
    assert read(again) == rest
    assert again.resumable()[0]
    assert sorted(sum(first + rest, [])) == list(range(40))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(i, i) for i in range(7)])


def test_streams_get_larger_batches() -> None:
    found = gathered(DataLoader(Stream(), batch_size=2), 2)
    assert read(found) == [[0, 1, 2, 3], [4, 5, 6]]


def test_batches_of_any_loader_are_joined() -> None:
    parts = [
        {"x": torch.tensor([i]), "names": [f"n{i}"], "pair": (torch.tensor([i]), torch.ones(1, 2))}
        for i in range(3)
    ]
    found = gathered(parts, 2)
    assert isinstance(found, GatheredBatches)
    first, last = list(found)
    assert len(found) == 2
    assert first["x"].tolist() == [0, 1]
    assert first["names"] == ["n0", "n1"]
    assert first["pair"][1].shape == (2, 2)
    assert last["x"].tolist() == [2]


def test_batches_that_cannot_be_joined_say_so() -> None:
    with pytest.raises(MisconfigurationException, match="a batch holds int, of which 2 cannot"):
        list(gathered([1, 2], 2))


def test_a_loaders_own_batch_sampler_is_kept() -> None:
    sampler = BatchSampler(RandomSampler(range(8), generator=torch.Generator()), 2, False)
    loader = DataLoader(dataset(8), batch_sampler=sampler)
    found = gathered(loader, 4)
    assert found.batch_sampler.sampler is sampler.sampler
    assert len(found) == 1


# ------------------------------------------------------------------------ marks


def counting() -> tuple[list[int], Any]:
    marks: list[int] = []
    return marks, lambda: marks.append(len(marks))


def test_each_step_gets_one_mark_after_it() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    marks: list[float] = []
    engine = Engine(lambda engine, batch: weight * batch)
    handlers: list[Any] = [
        StepMark(lambda: marks.append(float(weight.detach()))),
        OptimizerStep(optimizer),
        GradientAccumulation(2),
    ]
    for handler in handlers:
        handler.attach(engine)
    engine.run([1.0] * 5, max_epochs=1)
    assert marks == pytest.approx([0.9, 0.8, 0.75])


def test_an_engine_that_counts_no_steps_gets_a_mark_a_batch() -> None:
    marks, mark = counting()
    engine = Engine(lambda engine, batch: None)
    StepMark(mark).attach(engine)
    engine.run([1, 2, 3], max_epochs=2)
    assert len(marks) == 6


def test_an_evaluation_gets_a_mark_a_batch() -> None:
    marks, mark = counting()
    evaluation = evaluator(lambda engine, batch: None, "validate")
    StepMark(mark, [evaluation]).attach(Engine(lambda engine, batch: None))
    evaluation.run([1, 2], max_epochs=1)
    assert len(marks) == 2


def test_what_cannot_be_called_is_no_mark() -> None:
    with pytest.raises(TypeError, match="torch_xla.sync"):
        StepMark(None)  # type: ignore[arg-type]


def test_without_tpu_cores_nothing_marks() -> None:
    assert "StepMark" not in leyden.Trainer(**QUIET).handlers


# ------------------------------------------------------------------------ the host


def test_nothing_is_copied_where_no_xla_is_in_use() -> None:
    data = {"a": [torch.ones(1)]}
    assert to_host(data) is data


def test_every_tensor_is_found() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert list(each_tensor({"a": (one, [two, 3]), "b": "text"})) == [one, two]


def test_a_module_moves_as_torch_moves_it_where_no_xla_is() -> None:
    model = torch.nn.Linear(2, 2)
    held = model.weight
    moving.move_module(model, torch.device("cpu"))
    assert model.weight is held
    moving.put_data(held, torch.zeros(2, 2))
    assert float(held.detach().abs().max()) == 0


def test_an_added_stream_is_captured_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rng, "_added", {})
    place = {"state": 7}
    rng.add_stream("far", lambda: place["state"], lambda state: place.update(state=state))
    kept = rng.capture()
    place["state"] = 8
    rng.restore(kept)
    assert (kept["far"], place["state"]) == (7, 7)
    rng.restore({key: value for key, value in kept.items() if key != "far"})
    assert place["state"] == 7


def test_the_seed_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_stream", runtime._Stream())
    leyden.seed_everything(11)
    assert runtime._stream.seed == 11
    assert not runtime.in_use()


# ------------------------------------------------------------------------ rounded weights


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(7, 5), (6, 3, 3, 3)])
def test_plain_arithmetic_rounds_as_torch_does(bits: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, requires_grad=True)
    gradient = torch.randn(shape)
    expected = fake_quantize(weight, bits)
    expected.backward(gradient)
    passed, weight.grad = weight.grad, None
    scales = channel_scales(weight, bits).reshape(-1, *(1,) * (weight.dim() - 1))
    found = _round(weight, scales, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    found.backward(gradient)
    assert torch.equal(found, expected)
    assert passed is not None and weight.grad is not None and torch.equal(weight.grad, passed)
    x, high = torch.randn(8, 5), (1 << (bits - 1)) - 1
    scale = (x.abs().amax() / high).clamp_min(1e-8)
    assert torch.equal(_round(x, scale, -high - 1, high), fake_quantize_input(x, bits))


# ------------------------------------------------------------------------ ignite beside torch_xla


def test_ignite_gets_the_names_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ignite.distributed.comp_models import xla

    started = [False]
    core: Any = types.ModuleType("torch_xla.core.xla_model")
    package: Any = types.ModuleType("torch_xla")
    times: Any = types.ModuleType("torch_xla.runtime")
    times.world_size, times.global_ordinal = (lambda: 4), (lambda: 3)
    package._XLAC = types.SimpleNamespace(_xla_runtime_is_initialized=lambda: started[0])
    package.runtime = times

    class Model:
        @staticmethod
        def create_from_context() -> Any:
            raise AttributeError("xrt_world_size")

    for name, module in {
        "torch_xla": package,
        "torch_xla.runtime": times,
        "torch_xla.core.xla_model": core,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(xla, "_XlaDistModel", Model, raising=False)
    mend()
    assert (core.xrt_world_size(), core.get_ordinal()) == (4, 3)
    assert Model.create_from_context() is None  # asking must not start the runtime
    started[0] = True
    assert isinstance(Model.create_from_context(), Model)
    before = Model.create_from_context
    mend()
    assert Model.create_from_context is before


def test_ignite_is_left_alone_without_torch_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch_xla.core.xla_model", raising=False)
    mend()
    import ignite.distributed as idist

    assert idist.get_rank() == 0
