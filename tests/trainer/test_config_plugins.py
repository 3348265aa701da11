"""Ready parts among the arguments: which there are, and what is refused beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import leyden
from leyden.backends.devices import Devices
from leyden.backends.environments import Environment
from leyden.backends.precision import MixedPrecision, Precision
from leyden.backends.precision import apex as apex_file
from leyden.backends.strategies import Strategy
from leyden.exceptions import MisconfigurationException
from tests.trainer.tiny import Bare, data, trainer


def refused(**arguments: Any) -> str:
    with pytest.raises(MisconfigurationException) as caught:
        trainer(**arguments)
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: [part], lambda part: (part,)])
def test_each_kind_of_part_is_used(wrap: Any) -> None:
    precision = MixedPrecision()
    assert trainer(plugins=wrap(precision)).precision_plugin is precision
    strategy = Strategy("cpu")
    assert trainer(plugins=wrap(strategy)).strategy is strategy
    environment = Environment("torchrun", 0, 0, 0, 1, 1)
    assert trainer(plugins=wrap(environment)).strategy.environment is environment
    cuda = trainer(plugins=wrap(Devices("cuda", (3,))))
    assert cuda.root_device == torch.device("cuda", 3)
    assert (cuda.num_gpus, cuda.root_gpu, cuda.on_gpu) == (1, 3, True)


def test_a_strategy_keeps_the_device_that_it_was_made_with() -> None:
    run = trainer(plugins=Strategy("meta"))
    assert run.root_device.type == "meta"
    # Unless another part, or an argument, says where.
    run = trainer(plugins=[Strategy("meta"), Devices("cuda", (1,))])
    assert run.root_device == torch.device("cuda", 1)


def test_several_parts_work_together() -> None:
    run = trainer(plugins=[MixedPrecision(), Strategy("cpu")], max_epochs=1)
    run.fit(Bare(), data())
    assert run.global_step == 6 and run.use_amp


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"plugins": [Precision(), MixedPrecision()]}, r"two parts of one kind (Precision)"),
        ({"plugins": [Strategy(), Strategy()]}, "two parts of one kind (Strategy)"),
        ({"plugins": ["apex", MixedPrecision()]}, "two parts of one kind (Precision)"),
        ({"plugins": MixedPrecision(), "precision": 16}, "precision=16 does too"),
        ({"plugins": "apex"}, "pass precision=16 too"),
        ({"plugins": "apex", "precision": 16, "amp_level": "O9"}, "amp_level='O9' is unknown"),
        ({"plugins": "no_such"}, "'no_such' is unknown: pass 'apex', or a Precision, a Devices"),
        ({"plugins": "ddp_sharded"}, "pass accelerator='fsdp'"),
        ({"plugins": MixedPrecision}, "pass an object, MixedPrecision(...)"),
        ({"plugins": 3}, "3 is no part of a Trainer"),
        ({"plugins": torch.device("cpu")}, "is no part of a Trainer"),
    ],
)
def test_what_is_no_part_or_one_too_many(arguments: dict[str, Any], said: str) -> None:
    assert said in refused(**arguments)


def test_devices_and_gpus_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    said = refused(plugins=Devices("cuda", (1,)), gpus=1)
    assert "brings devices, and gpus=1 does too" in said


def test_the_real_apex_is_refused_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apex_file, "apex_amp", lambda: None)
    said = refused(plugins="apex", precision=16)
    assert "no apex.amp.initialize" in said and "amp_backend='apex'" in said
    # There, but this run is on the CPU.
    monkeypatch.setattr(apex_file, "apex_amp", lambda: object())
    assert "this run is on cpu: pass gpus=1" in refused(plugins="apex", precision=16)


def test_leydens_levels_need_no_apex() -> None:
    run = leyden.Trainer(precision=16, amp_backend="apex", amp_level="O1", logger=False)
    assert type(run.precision_plugin).__name__ == "ScaledLevel"
