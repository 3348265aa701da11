"""Which devices an argument means, on machines that are made up, and what is told of this one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from leyden.backends import devices
from leyden.backends.devices import KINDS, Devices, Machine, devices_for, free_gpus, gpu_ids, report
from leyden.engine import rng

FOUR = Machine(cuda=4, no_cuda="")
MAC = Machine(mps=True, no_mps="")


@pytest.mark.parametrize(
    ("gpus", "ids"),
    [(None, []), (0, []), (1, [0]), (3, [0, 1, 2]), (-1, [0, 1, 2, 3]), ([2, 0], [2, 0])],
)
def test_what_gpus_means(gpus: Any, ids: list[int]) -> None:
    assert gpu_ids(gpus, 4) == ids
    found = devices_for(gpus, machine=FOUR)
    assert found == (Devices("cuda", tuple(ids)) if ids else Devices())
    assert len(found) == max(1, len(ids))


@pytest.mark.parametrize(
    ("gpus", "found", "said"),
    [
        (5, 4, "5 of them, and there are 4"),
        (-1, 0, "all of them, and there are 0"),
        ([1, 4, 7], 4, r"the ids \[4, 7\], and ids 0 to 3 are there"),
        ([1], 1, r"the ids \[1\], and there are 1"),
    ],
)
def test_what_is_not_there_is_said(gpus: Any, found: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gpu_ids(gpus, found)


@pytest.mark.parametrize(
    ("machine", "accelerator", "gpus", "kind", "count"),
    [
        (FOUR, "gpu", -1, "cuda", 4),
        (FOUR, "ddp", 2, "cuda", 2),
        (FOUR, "cpu", None, "cpu", 1),
        (FOUR, "auto", None, "cpu", 1),
        (MAC, "mps", None, "mps", 1),
        (MAC, "MPS", None, "mps", 1),
        (MAC, "auto", None, "mps", 1),
        (MAC, None, None, "cpu", 1),
        (Machine(), "auto", None, "cpu", 1),
    ],
)
def test_which_kind(machine: Machine, accelerator: Any, gpus: Any, kind: str, count: int) -> None:
    found = devices_for(gpus, accelerator, machine)
    assert (found.kind, len(found)) == (kind, count)
    assert {device.type for device in found.all} == {kind}


def test_the_best_kind() -> None:
    assert [FOUR.best, MAC.best, Machine().best] == ["cuda", "mps", "cpu"]
    assert set(KINDS) == {"auto", "cpu", "cuda", "gpu", "mps", "tpu"}


def test_each_process_has_its_device() -> None:
    cuda = Devices("cuda", (3, 1))
    assert [cuda.of(0).index, cuda.of(1).index] == [3, 1]
    assert [Devices().of(rank).type for rank in range(3)] == ["cpu"] * 3
    with pytest.raises(IndexError):
        cuda.of(2)


@pytest.mark.parametrize(
    ("count", "picked"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (-1, [0, 1, 3])]
)
def test_the_least_used_are_picked(count: int, picked: list[int]) -> None:
    used: dict[int, int | None] = {0: 700, 1: 20, 2: None, 3: 20}
    assert free_gpus(count, 4, used.__getitem__) == picked


@pytest.mark.parametrize(("count", "found"), [(4, 4), (-1, 0), (1, 0)])
def test_too_few_are_free(count: int, found: int) -> None:
    with pytest.raises(RuntimeError, match="pass a smaller number") as caught:
        free_gpus(count, found, [700, 20, None, 20].__getitem__)
    assert ("[2] take no further process" in str(caught.value)) == (found == 4)


class Library:
    """NVIDIA's management library, as far as it is asked: three GPUs, the second is taken."""

    NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, NVML_COMPUTEMODE_PROHIBITED = 3, 2
    used = (900, 5, 100, 40)
    modes = (0, 3, 0, 2)

    def nvmlDeviceGetCount(self) -> int:
        return 4

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        if not name.startswith("GPU-"):
            raise ValueError(name)
        return int(name[-1])

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "H200"

    def nvmlDeviceGetComputeMode(self, handle: int) -> int:
        return self.modes[handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[int]:
        return [1] if handle == 1 else []

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return type("Info", (), {"used": self.used[handle]})


@pytest.mark.parametrize(
    ("visible", "found", "count", "picked"),
    [
        (None, 4, 1, [2]),
        (None, 4, -1, [0, 2]),
        ("2,0", 2, 1, [0]),
        ("GPU-0,GPU-2", 2, 1, [1]),
    ],
)
def test_nvidias_library_is_asked(
    visible: Any, found: int, count: int, picked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_nvml", Library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_gpus(count, found) == picked


def test_without_the_library_or_where_it_cannot_say_it_is_tried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def attempt(index: int) -> int:
        asked.append(index)
        return 10 - index

    monkeypatch.setattr(devices, "_try_out", attempt)
    monkeypatch.setattr(devices, "_nvml", lambda: None)
    assert free_gpus(1, 3) == [2] and asked == [0, 1, 2]
    # Of several kinds torch puts the fastest first, the library does not.
    monkeypatch.setattr(devices, "_nvml", Library)
    monkeypatch.setattr(Library, "nvmlDeviceGetName", lambda self, handle: str(handle))
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert free_gpus(1, 3) == [2] and len(asked) == 6
    # A slice of a GPU is none that the library knows by that name.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert free_gpus(1, 1) == [0] and len(asked) == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a GPU")
def test_what_cannot_be_allocated_on_is_not_free() -> None:
    # AssertionError where torch has no CUDA at all, RuntimeError where the device is not there.
    with pytest.raises(RuntimeError, match="finds 0 free GPUs"):
        free_gpus(1, 1, devices._try_out)


def test_the_stream_of_a_mac_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rng, "_added", {})
    states = [torch.tensor([1])]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    devices.use(torch.device("cpu"))
    assert "mps" not in rng.capture()
    devices.use(torch.device("mps"))
    kept = rng.capture()
    states.append(torch.tensor([2]))
    rng.restore(kept)
    assert torch.equal(states[-1], torch.tensor([1])) and len(states) == 3


def test_this_machine_is_told_of_as_plain_data() -> None:
    told = report()
    assert json.loads(json.dumps(told)) == told
    assert told["kinds"]["cpu"]["devices"][0]["memory"] > 2**28
    for kind in told["kinds"].values():
        assert bool(kind["count"]) != bool(kind["why"])
    for row in told["arguments"]:
        assert row["usable"] != bool(row["why"])
    usable = {(row["argument"], row["value"]): row["usable"] for row in told["arguments"]}
    assert usable["accelerator", "'gpu', 'cuda'"] == torch.cuda.is_available()
    assert usable["precision", "64, 32, 16, 'bf16', 8, 4, 2"]


@pytest.mark.gpu
def test_gpus_of_this_machine() -> None:
    told = report()["kinds"]["cuda"]["devices"]
    assert len(told) == torch.cuda.device_count()
    assert all(gpu["memory"] > gpu["used"] >= 0 and gpu["name"] for gpu in told)
    assert free_gpus(1, len(told))[0] in range(len(told))
    assert devices._try_out(0) is not None
