"""What ``self.log`` means in each hook: where it is refused, where it is dropped, its defaults."""

from __future__ import annotations

from typing import Any

from leyden.engine.errors import MisconfigurationException

__all__ = ["Rules", "rules_of"]

_REFUSED = frozenset(
    """on_fit_start on_fit_end on_pretrain_routine_start on_pretrain_routine_end on_train_end
    on_sanity_check_start on_sanity_check_end on_validation_end on_test_end on_keyboard_interrupt
    on_save_checkpoint on_load_checkpoint predict_step
    on_predict_start on_predict_end on_predict_epoch_start on_predict_epoch_end
    on_predict_batch_start on_predict_batch_end""".split()
)
"""No loop would ever pick the value up there."""

_DROPPED = frozenset(
    """setup teardown configure_optimizers configure_callbacks prepare_data on_before_zero_grad
    on_batch_start on_train_batch_start on_validation_batch_start on_test_batch_start
    train_dataloader val_dataloader test_dataloader predict_dataloader""".split()
)
"""Lightning 1.1.8 takes the call there and keeps nothing."""

_STEPS = frozenset(
    """training_step training_step_end on_before_backward on_before_optimizer_step backward
    configure_gradient_clipping optimizer_step""".split()
)
"""Per step by default. The first two are 1.1.8's; the others it lacked, or did not name."""

_EPOCH_END_METHODS = frozenset("training_epoch_end validation_epoch_end test_epoch_end".split())

_EPOCH_LEVEL = _EPOCH_END_METHODS | frozenset(
    """on_train_start on_epoch_start on_train_epoch_start on_train_epoch_end on_epoch_end
    on_validation_start on_validation_epoch_start on_validation_epoch_end on_test_start
    on_test_epoch_start on_test_epoch_end""".split()
)
"""Outside any batch: a value counts once, and belongs to no data loader."""

_AT_END = frozenset(hook for hook in _EPOCH_LEVEL if hook.endswith("_end"))
"""After the last batch: nothing of a step is to come."""


class Rules:
    """What ``self.log`` does in one hook.

    Attributes:
        hook: the hook's name.
        dropped: whether the call does nothing.
        epoch_level: whether the hook runs outside any batch.
        at_end: whether it runs after the last batch.
    """

    __slots__ = ("_on_epoch", "_on_step", "at_end", "dropped", "epoch_level", "hook")

    def __init__(self, hook: str | None) -> None:
        self.hook = hook
        self.dropped = hook is None or hook in _DROPPED
        self.epoch_level = hook in _EPOCH_LEVEL
        self.at_end = hook in _AT_END
        self._on_step = hook in _STEPS
        self._on_epoch = not self._on_step

    def when(self, name: object, on_step: Any, on_epoch: Any) -> tuple[bool, bool]:
        """Return ``(on_step, on_epoch)`` with the hook's defaults filled in.

        Raises:
            MisconfigurationException: logging is not possible in this hook, or not so.
        """
        hook = self.hook
        if hook in _REFUSED:
            raise MisconfigurationException(
                f"self.log({name!r}) was called in {hook}, where no loop can show the value:"
                " log in a step, a batch-end or an epoch-end hook"
            )
        step = self._on_step if on_step is None else bool(on_step)
        epoch = self._on_epoch if on_epoch is None else bool(on_epoch)
        if step and self.at_end:
            raise MisconfigurationException(
                f"self.log({name!r}, on_step=True) was called in {hook}, which belongs to no step:"
                " leave on_step out"
            )
        if not epoch and hook in _EPOCH_END_METHODS:
            raise MisconfigurationException(
                f"self.log({name!r}, on_epoch=False) was called in {hook}, where every value"
                " belongs to the epoch: leave on_epoch out"
            )
        return step, epoch


_known: dict[str | None, Rules] = {}


def rules_of(hook: str | None) -> Rules:
    """Return the rules of a hook; one object a name."""
    rules = _known.get(hook)
    if rules is None:
        rules = _known[hook] = Rules(hook)
    return rules
