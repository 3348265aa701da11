"""A run in the process that ``torch_xla.launch`` starts for XLA's one CPU device.

    PJRT_DEVICE=CPU CPU_NUM_DEVICES=1 XLA_ALWAYS_ALLREDUCE=1 python -m tests.backends.xla_launched

prints one line of JSON with what was found. By the last variable torch_xla records a collective
operation also where one process takes part: on its CPU devices there cannot be more.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

import leyden
from leyden.backends.environments import Environment
from leyden.backends.strategies import XLAProcessStrategy
from tests.backends.xla_cases import Net, counted, loader, losses, trainer, weights

ARGUMENTS: dict[str, Any] = dict(max_epochs=3, gradient_clip_val=0.05, accumulate_grad_batches=2)


class Looking(leyden.Callback):
    """Reads off what XLA has recorded of a gradient, right before the optimizer takes it."""

    def __init__(self) -> None:
        self.recorded = ""

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        import torch_xla

        if not self.recorded:
            gradients = [parameter.grad for parameter in module.parameters()]
            self.recorded = torch_xla._XLAC._get_xla_tensors_hlo(gradients)


def main(index: int) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as root:
        place = Environment("torch_xla.launch", init_method=f"file://{Path(root) / 'meet'}")
        strategy = XLAProcessStrategy(environment=place)
        looking = Looking()
        module = Net(norm=True)
        run = trainer(root, plugins=strategy, callbacks=[looking], **ARGUMENTS)
        with counted() as counts:
            run.fit(module, loader())
        one = torch.arange(3.0, device=strategy.root_device)
        expected = Net(norm=True)
        trainer(root, **ARGUMENTS).fit(expected, loader())
        found = {
            "index": index,
            "loss": float((losses(module) - losses(expected)).abs().max()),
            "weights": float((weights(module) - weights(expected)).abs().max()),
            "steps": run.global_step,
            "counts": counts,
            "all-reduce": looking.recorded.count("all-reduce("),
            "reduced": {
                op: strategy.reduce(one, op).tolist() for op in ("mean", "sum", "min", "max")
            },
            "gathered": module.all_gather(one).tolist(),
        }
        strategy.disconnect()
    print(json.dumps(found))


if __name__ == "__main__":
    import torch_xla

    torch_xla.launch(main, debug_single_process="--here" in sys.argv)
