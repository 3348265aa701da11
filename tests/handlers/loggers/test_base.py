"""The common part of loggers: aggregation, merging, ranks, the dummy, collections."""

import copy
import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leyden.handlers.loggers import (
    CSVLogger,
    DummyExperiment,
    DummyLogger,
    LightningLoggerBase,
    LoggerCollection,
    TensorBoardLogger,
    merge_dicts,
    rank_zero_only,
)
from leyden.handlers.loggers.values import scalars


class Memory(LightningLoggerBase):
    """Keeps the calls it gets."""

    def __init__(self, name: str = "memory", version: int = 0) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self._name, self._version = name, version

    @property
    def experiment(self) -> list[Any]:
        return self.calls

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> int:
        return self._version

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.calls.append((dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append(params)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        self.calls.append(status)


def test_metrics_of_one_step_are_gathered() -> None:
    logger = Memory()
    logger.agg_and_log_metrics({"a": 1.0, "b": 1.0}, step=0)
    logger.agg_and_log_metrics({"a": 3.0}, step=0)
    assert logger.calls == []
    logger.agg_and_log_metrics({"a": 5.0}, step=1)
    assert logger.calls == [({"a": 2.0, "b": 1.0}, 0)]
    logger.save()
    logger.save()
    assert logger.calls[1:] == [({"a": 5.0}, 1)]
    logger.agg_and_log_metrics({"a": 6.0}, step=1)
    logger.agg_and_log_metrics({"n": 1}, step=None)
    assert logger.calls[2:] == [({"a": 6.0}, 1), ({"n": 1}, None)]


def test_aggregation_functions_can_be_chosen() -> None:
    logger = Memory()
    logger.update_agg_funcs({"a": max}, min)
    logger.agg_and_log_metrics({"a": 1.0, "b": 1.0}, 0)
    logger.agg_and_log_metrics({"a": 3.0, "b": 3.0}, 0)
    logger.close()
    assert logger.calls == [({"a": 3.0, "b": 1.0}, 0)]


def test_no_other_aggregation_function_keeps_the_one_there_is() -> None:
    logger = Memory()
    logger.update_agg_funcs({"a": max}, min)
    logger.update_agg_funcs(agg_default_func=None)
    logger.agg_and_log_metrics({"a": 1.0, "b": 1.0}, 0)
    logger.agg_and_log_metrics({"a": 3.0, "b": 3.0}, 0)
    logger.save()
    assert logger.calls == [({"a": 3.0, "b": 1.0}, 0)]


def test_what_loggers_written_for_the_older_interface_call() -> None:
    class Older(Memory):
        def __init__(self) -> None:
            super().__init__()
            self._prefix = "fold"

        def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
            super().log_metrics(self._add_prefix(metrics), step)

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            params = self._sanitize_callable_params(self._convert_params(params))
            super().log_hyperparams(self._sanitize_params(self._flatten_dict(params)))

    logger = Older()
    logger.log_metrics({"a": 1.0}, 2)
    logger.log_hyperparams(
        Namespace(net={"width": 4, "act": None}, kind=len, size=lambda: 3, rates=[0.1])
    )
    assert logger.calls == [
        ({"fold-a": 1.0}, 2),
        {"net/width": 4, "net/act": "None", "kind": "len", "size": 3, "rates": "[0.1]"},
    ]
    assert LightningLoggerBase._flatten_dict({5: {"a": 1}}, ".") == {"5.a": 1}
    assert LightningLoggerBase._sanitize_params({"n": np.float64(2.5)}) == {"n": 2.5}
    assert Memory()._add_prefix({"a": 1.0}) == {"a": 1.0}


def test_merge_dicts() -> None:
    merged = merge_dicts(
        [
            {"a": 1.0, "d": {"x": 2.0}},
            {"a": torch.tensor(2.0), "d": {"x": 4.0}, "t": "x"},
            {"t": "y"},
        ],
        {"d": {"x": sum}},
    )
    assert merged == {"a": torch.tensor(1.5), "d": {"x": 6.0}, "t": "y"}
    assert merge_dicts([]) == {}


def test_scalars_convert_in_order_and_exactly() -> None:
    np = pytest.importorskip("numpy", reason="the package numpy is missing")
    metrics = {
        "f": torch.tensor(0.1),
        "d": torch.tensor([[0.1]], dtype=torch.float64, requires_grad=True),
        "h": torch.tensor(0.5, dtype=torch.bfloat16),
        "i": torch.tensor(2**53 + 1),
        "n": np.float32(2.5),
        "in": {"b": torch.tensor(True), "x": 1},
    }
    got = scalars(metrics)
    assert got == {
        "f": torch.tensor(0.1).item(),
        "d": 0.1,
        "h": 0.5,
        "i": 2**53 + 1,
        "n": 2.5,
        "in": {"b": True, "x": 1},
    }
    assert list(got) == list(metrics)
    assert [type(value) for value in got.values()] == [float, float, float, int, float, dict]
    with pytest.raises(ValueError, match="'a' is an array of shape"):
        scalars({"a": np.zeros(3)})


def test_all_floats_are_read_from_the_device_at_once() -> None:
    from torch.overrides import TorchFunctionMode

    reads: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__float__):
                reads.append(func.__name__)
            return func(*args, **(kwargs or {}))

    metrics = {str(i): torch.tensor(float(i)) for i in range(20)}
    with Watch():
        scalars(metrics)
    assert reads == ["tolist"]


def test_dummy_takes_everything() -> None:
    logger = DummyLogger()
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_hyperparams({"a": 1}, 2, x=3)
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.agg_and_log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert (logger.name, logger.version, logger.save_dir) == ("", "", None)
    assert logger.experiment.add_image("x", [1], step=2) is None
    assert logger.experiment[3] is logger.experiment and logger[0] is logger
    assert isinstance(pickle.loads(pickle.dumps(DummyExperiment())), DummyExperiment)
    assert isinstance(copy.deepcopy(logger), DummyLogger)


def test_collection_passes_everything_on(tmp_path: Path) -> None:
    first, second = Memory("a", 1), Memory("b", 2)
    both = LoggerCollection([first, second])
    both.update_agg_funcs({"m": max})
    both.log_hyperparams({"p": 1})
    both.log_metrics({"x": torch.tensor(1.0)}, 3)
    both.agg_and_log_metrics({"m": 1.0}, 4)
    both.agg_and_log_metrics({"m": 2.0}, 4)
    both.save()
    both.finalize("success")
    expected = [{"p": 1}, ({"x": 1.0}, 3), ({"m": 2.0}, 4), "success"]
    assert first.calls == second.calls == expected
    assert both.experiment == [first.calls, second.calls]
    assert (both.name, both.version, both.save_dir) == ("a_b", "1_2", None)
    assert both[1] is second and list(both) == [first, second] and len(both) == 2
    with pytest.raises(TypeError, match="'s3' of type str is no logger"):
        LoggerCollection([first, "s3"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("variables", "writes"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "1"}, True),
        ({"RANK": "2"}, False),
        ({"SLURM_PROCID": "1", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
    ],
)
def test_rank_zero_only(
    variables: dict[str, str], writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank_zero_only(lambda: "ran")() == ("ran" if writes else None)


@pytest.mark.parametrize("cls", [CSVLogger, TensorBoardLogger])
def test_an_unwritable_folder_is_an_error_of_the_first_write(cls: Any, tmp_path: Path) -> None:
    (tmp_path / "default").write_text("a file where the folder should be")
    logger = cls(tmp_path)
    with pytest.raises(OSError, match="default"):
        logger.log_metrics({"a": 1.0}, 0)
        logger.save()
