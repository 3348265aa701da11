"""What holds for every test: tests that need a GPU say so and are skipped where there is none."""

import signal
import sys
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec

import pytest
import torch

__all__ = [
    "installed",
    "missing_gpus",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_sessionfinish",
]


def missing_gpus(needed: int, present: int) -> str | None:
    """Say why a test cannot run that needs ``needed`` GPUs, or None where it can."""
    if present >= needed:
        return None
    what = "1 CUDA device" if needed == 1 else f"{needed} CUDA devices"
    return f"needs {what}, and torch {torch.__version__} finds {present} here"


def pytest_configure() -> None:
    """Hear Ctrl-C: a shell makes background jobs deaf to it, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip each test marked gpu that this machine has too few GPUs for, and xla without XLA."""
    # Counted at most once, and only when asked for: it loads the driver.
    present: int | None = None
    xla = find_spec("torch_xla") is not None
    for item in items:
        if not xla and item.get_closest_marker("xla"):
            reason = "needs torch_xla, and it is not installed: make test-xla makes a place for it"
            item.add_marker(pytest.mark.skip(reason=reason))
        for mark in item.iter_markers("gpu"):
            if present is None:
                present = torch.cuda.device_count()
            needed = mark.kwargs.get("count", mark.args[0] if mark.args else 1)
            reason = missing_gpus(needed, present)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionfinish() -> None:
    """Kill the ranks that tests used, if they used any."""
    pools = sys.modules.get("tests.ranks")
    if pools is not None:
        pools.close_all()


@pytest.fixture(scope="session")
def installed() -> Distribution:
    """Return leyden's metadata as pip installed it.

    The egg-info that a build leaves in the root would be found first, and may be an old one.
    """
    return next(found for found in distributions(name="leyden") if found.read_text("WHEEL"))
