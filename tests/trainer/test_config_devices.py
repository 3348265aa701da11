"""Devices among the arguments: what they mean on machines that are made up, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.backends import devices
from leyden.config import TrainerConfig
from leyden.exceptions import MisconfigurationException


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def parse(**kwargs: Any) -> TrainerConfig:
    return TrainerConfig.parse(**kwargs)


def refused(**kwargs: Any) -> str:
    with pytest.raises(MisconfigurationException) as caught:
        parse(**kwargs)
    return str(caught.value)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("kwargs", "gpus"),
    [
        ({}, None),
        ({"gpus": 0}, 0),
        ({"gpus": 1}, 1),
        ({"gpus": "1"}, [1]),
        ({"gpus": "0"}, [0]),
        ({"gpus": [1]}, [1]),
        ({"gpus": (1,)}, [1]),
        ({"devices": 1, "accelerator": "gpu"}, 1),
        ({"devices": "1", "accelerator": "gpu"}, 1),
        ({"devices": [1]}, [1]),
        ({"devices": 1}, 1),
        ({"devices": 1, "accelerator": "auto"}, 1),
        ({"accelerator": "cpu"}, None),
    ],
)
def test_where_there_are_gpus(kwargs: dict[str, Any], gpus: Any) -> None:
    assert parse(**kwargs).gpus == gpus


@pytest.mark.usefixtures("two_gpus")
def test_what_the_machine_has_too_few_of() -> None:
    assert "gpus=3 asks for GPUs: 3 of them, and there are 2" in refused(gpus=3)
    assert "gpus=[2] asks for GPUs: the ids [2], and ids 0 to 1 are there" in refused(gpus="2")
    assert "two kinds of device" in refused(gpus=1, accelerator="cpu")
    assert "gpus=3 (from devices) asks for GPUs" in refused(devices=3)
    assert "gpus=[0, 2] (from devices) asks for GPUs" in refused(devices="0,2")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("gpus", [1, -1, "-1", "0", [0], (0,), "0, 2"])
def test_where_there_is_none_the_reason_is_told(gpus: Any) -> None:
    said = refused(gpus=gpus)
    assert "this machine has none (" in said and "pass gpus=None" in said
    if torch.version.cuda is None:
        assert "is a build without CUDA" in said


@pytest.mark.usefixtures("bare")
def test_the_best_there_is_may_be_the_cpu() -> None:
    for kwargs in ({"accelerator": "auto"}, {"accelerator": "auto", "devices": "auto"}):
        config = parse(**kwargs)
        assert config.gpus is None and config.num_processes == 1
    assert "asks for the GPU of a Mac, and there is none" in refused(accelerator="mps")


@pytest.mark.usefixtures("mac")
def test_on_a_mac() -> None:
    for kwargs in ({"accelerator": "mps"}, {"accelerator": "MPS", "devices": 1}):
        assert parse(**kwargs).gpus is None
    assert parse(accelerator="auto", devices="auto").gpus is None
    assert "there is one such GPU, pass 1" in refused(accelerator="mps", devices=2)


@pytest.mark.usefixtures("two_gpus")
def test_the_gpu_that_is_free_is_chosen_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[int, int | None] = {0: 500, 1: 10}
    monkeypatch.setattr(devices, "_asker", lambda: used.__getitem__)
    config = parse(gpus=1, auto_select_gpus=True)
    assert config.gpus == [1]
    assert [str(change) for change in config.changes] == ["gpus: 1 -> [1] (auto_select_gpus=True)"]
    assert parse(gpus=[0], auto_select_gpus=True).gpus == [0]
    # A process that was started takes what was picked for all of them, whatever is free by now.
    monkeypatch.setenv(devices.CHOSEN_VARIABLE, "0")
    assert parse(gpus=1, auto_select_gpus=True).gpus == [0]
    monkeypatch.delenv(devices.CHOSEN_VARIABLE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "each would choose for itself; pass the ids" in refused(gpus=1, auto_select_gpus=True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert parse(auto_select_gpus=True).gpus is None
    used[0] = used[1] = None
    with pytest.raises(RuntimeError, match=r"\[0, 1\] take no further process"):
        parse(gpus=1, auto_select_gpus=True)
