"""Random streams: read and put back, bit for bit, and kept apart."""

import io
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from leyden.engine import rng


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(torch.rand(())),
        float(np.random.rand()),
        float(np.random.randn()),
    ]


def test_restored_streams_repeat() -> None:
    draw()  # half of a pair of normal numbers is pending now, in Python and NumPy
    state = rng.capture()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    first = draw()
    rng.restore(torch.load(buffer, weights_only=True))
    assert draw() == first


def test_isolated_draws_do_not_show_outside() -> None:
    stream: dict[str, Any] = {}
    state = rng.capture()
    expected = draw() + draw()
    rng.restore(state)
    seen = draw()
    with rng.isolate():
        alone = draw()
    with rng.isolate(stream):
        assert draw() == alone  # begins as a copy
        rest = draw()
    seen += draw()
    assert seen == expected
    rng.restore(state)
    draw()
    assert draw() + draw() == alone + rest
    with rng.isolate(stream):
        further = draw()
    assert further not in (alone, rest)


def test_isolation_holds_when_the_stage_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(LookupError), rng.isolate():
        torch.rand(1)
        raise LookupError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_reading_starts_nothing() -> None:
    code = (
        "import sys, torch; from leyden.engine import rng\n"
        "before = 'numpy.random' in sys.modules\n"
        "state = rng.capture()\n"
        "assert ('numpy' in state) == before == ('numpy.random' in sys.modules), state.keys()\n"
        "assert 'cuda' not in state and not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Holder:
    def __init__(self) -> None:
        self.torch = torch.Generator().manual_seed(1)
        self.also = [np.random.default_rng(2), {"x": random.Random(3)}, np.random.RandomState(4)]
        self.again = self.torch
        self.me = self


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_generators_of_objects_are_found_and_put_back(bits: str) -> None:
    holder = Holder()
    holder.also[0] = np.random.Generator(getattr(np.random, bits)(2))
    found = rng.generators(holder, None, 3)
    assert len(found) == 4

    def numbers() -> list[float]:
        return [
            float(torch.rand((), generator=holder.torch)),
            holder.also[0].random(),  # type: ignore[attr-defined]
            holder.also[1]["x"].random(),  # type: ignore[index]
            holder.also[2].normal(),  # type: ignore[attr-defined]
        ]

    numbers()
    states = [rng.read(item) for item in found]
    first = numbers()
    for item, state in zip(found, states, strict=True):
        rng.write(item, state)
    assert numbers() == first
    for item in found:
        rng.reseed(item, 5)
    first = numbers()
    for item in found:
        rng.reseed(item, 5)
    assert numbers() == first


@pytest.mark.gpu
def test_devices_are_restored() -> None:
    torch.rand(1, device="cuda")
    state = rng.capture()
    first = torch.rand(4, device="cuda")
    rng.restore(state)
    assert torch.equal(torch.rand(4, device="cuda"), first)
