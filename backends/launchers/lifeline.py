"""A child process ends with its parent, however that ends; and threads are shared out fairly."""

from __future__ import annotations

import os
import threading

import torch

__all__ = ["LIFELINE_VARIABLE", "hold_lifeline", "share_threads"]

#: The number of the inherited end of a pipe, whose other end the parent holds until it ends.
LIFELINE_VARIABLE = "LEYDEN_LIFELINE"

_held: set[int] = set()


def hold_lifeline(text: str | None = None) -> bool:
    """End this process at once when the parent is gone; whether there is a parent to watch.

    Args:
        text: the number of the pipe's end; None: that in the environment. It is taken out of
            there, so that further processes do not take it for theirs.
    """
    text = os.environ.pop(LIFELINE_VARIABLE, "") if text is None else text
    if not text.isdigit() or int(text) in _held:
        return False
    end = int(text)
    try:
        os.set_inheritable(end, False)
    except OSError:  # somebody closed what they did not open
        return False
    _held.add(end)
    threading.Thread(target=_watch, args=(end,), name="leyden-lifeline", daemon=True).start()
    return True


def _watch(end: int) -> None:
    try:
        while os.read(end, 64):
            continue
    except OSError:
        pass
    # Nothing is left to tell anybody, and a rank alone would wait for the others.
    os._exit(1)


def share_threads(processes: int, cores: int | None = None) -> int:
    """Let torch use this process's share of the cores; nothing where ``OMP_NUM_THREADS`` says.

    Returns:
        The threads in use.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        cores = os.cpu_count() or 1 if cores is None else cores
        torch.set_num_threads(max(1, cores // processes))
    return torch.get_num_threads()
