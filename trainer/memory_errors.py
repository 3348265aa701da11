"""Say where a run was when memory ran out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from leyden.handlers.out_of_memory import explain

__all__ = ["memory_explained"]

_DOING = {"fit": "training", "validate": "validation", "test": "test", "predict": "prediction"}


@contextmanager
def memory_explained(run: Any, stage: str | None = None) -> Iterator[None]:
    """Within the block an error about memory is told where it happened and what to try.

    Args:
        run: the run.
        stage: of the evaluation that the block is; None: training, unless something was said.
    """
    try:
        yield
    except Exception as error:
        state = (run.evaluators[stage] if stage else run.engine).state
        doing = f"in {_DOING[stage or 'fit']}"
        place = f"loader {state.dataloader_idx}, " if stage and state.num_loaders > 1 else ""
        if not stage:
            place = f"epoch {max(state.epoch - 1, 0)}, "
        if stage or run.stage == "fit":
            doing += f", at {place}batch {max(state.batch_idx, 0)}"
            explain(
                error,
                doing=doing,
                batch=state.batch,
                device=run.strategy.root_device,
                advice=_advice(run, stage),
            )
        raise


def _advice(run: Any, stage: str | None) -> list[str]:
    settings, on_gpu = run.settings, run.strategy.root_device.type != "cpu"
    if stage:
        name = {"validate": "val", "test": "test", "predict": "predict"}[stage]
        return [
            f"a smaller batch_size for {name}_dataloader: results do not depend on it",
            "return less from the step: outputs are kept until the end of the epoch",
        ]
    factor: Any = settings.accumulate_grad_batches
    if isinstance(factor, dict):
        same = "accumulate_grad_batches={0: 2} and so on"
    else:
        same = f"accumulate_grad_batches={2 * int(factor)}"
    advice = [
        f"half the batch_size with {same}: the same optimizer steps, but for batch norm",
        "auto_scale_batch_size=True and trainer.tune(model): the largest that fits",
    ]
    if on_gpu and settings.precision in (32, 64, "32-true", "64-true"):
        advice.append('precision="bf16": activations take half the room')
    advice.append("torch.utils.checkpoint for the largest layers: activations are computed again")
    return advice
