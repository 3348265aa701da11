"""What the processes that are killed do; spawned ones import it by name."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

from leyden.callbacks import ModelCheckpoint
from tests.trainer.resume_runs import run

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in a thread": {"asynchronous": True},
    "two workers": {"workers": 2},
}


def savers(asynchronous: bool) -> tuple[Any, ...]:
    """Two that save at different moments, so that one dies while the other is done."""
    return (
        ModelCheckpoint(monitor="val", save_top_k=2, filename="best-{epoch}-{step}"),
        ModelCheckpoint(every_n_train_steps=1, save_last=True, asynchronous=asynchronous),
    )


def work(root: str, resume: str | None, kind: str, began: Any) -> None:
    """Train to the end, and leave the outcome beside the log."""
    torch.set_num_threads(1)
    # A process of a forkserver would start the workers of its loaders by another forkserver.
    multiprocessing.set_start_method("fork", force=True)
    sys.stderr = open(os.path.join(root, "errors.txt"), "a", buffering=1)  # noqa: SIM115
    warnings.simplefilter("always")
    options = dict(KINDS[kind])
    began.set()
    start = time.perf_counter()
    try:
        found = run(
            Path(root),
            resume=resume,
            callbacks=savers(options.pop("asynchronous", False)),
            accumulate_grad_batches=3,
            val_check_interval=0.5,
            max_epochs=3,
            **options,
        )
    except BaseException:
        traceback.print_exc()
        raise
    found["seconds"] = time.perf_counter() - start
    temporary = os.path.join(root, "outcome.part")
    with open(temporary, "w") as file:
        json.dump(found, file)
    os.replace(temporary, os.path.join(root, "outcome.json"))
