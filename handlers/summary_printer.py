"""Print the table of a model's layers when its training begins."""

from collections.abc import Callable
from typing import Any

from torch import nn

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfiguredValue
from leyden.handlers.base import Handler, Order
from leyden.handlers.summary import ModelSummary, depth_of

__all__ = ["SummaryPrinter"]


class SummaryPrinter(Handler):
    """Prints the :class:`~leyden.handlers.summary.ModelSummary` of the model, once a run.

    Args:
        mode: ``"top"`` or ``"full"``; None: by ``max_depth``.
        max_depth: How deep to look instead: 1 is ``"top"``, -1 is ``"full"``, 0 is the totals only.
        flops: Count the operations of a forward pass; needs ``example_input_array``.
        model: The model; None: ``engine.state.model``.
        write: Takes the text. With several processes only that of rank 0 is asked.

    Runs on: PRETRAIN_STARTED; STARTED on an engine without the events of a training run.

    State: none.

    Raises:
        MisconfigurationException: An unknown mode or depth, or no model.

    Source: ``weights_summary`` of Lightning 1.1; ``max_depth`` is that of later versions.

    Example:
        >>> from torch import nn
        >>> engine = Engine(lambda engine, batch: None)
        >>> SummaryPrinter("top", model=nn.Sequential(nn.Linear(2, 3))).attach(engine)
        >>> _ = engine.run([0])
          | Name | Type   | Params
        --------------------------
        0 | 0    | Linear | 9
        --------------------------
        9         Trainable params
        0         Non-trainable params
        9         Total params
        0.000     Total estimated model size (MB)
    """

    order = Order.DEFAULT

    def __init__(
        self,
        mode: str | None = None,
        *,
        max_depth: int | None = None,
        flops: bool = False,
        model: nn.Module | None = None,
        write: Callable[[str], Any] = print,
    ) -> None:
        super().__init__()
        if mode is None and max_depth is None:
            mode = ModelSummary.MODE_TOP
        depth_of(mode, max_depth)
        self.mode = mode
        self.max_depth = max_depth
        self.flops = flops
        self.model = model
        self.write = write

    def attach(self, engine: Engine) -> None:
        """Listen for the beginning of a run."""
        inside = engine.has_registered_events(TrainerEvents.PRETRAIN_STARTED)
        self.listen(engine, TrainerEvents.PRETRAIN_STARTED if inside else Events.STARTED, self.show)

    def show(self, engine: Engine) -> None:
        """Write the table."""
        state: Any = engine.state
        trainer = getattr(state, "trainer", None)
        if trainer is not None and not trainer.is_global_zero:
            return
        model = getattr(state, "model", None) if self.model is None else self.model
        if model is None:
            raise MisconfiguredValue(
                "there is no model to summarize: pass SummaryPrinter(model=...), or set "
                "engine.state.model"
            )
        self.write(str(ModelSummary(model, self.mode, max_depth=self.max_depth, flops=self.flops)))
