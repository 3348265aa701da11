"""Fixtures of the tests of devices."""

import os

import pytest

__all__ = ["four_devices"]


@pytest.fixture(scope="session")
def four_devices() -> None:
    """XLA's runtime starts with the first device that is asked for, and has these from then on."""
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    os.environ.setdefault("CPU_NUM_DEVICES", "4")
    import torch_xla

    torch_xla.device()  # before any test trains on the CPU: autograd takes up none that come later
