"""What a run asks of a precision: how steps compute, what gradients are, how weights change."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.engine.errors import MisconfigurationException

__all__ = ["Kind", "Precision", "refuse_reevaluation"]

#: Which step is wrapped: an automatic training step is followed by its backward pass, a manual one
#: contains it, an evaluation has none.
Kind = Literal["train", "manual", "evaluate"]


class Precision:
    """Computes in float32, as torch does by itself: nothing is wrapped, nothing is attached.

    Another precision overrides what it does differently. A run calls, in this order:
    :meth:`prepare` once; for each batch the step that :meth:`around` gave, :meth:`backward`;
    where gradients are complete :meth:`gradients_ready`, then :meth:`step`; :meth:`settle` when the
    batch is over; :meth:`release` when the run ends, however it does.

    A ready one can be passed as ``Trainer(plugins=...)``.

    Attributes:
        name: the precision in words, as ``Trainer(precision=...)`` takes it.
        active: False where training steps need nothing of it.
        scaler: the gradient scaler, where there is one of torch's kind.
        checkpoint_key: under which :meth:`state_dict` is saved; None where there is no state.
    """

    active: ClassVar[bool] = False
    checkpoint_key: str | None = None
    scaler: Any = None

    def __init__(self, name: str = "32-true") -> None:
        self.name = name
        self._skipped = 0

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps left out; where the device decides, asking waits for it."""
        return self._skipped

    def count_from(self, skipped: int) -> None:
        """Go on counting at ``skipped``: a resumed run does."""
        self._skipped = skipped

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        """Make a model and its optimizers ready for a run.

        Args:
            model: on its device already.
            optimizers: those of its parameters; none in an evaluation.
            fresh: False where an earlier run of this model is continued.

        Raises:
            MisconfigurationException: where they do not go with this precision.
        """

    def release(self) -> None:
        """Take back what only a run needs."""

    def around(self, step: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        """Return ``step`` as it is to run: within autocast, with converted inputs, and so on."""
        return step

    def backward(
        self, run: Callable[[Tensor], Any], loss: Tensor, optimizer: Optimizer | None
    ) -> None:
        """Differentiate ``loss``: ``run(loss)`` does the backward pass of what it is given.

        ``optimizer`` is the one whose turn it is, None where the user's step decides that.
        """
        run(loss)

    def stepped(self, model: nn.Module) -> Iterable[Tensor]:
        """The weights whose gradients step: those of the model, unless others stand for them."""
        return model.parameters()

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """Leave true gradients of the weights in ``.grad``: unscaled, in the weights' precision."""

    def step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Step ``optimizer``, or leave the step out where a gradient is infinite or NaN."""
        if closure is not None:
            return optimizer.step(closure=closure, **(arguments or {}))
        return optimizer.step(**(arguments or {}))

    def settle(self) -> None:
        """The batch is over: everybody may look at the weights now."""

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the block the weights are as they are saved, also in the middle of a step."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """What the next process needs, as plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def refuse_reevaluation(name: str, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers that evaluate the loss within a step, where steps may be left out.

    Raises:
        MisconfigurationException: naming the optimizer.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise MisconfigurationException(
                f"precision={name!r} scales the loss and leaves out steps whose gradients are "
                f"infinite, and {type(optimizer).__name__} evaluates the loss within its step: use "
                "precision='bf16-mixed', which scales nothing, or precision=32"
            )
