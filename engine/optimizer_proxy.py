"""An optimizer as user code sees it: ``step`` fires the events and clears the gradients."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from leyden.engine.errors import MisconfigurationException, MisconfiguredValue

__all__ = ["OptimizerProxy"]


class OptimizerProxy:
    """Stands in for an optimizer wherever user code steps it by hand.

    It shares the optimizer's attributes (``param_groups``, ``state``, hyper-parameters) and is an
    instance of its class, so that schedulers and ``isinstance`` accept it. One that user code makes
    steps the optimizer, and ``configure_optimizers`` may return it.

    Args:
        optimizer: the optimizer.
        accumulate_grad_batches: after how many batches this one steps, and after the last of an
            epoch; None for the Trainer's number. The loss is divided by the Trainer's alone.

    Source: ``LightningOptimizer`` of PyTorch Lightning 1.1, which makes such a class the same way.
    """

    _optimizer: Any
    _owner: Any
    _index: int
    _replaced: tuple[Callable[..., Any], ...] = ()
    #: kept in the optimizer's own dict, for the proxy that a run makes of it.
    accumulate_grad_batches: int | None = None

    def __new__(cls, optimizer: Any = None, accumulate_grad_batches: int | None = None) -> Any:
        if optimizer is None:  # a copy that is about to get its attributes
            return object.__new__(cls)
        every = accumulate_grad_batches
        if every is not None and (not isinstance(every, int) or every < 1):
            raise MisconfiguredValue(
                f"accumulate_grad_batches={every!r}: pass a number of batches, 1 or more, or None "
                "for the Trainer's"
            )
        proxy = cls.wrap(optimizer, 0, None)
        if every is not None:
            proxy.accumulate_grad_batches = every
        return proxy

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Leave the attributes alone: they are the optimizer's."""

    @classmethod
    def wrap(cls, optimizer: Optimizer, index: int, owner: Any) -> Any:
        """A proxy of ``optimizer``, the ``index``-th of the training step ``owner``, if any."""
        own = {"_optimizer": optimizer, "_owner": owner, "_index": index, "__doc__": cls.__doc__}
        kind = type(f"Lightning{type(optimizer).__name__}", (cls, type(optimizer)), own)
        proxy: Any = object.__new__(kind)
        # The very dict of the optimizer: what either learns later (groups, hooks, state) both have.
        object.__setattr__(proxy, "__dict__", optimizer.__dict__)
        return proxy

    @property
    def optimizer(self) -> Any:
        """The optimizer itself."""
        return self._optimizer

    @property
    def step(self) -> Callable[..., Any]:
        """``step(closure=None, *, make_optimizer_step=None, **kwargs)``: step where a group closes.

        The gradients are cleared after the step. ``closure`` evaluates the loss; it is also called
        where no step is made, so that gradients add up. ``make_optimizer_step`` overrules the
        accumulation factor.
        """
        # A property: schedulers put a wrapped `step` into the shared dict, which would win.
        return self._replaced[0] if self._replaced else self._step

    @step.setter
    def step(self, value: Any) -> None:
        # A scheduler made with the proxy wraps `_step`. Given to the optimizer, whose step `_step`
        # ends with, it would call itself; the class is this proxy's alone.
        type(self)._replaced = (value,)

    def _step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        make_optimizer_step: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        if closure is not None and not callable(closure):
            raise MisconfigurationException(
                f"closure={closure!r} ({type(closure).__name__}) is no function: pass one that "
                "evaluates the loss, or leave it out"
            )
        if self._owner is None:  # made by hand, and in no run
            return self._optimizer.step(closure=closure, **kwargs)
        if make_optimizer_step is None:
            make_optimizer_step = not self._owner.accumulates(self.accumulate_grad_batches)
        elif self._owner.zero_grad is not None:
            raise MisconfigurationException(
                f"make_optimizer_step={make_optimizer_step} and an overridden optimizer_zero_grad: "
                "When overriding LightningModule `optimizer_zero_grad`, make_optimizer_step is not "
                "allowed. Leave one of them out"
            )
        if not make_optimizer_step:
            if closure is not None:
                closure()
            return None
        return self._owner.apply(self._optimizer, self._index, closure, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._optimizer!r})"
