"""What self.log records in a training epoch: names, dicts, rows, weights, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.metrics import MetricRecorder
from tests.handlers.metrics_fakes import Rows, Run


def epoch(run: Run, log: Any, n: int = 4, size: int = 2, end: bool = True) -> None:
    run.recorder.train_epoch_started()
    for i in range(n):
        run.batch(i, size)
        log(i)
        run.recorder.train_batch_ended(write=True)
    if end:
        run.recorder.train_epoch_ended(None)


def test_the_defaults_of_a_training_step_are_per_step_and_logger() -> None:
    run = Run()
    epoch(run, lambda i: run.log("a", 10.0 + i))
    assert run.rows == [({"a": 10.0 + i, "epoch": 0}, i) for i in range(4)]
    assert run.metrics() == {
        "callback": {"a": 13.0}, "logged": {"a": 13.0, "epoch": 0}, "progress_bar": {},
    }  # fmt: skip


def test_step_and_epoch_fork_the_name_and_keep_the_plain_one_for_callbacks() -> None:
    run = Run()
    epoch(run, lambda i: run.log("a", float(i * i), on_step=True, on_epoch=True, prog_bar=True))
    assert run.rows[-1] == ({"a_epoch": 3.5, "epoch": 0}, 3)
    assert run.metrics() == {
        "callback": {"a": 9.0, "a_step": 9.0, "a_epoch": 3.5},
        "logged": {"a_step": 9.0, "a_epoch": 3.5, "epoch": 0},
        "progress_bar": {"a_step": 9.0, "a_epoch": 3.5},
    }


@pytest.mark.parametrize("flags", [{}, {"on_step": False, "on_epoch": True}])
def test_neither_bar_nor_logger_shows_a_value_nowhere(flags: Any) -> None:
    run = Run()
    epoch(run, lambda i: run.log("a", 1.0, logger=False, **flags))
    assert run.rows == []
    assert run.metrics() == {"callback": {}, "logged": {"epoch": 0}, "progress_bar": {}}


def test_rows_are_written_when_due_and_dicts_move_with_every_batch() -> None:
    run = Run(log_every_n_steps=3)
    seen = []

    def log(i: int) -> None:
        seen.append(run.metrics())
        run.log("a", float(i))

    epoch(run, log, n=5)
    assert [s["callback"] for s in seen] == [{}, {"a": 0.0}, {"a": 1.0}, {"a": 2.0}, {"a": 3.0}]
    assert [s["logged"] for s in seen][2:4] == [{"a": 1.0}, {"a": 2.0, "epoch": 0}]
    assert run.rows == [({"a": 2.0, "epoch": 0}, 2)]


def test_no_row_inside_an_accumulation_group() -> None:
    run = Run()
    run.recorder.train_epoch_started()
    for i in range(4):
        run.batch(i)
        run.state.global_step = i // 2
        run.log("a", float(i))
        run.recorder.train_batch_ended(write=i % 2 == 1)
        assert run.metrics()["callback"] == {"a": float(i)}
    assert run.rows == [({"a": 1.0, "epoch": 0}, 0), ({"a": 3.0, "epoch": 0}, 1)]


@pytest.mark.parametrize("every, rows", [(0, 0), (50, 0), (1, 4)])
def test_force_and_fast_dev_run_write_although_no_row_is_due(every: int, rows: int) -> None:
    run = Run(log_every_n_steps=every)
    epoch(run, lambda i: run.log("a", 1.0))
    assert len(run.rows) == rows
    fast = Run(log_every_n_steps=every, fast_dev_run=True)
    epoch(fast, lambda i: fast.log("a", 1.0))
    assert len(fast.rows) == 4
    stop = Run(log_every_n_steps=every)
    stop.log("a", 1.0)
    stop.recorder.train_batch_ended(write=True, force=True)
    assert stop.rows == [({"a": 1.0, "epoch": 0}, 0)]


def test_means_are_weighted_by_the_batch_size() -> None:
    run = Run()
    run.recorder.train_epoch_started()
    for i, size in enumerate([2, 2, 1]):
        run.batch(i, size)
        run.log("guessed", float(i), on_step=False, on_epoch=True)
        run.log("tensor", torch.tensor(float(i)), on_step=False, on_epoch=True)
        run.log("given", float(i), on_step=False, on_epoch=True, batch_size=i)
        run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    callback = run.metrics()["callback"]
    assert callback["guessed"] == pytest.approx(4 / 5)
    assert callback["tensor"] == pytest.approx(4 / 5)
    assert callback["given"] == pytest.approx(5 / 3)


def test_a_batch_size_is_looked_for_only_where_the_mean_needs_it() -> None:
    class Untouched:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"somebody looked at {name}")

    run = Run()
    run.state.batch = Untouched()
    run.log("a", 1.0)
    run.log("b", 1.0, on_step=False, on_epoch=True, batch_size=3)
    run.recorder.train_batch_ended(write=True)
    assert run.metrics()["callback"] == {"a": 1.0}


def test_values_keep_their_kind_in_callback_metrics_and_are_numbers_elsewhere() -> None:
    run = Run(log_every_n_steps=50)
    loss = torch.tensor(2.0, requires_grad=True) * 3

    def log(i: int) -> None:
        run.log("int", i, prog_bar=True)
        run.log("tensor", loss, prog_bar=True)
        run.log("mean", 0.5, on_step=False, on_epoch=True, prog_bar=True)

    epoch(run, log)
    callback = run.recorder.callback_metrics
    assert type(callback["int"]) is int
    assert isinstance(callback["tensor"], torch.Tensor) and not callback["tensor"].requires_grad
    assert isinstance(callback["mean"], torch.Tensor)
    assert run.recorder.progress_bar_metrics == {"int": 3, "tensor": 6.0, "mean": 0.5}
    assert [type(v) for v in run.recorder.progress_bar_metrics.values()] == [int, float, float]


def test_enable_graph_keeps_the_graph_and_the_default_drops_it() -> None:
    run = Run()
    p = torch.tensor(2.0, requires_grad=True)

    def log(i: int) -> None:
        run.log("with", p * i, on_step=False, on_epoch=True, enable_graph=True)
        run.log("without", p * i, on_step=False, on_epoch=True)

    epoch(run, log)
    callback = run.recorder.callback_metrics
    callback["with"].backward()
    assert p.grad == 1.5
    assert not callback["without"].requires_grad


@pytest.mark.parametrize("kind", ["buffer", "parameter", "view"])
def test_a_tensor_that_is_written_to_later_keeps_its_logged_value(kind: str) -> None:
    run = Run()
    p = torch.nn.Parameter(torch.zeros(1))
    buffer = torch.zeros(())

    def log(i: int) -> None:
        value = {"buffer": buffer, "parameter": p, "view": p[0]}[kind]
        run.log("a", value, on_step=True, on_epoch=True)
        with torch.no_grad():
            p.add_(1)
            buffer.add_(1)

    epoch(run, log)
    assert run.metrics()["callback"] == {"a": 3.0, "a_step": 3.0, "a_epoch": 1.5}


@pytest.mark.parametrize(
    "fx, expected",
    [
        (torch.sum, 6.0), ("sum", 6.0), (torch.max, 3.0), (torch.min, 0.0), ("mean", 1.5),
        (torch.median, 1.0), (lambda v: v[-1] - v[0], 3.0), (min, 0.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [float, torch.tensor])
def test_other_reductions(fx: Any, expected: float, make: Any) -> None:
    run = Run()
    epoch(run, lambda i: run.log("a", make(i), on_step=False, on_epoch=True, reduce_fx=fx))
    assert run.metrics()["callback"] == {"a": expected}


def test_splits_of_a_batch_average_under_the_plain_name() -> None:
    run = Run()
    run.batch(0)
    for split in range(3):
        run.state.split_idx = split
        run.log("loss", torch.tensor(float(split)), on_step=True, on_epoch=True)
        run.log("number", float(split), on_step=True, on_epoch=True)
    run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    callback = run.metrics()["callback"]
    assert (callback["loss"], callback["loss_step"], callback["loss_epoch"]) == (1.0, 2.0, 1.0)
    assert (callback["number"], callback["number_step"]) == (1.0, 2.0)


def test_two_optimizers_log_one_name_and_both_count_in_the_mean() -> None:
    run = Run()
    run.batch(0)
    for i in range(2):
        run.state.optimizer_idx = i
        run.log("loss", float(i), on_step=True, on_epoch=True)
    run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"loss": 1.0, "loss_step": 1.0, "loss_epoch": 0.5}


def test_a_name_logged_twice_in_one_call_counts_once_and_the_last_time() -> None:
    run = Run()
    run.batch(0)
    run.log("a", 1.0, on_step=True, on_epoch=True)
    run.log("a", 3.0, on_step=True, on_epoch=True)
    run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"a": 3.0, "a_step": 3.0, "a_epoch": 3.0}


def test_of_two_calls_with_other_settings_in_one_step_the_last_counts() -> None:
    run = Run()
    for batch, value in enumerate((1.0, 5.0)):
        run.batch(batch)
        run.log("a", 100.0, prog_bar=True)
        run.log("a", value, on_step=False, on_epoch=True, prog_bar=False)
        run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"a": 3.0}
    assert run.recorder.progress_bar_metrics == {}


def test_two_reductions_of_one_name_in_one_step_do_not_mix() -> None:
    run = Run()
    for batch, value in enumerate((4.0, 1.0, 1.0)):
        run.batch(batch)
        run.log("a", value, on_step=False, on_epoch=True)
        run.log("a", value, on_step=False, on_epoch=True, reduce_fx="max")
        run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"a": 4.0}


def test_the_names_of_a_step_stay_where_a_second_call_asks_for_less() -> None:
    run = Run()
    for batch, value in enumerate((1.0, 3.0)):
        run.batch(batch)
        run.log("a", value, on_step=True, on_epoch=True)
        run.log("a", value, prog_bar=True)
        run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"a": 3.0, "a_step": 3.0, "a_epoch": 2.0}


def test_other_settings_are_taken_in_another_batch() -> None:
    run = Run()
    run.batch(0)
    run.log("a", 1.0, on_step=False, on_epoch=True)
    run.recorder.train_batch_ended(write=True)
    run.log("a", 3.0, on_step=False, on_epoch=True, prog_bar=True)
    run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.recorder.progress_bar_metrics == {"a": 2.0}


RAISING = "on_fit_start on_pretrain_routine_start on_validation_end on_train_end on_fit_end"
SILENT = "setup teardown on_before_zero_grad on_batch_start on_train_batch_start"
TAKING = """on_train_start on_epoch_start on_train_epoch_start on_after_backward on_batch_end
    on_train_batch_end on_train_epoch_end on_epoch_end training_epoch_end"""


@pytest.mark.parametrize("hook", RAISING.split())
def test_hooks_where_logging_is_refused(hook: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"'x'.*{hook}"):
        Run().log("x", 1.0, hook)


@pytest.mark.parametrize("hook", [*SILENT.split(), None, "configure_optimizers"])
def test_hooks_where_logging_does_nothing(hook: str | None) -> None:
    run = Run()
    epoch(run, lambda i: run.log("x", 1.0, hook))
    assert run.metrics()["callback"] == {}


@pytest.mark.parametrize("hook", TAKING.split())
def test_hooks_that_log_for_the_epoch(hook: str) -> None:
    run = Run()
    run.log("x", 7.0, hook)
    run.recorder.train_epoch_started()
    run.batch(0)
    run.recorder.train_batch_ended(write=True)
    assert run.rows == []
    run.recorder.train_epoch_ended(None)
    assert run.rows == [({"x": 7.0, "epoch": 0}, 0)]
    # and the next epoch begins without it
    run.recorder.train_epoch_started()
    run.recorder.train_epoch_ended(None)
    assert len(run.rows) == 1


@pytest.mark.parametrize("flags", [{"on_step": True}, {"on_epoch": False}])
@pytest.mark.parametrize("hook", ["training_epoch_end", "validation_epoch_end", "test_epoch_end"])
def test_an_epoch_end_takes_epoch_values_only(hook: str, flags: dict[str, bool]) -> None:
    with pytest.raises(MisconfigurationException, match=f"'x'.*{hook}.*leave on_"):
        Run().log("x", 1.0, hook, **flags)


@pytest.mark.parametrize(
    "name, text",
    [("", "empty"), ("  ", "empty"), ("a\nb", "line break"), (3, "int"), (["a"], "list"),
     ("v/dataloader_idx_0", "dataloader_idx_")],
)  # fmt: skip
def test_bad_names(name: Any, text: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"training_step.*{text}"):
        Run().log(name, 1.0)


@pytest.mark.parametrize(
    "value, text",
    [(torch.zeros(2), r"shape \(2,\)"), (torch.zeros(0), r"shape \(0,\)"), ("high", "str 'high'"),
     (None, "NoneType"), ([1.0], "list"), (torch.tensor(1j), "complex"), ({"a": 1}, "dict")],
)  # fmt: skip
def test_bad_values(value: Any, text: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"'acc'.*training_step.*{text}"):
        Run().log("acc", value)


@pytest.mark.parametrize("size", [-1, 2.5, "4", torch.tensor([1, 2])])
def test_bad_batch_sizes(size: Any) -> None:
    with pytest.raises(MisconfigurationException, match="'a'.*batch_size="):
        Run().log("a", 1.0, on_epoch=True, batch_size=size)


@pytest.mark.parametrize("kw", [{"reduce_fx": "mode"}, {"reduce_fx": 3}])
def test_bad_reductions(kw: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="'a'.*training_step.*reduce_fx="):
        Run().log("a", 1.0, **kw)


def test_a_bad_sync_op() -> None:
    with pytest.raises(MisconfigurationException, match="sync_dist_op='median'"):
        Run().log("a", 1.0, sync_dist=True, sync_dist_op="median")


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf")), torch.ones(1), True])
def test_odd_but_single_numbers_are_logged(value: Any) -> None:
    run = Run()
    epoch(run, lambda i: run.log("a", value, on_step=True, on_epoch=True))
    logged = run.metrics()["logged"]
    for number in (logged["a_step"], logged["a_epoch"]):
        assert math.isnan(number) if value != value else number == float(value)


def test_what_the_older_training_step_returns_is_logged() -> None:
    run = Run()
    run.recorder.train_epoch_started()
    for i in range(2):
        run.batch(i)
        output = {"log": {"a": torch.tensor(float(i))}, "progress_bar": {"b": 2.0}, "loss": 0.25}
        run.recorder.train_step_output(output)
        run.recorder.train_batch_ended(write=True)
    assert run.rows == [({"a": 0.0, "epoch": 0}, 0), ({"a": 1.0, "epoch": 0}, 1)]
    assert run.metrics() == {
        "callback": {"a": 1.0, "b": 2.0, "loss": 0.25},
        "logged": {"a": 1.0, "epoch": 0},
        "progress_bar": {"b": 2.0},
    }


def test_epoch_values_are_shown_before_the_epoch_end_hooks() -> None:
    run = Run()
    flags = dict(on_step=False, on_epoch=True, prog_bar=True)
    epoch(run, lambda i: run.log("a", float(i), **flags), n=3, end=False)
    run.recorder.show_epoch()
    assert run.metrics() == {
        "callback": {"a": 1.0},
        "logged": {"a": 1.0, "epoch": 0},
        "progress_bar": {"a": 1.0},
    }
    assert run.rows == []
    run.log("b", 2.0, "on_train_epoch_end")
    run.log("a", 3.0, "training_epoch_end")
    run.recorder.train_epoch_ended()
    assert run.rows == [({"a": 3.0, "b": 2.0, "epoch": 0}, 2)]


def test_a_name_that_only_callbacks_see() -> None:
    run = Run()
    epoch(run, lambda i: run.log("a", float(i), logger=False, on_step=True, on_epoch=True))
    assert run.metrics() == {"callback": {"a": 3.0}, "logged": {"epoch": 0}, "progress_bar": {}}


def test_gradient_norms_join_the_row_of_their_batch() -> None:
    run = Run(log_every_n_steps=2)
    for i in range(2):
        run.batch(i)
        assert run.recorder.row_due() == (i == 1)
        run.recorder.log_metrics({}, {"grad_2.0_norm_total": 0.5 + i})
        run.log("a", float(i))
        run.recorder.train_batch_ended(write=True)
    assert run.rows == [({"a": 1.0, "grad_2.0_norm_total": 1.5, "epoch": 0}, 1)]
    assert run.metrics()["callback"] == {"a": 1.0, "grad_2.0_norm_total": 1.5}


def test_log_metrics_writes_at_the_given_step_without_the_epoch() -> None:
    run = Run()
    run.batch(3)
    run.recorder.log_metrics({"lr": torch.tensor(0.5)}, step=9)
    run.recorder.log_metrics({"lr": 0.25})
    run.recorder.log_metrics({"lr": 0.125, "step": 40})
    assert run.rows == [({"lr": 0.5}, 9), ({"lr": 0.25, "epoch": 0}, 3), ({"lr": 0.125}, 40)]


def test_an_epoch_left_in_its_middle_does_not_count_in_the_next() -> None:
    run = Run()
    run.recorder.train_epoch_started()
    run.batch(0)
    run.log("a", 100.0, on_step=False, on_epoch=True)
    run.recorder.train_batch_ended(write=True)
    epoch(run, lambda i: run.log("a", float(i), on_step=False, on_epoch=True))
    assert run.metrics()["callback"] == {"a": 1.5}


def test_an_epoch_that_goes_on_in_this_process_keeps_its_values() -> None:
    run = Run()
    for i in range(2):
        run.recorder.train_epoch_started(resumed=i == 1)
        run.batch(i)
        run.log("a", float(i), on_step=False, on_epoch=True)
        run.recorder.train_batch_ended(write=True)
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {"a": 0.5}


class HostReads(TorchFunctionMode):
    """Counts the calls that read a tensor to the host."""

    READS = {"item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__"}

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.READS:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_from_the_device_between_two_rows() -> None:
    run = Run(log_every_n_steps=50)
    p = torch.tensor(2.0, requires_grad=True)
    with HostReads() as reads:
        run.recorder.train_epoch_started()
        for i in range(99):
            run.batch(i, 1 + i % 7)
            run.log("loss", p * i, on_step=True, on_epoch=True, prog_bar=True)
            for k in range(4):
                run.log(f"x{k}", (p * k).detach(), on_step=True, on_epoch=True, prog_bar=True)
            before = len(reads.seen)
            run.recorder.train_batch_ended(write=True)
            # one transfer for all five values in the one batch that writes
            assert len(reads.seen) - before == (1 if i == 49 else 0), reads.seen
        assert reads.seen == ["tolist"]
    assert [step for _, step in run.rows] == [49]


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_between_two_rows() -> None:
    run = Run(log_every_n_steps=1000)
    p = torch.tensor(2.0, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(200):
            run.batch(i, 1 + i % 7)
            run.log("loss", p * i, on_step=True, on_epoch=True, prog_bar=True)
            run.log("plain", (p * i).detach(), on_step=True, on_epoch=True)
            run.recorder.train_batch_ended(write=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.recorder.train_epoch_ended(None)
    weights = [1 + i % 7 for i in range(200)]
    mean = sum(2.0 * i * w for i, w in enumerate(weights)) / sum(weights)
    assert run.metrics()["callback"]["loss_epoch"] == pytest.approx(mean)


def test_move_metrics_to_cpu_shows_tensors_of_the_host() -> None:
    run = Run(move_metrics_to_cpu=True)
    epoch(run, lambda i: run.log("a", torch.tensor(1.0), on_step=True, on_epoch=True))
    assert {v.device.type for v in run.recorder.callback_metrics.values()} == {"cpu"}


def test_a_recorder_without_position_or_logger_works() -> None:
    recorder = MetricRecorder(log_every_n_steps=1)
    recorder.log_metrics({"a": 1.0})
    assert recorder.logged_metrics == {"a": 1.0, "epoch": 0}
    recorder.logger = Rows()
    recorder.log_metrics({"a": 2.0})
    assert recorder.logger.rows == [({"a": 2.0, "epoch": 0}, 0)]


def test_another_module_begins_with_nothing() -> None:
    run = Run()
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    run.recorder.bind(run.state, first)
    run.recorder.train_epoch_started()
    run.batch(0)
    run.log("a", 100.0, on_step=False, on_epoch=True)
    run.recorder.train_batch_ended(write=True)
    run.recorder.bind(run.state, first)  # goes on in the middle of the epoch
    run.recorder.bind(run.state, second)
    run.recorder.train_epoch_started()
    run.recorder.train_epoch_ended(None)
    assert run.metrics()["callback"] == {}


def test_numbers_of_numpy_that_are_logged_are_kept_as_numbers() -> None:
    run = Run()
    run.batch(0)
    run.log("rate", np.float64(0.5))
    run.recorder.train_step_output({"log": {"share": np.float32(0.25)}})
    run.recorder.train_batch_ended(write=True)
    found = run.recorder.callback_metrics
    assert found == {"rate": 0.5, "share": 0.25}
    assert {type(value) for value in found.values()} == {float}
