"""What apex does at each opt-level, as a plain loop with float32 weights beside the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn


def train_by_hand(
    net: nn.Module,
    make: Callable[[Any], torch.optim.Optimizer],
    level: str,
    batches: Iterable[Any],
    *,
    accumulate: int = 1,
    clip: float | None = None,
    over: tuple[int, ...] = (),
) -> tuple[list[Any], list[torch.Tensor]]:
    """Return ``[loss, scale, good passes]`` of each batch, and the weights that stepped."""
    half, scaled = level in ("O2", "O3"), level in ("O1", "O2")
    for module in net.modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
        if half and not (level == "O2" and batch_norm):
            for tensor in (*module.parameters(False), *module.buffers(False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.half()
    own = list(net.parameters())
    masters = [nn.Parameter(p.detach().float()) for p in own] if level == "O2" else own
    optimizer = make(masters)
    scale, good, skip, trace = 2.0**16 if scaled else 1.0, 0, False, []
    sums: list[Any] = [None] * len(own)
    for i, (x, y) in enumerate(batches):
        with torch.autocast("cpu", torch.float16) if level == "O1" else nullcontext():
            out = net(x.half() if half else x)
            loss = nn.functional.cross_entropy(out.float(), y) / accumulate
        if not scaled:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            for p in own:
                p.grad = None
            factor = scale * (float("inf") if i in over else 1.0)
            (loss.float() * factor).backward()
            fresh = [p.grad.float() / scale for p in own if p.grad is not None]
            sums = [f if s is None else s + f for s, f in zip(sums, fresh, strict=True)]
            if all(bool(torch.isfinite(f).all()) for f in fresh):
                good += 1
            else:
                scale, good, skip = scale / 2, 0, True
        if (i + 1) % accumulate == 0:
            if scaled:
                for p, gradient in zip(masters, sums, strict=True):
                    p.grad = gradient
            if clip:
                nn.utils.clip_grad_norm_(masters, clip)
            if not skip:
                optimizer.step()
            optimizer.zero_grad()
            skip, sums = False, [None] * len(own)
            if level == "O2":
                with torch.no_grad():
                    for p, master in zip(own, masters, strict=True):
                        p.copy_(master)
        trace.append([loss.item(), scale, good])
    return trace, [p.detach() for p in masters]
