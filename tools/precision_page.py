"""Measure what each precision costs and reaches on the digits; write it into docs/precision.md.

    python tools/precision_page.py            measures (minutes) and writes the page
    python tools/precision_page.py --show     measures and prints

On a CPU. With a GPU there, the same net is measured on it as well, float8 included.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["BEGIN", "CASES", "END", "Digits", "main", "measure", "put", "rows"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "precision.md"
BEGIN, END = "<!-- measured by tools/precision_page.py -->", "<!-- end of the measured table -->"

#: Each row: how it is written in the table, and the arguments of the Trainer.
CASES: dict[str, dict[str, Any]] = {
    "32": {},
    "64": {"precision": 64},
    "16 (bfloat16 on a CPU)": {"precision": 16},
    '"16-mixed"': {"precision": "16-mixed"},
    '"bf16-true"': {"precision": "bf16-true"},
    '"16-true"': {"precision": "16-true"},
    **{
        level: {"precision": 16, "amp_backend": "apex", "amp_level": level}
        for level in ("O0", "O1", "O2", "O3")
    },
    **{str(bits): {"precision": bits} for bits in (8, 4, 2)},
}
_ON_GPU = {'"fp8"': {"precision": "fp8"}}
_QUIET: dict[str, Any] = dict(
    logger=False,
    checkpoint_callback=False,
    progress_bar_refresh_rate=0,
    weights_summary=None,
    num_sanity_val_steps=0,
)


class Digits(leyden.LightningModule):
    """64-128-128-10 with batch norm; ``eps`` is large enough for float16."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Linear(64, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Ten numbers for each picture."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        return nn.functional.cross_entropy(self(batch[0]).float(), batch[1])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """The share that is right."""
        self.log("right", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        """Adam, as everybody has it."""
        return torch.optim.Adam(self.parameters(), lr=2e-3, eps=1e-4)


def measure(
    arguments: dict[str, Any], seed: int, *, epochs: int = 10, images: int = 1797
) -> tuple[float, float, int]:
    """Train once; return the accuracy in per cent, the microseconds of a step, and the bytes."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32)[:images] / 16
    y = torch.tensor(digits.target)[:images]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = len(x) * 7 // 9
    train, test = (TensorDataset(x[part], y[part]) for part in (order[:cut], order[cut:]))
    model = Digits(seed)
    trainer = leyden.Trainer(max_epochs=epochs, **_QUIET, **arguments)
    loader: DataLoader[Any] = DataLoader(train, 50, shuffle=True, drop_last=True)
    # On a CPU the time that this process computes, which others on the machine hardly change.
    clock = time.perf_counter if trainer.on_gpu else time.process_time
    began = clock()
    trainer.fit(model, loader)
    if trainer.on_gpu:
        torch.cuda.synchronize()
    step = (clock() - began) / max(trainer.global_step, 1) * 1e6
    held_out: DataLoader[Any] = DataLoader(test, len(test))
    right = 100 * trainer.test(model, held_out, verbose=False)[0]["right"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pt")
        if arguments.get("precision") in (8, 4, 2):
            size = trainer.export_quantized(path)
        else:
            torch.save(model.state_dict(), path)
            size = os.path.getsize(path)
    return right, step, size


def rows(cases: dict[str, dict[str, Any]], seeds: int, **more: Any) -> Iterator[str]:
    """Yield the lines of a table; the cases take turns, so that a busy moment meets all of them."""
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in cases}
    measure(next(iter(cases.values())), 0, **{**more, "epochs": 1})  # the first time loads things
    for seed in range(seeds):
        for name, arguments in cases.items():
            found[name].append(measure(arguments, seed, **more))
    yield "| precision | test accuracy, % (lowest to highest) | us a step | bytes of the model |"
    yield "| --- | --- | --- | --- |"
    for name, runs in found.items():
        right, steps, sizes = zip(*runs, strict=True)
        yield (
            f"| {name} | {statistics.mean(right):.2f} ({min(right):.2f} to {max(right):.2f}) | "
            f"{min(steps):.0f} | {sizes[0]:,} |"
        )


def put(page: str, table: str) -> str:
    """Return a page with the table between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="print the table, write nothing")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [f"On a CPU, one thread, torch {torch.__version__}:", ""]
    lines += rows(CASES, options.seeds)
    if torch.cuda.is_available():
        from leyden.backends.device_report import why_no_fp8

        cases = {**CASES, **({} if why_no_fp8("cuda") else _ON_GPU)}
        lines += ["", f"On one {torch.cuda.get_device_name()}:", ""]
        on_gpu = {name: {"gpus": 1, **given} for name, given in cases.items()}
        lines += rows(on_gpu, options.seeds)
    table = "\n".join(lines)
    if options.show:
        print(table)
    else:
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
