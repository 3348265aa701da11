"""Lightning's hooks as events: when each hook runs, in which order, with which arguments.

One table says it for callbacks and modules alike; the hook-order page of the docs is made from it.
A hook that nobody overrides is bound to nothing.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from leyden.engine import Engine
from leyden.engine.events import Events, TrainerEvents

__all__ = [
    "HOOKS",
    "WORDS",
    "Hook",
    "accepted",
    "bind_callback",
    "bind_module",
    "hooks_of",
    "kept_outputs",
]

State = Any

#: What each evaluation is called in the names of its hooks and steps.
WORDS = {"validate": "validation", "test": "test", "predict": "predict"}


def _nothing(state: State) -> tuple[Any, ...]:
    return ()


def _train_batch(state: State) -> tuple[Any, ...]:
    return (state.batch, state.batch_idx, 0)


def _train_batch_end(state: State) -> tuple[Any, ...]:
    return (kept_outputs(state), state.batch, state.batch_idx, 0)


def _eval_batch(state: State) -> tuple[Any, ...]:
    return (state.batch, state.batch_idx, state.dataloader_idx)


def _eval_batch_end(state: State) -> tuple[Any, ...]:
    return (state.output, state.batch, state.batch_idx, state.dataloader_idx)


def _epoch_outputs(state: State) -> tuple[Any, ...]:
    # [batch][optimizer][split] is how they are kept; an engine without a Trainer keeps none.
    kept = getattr(state, "epoch_outputs", [])
    columns: list[list[Any]] = [[] for _ in range(max(map(len, kept), default=0))]
    for batch in kept:
        for column, splits in zip(columns, batch, strict=False):
            if splits:
                column.append([_result(split) for split in splits])
    return (columns,)


def _predictions(state: State) -> tuple[Any, ...]:
    return (getattr(state, "loader_outputs", []),)


def _optimizer(state: State) -> tuple[Any, ...]:
    return (state.optimizer,)


def _optimizer_and_index(state: State) -> tuple[Any, ...]:
    return (state.optimizer, state.optimizer_idx)


def _loss(state: State) -> tuple[Any, ...]:
    return (state.loss,)


def kept_outputs(state: State) -> list[list[Any]]:
    """What ``on_train_batch_end`` gets: ``[optimizer][split]`` of dicts.

    Each has ``minimize`` and ``extra``. Empty when the step returned nothing. Source: Lightning
    1.1.
    """
    rows = []
    for optimizer_outputs in state.outputs:
        if optimizer_outputs:
            rows.append([_result(kept) for kept in optimizer_outputs])
    return rows


def _result(kept: Any) -> dict[str, Any]:
    extra = {key: value for key, value in kept.items() if key not in ("loss", "hiddens")}
    return {"minimize": kept.get("loss"), "extra": extra, "loss": kept.get("loss"), **extra}


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook at one moment.

    Attributes:
        name: the method's name.
        stage: ``state.stage`` of the engines it is bound on.
        event: the moment.
        rank: its order on that event; callbacks run before the module (``rank`` + 0.9).
        arguments: what a callback gets after ``(trainer, pl_module)``, a module after ``self``.
        callback, module: who may have it.
    """

    name: str
    stage: str
    event: Any
    rank: float
    arguments: Callable[[State], tuple[Any, ...]] = _nothing
    callback: bool = True
    module: bool = True


def _evaluation(stage: str, word: str) -> Iterator[Hook]:
    """The hooks of one evaluation engine; ``word`` is the stage's name in the hooks."""
    yield Hook(f"on_{word}_model_eval", stage, Events.STARTED, 5, callback=False)
    yield Hook(f"on_{word}_start", stage, Events.STARTED, 10)
    yield Hook(f"on_{word}_epoch_start", stage, Events.EPOCH_STARTED, 10)
    yield Hook(f"on_{word}_batch_start", stage, Events.ITERATION_STARTED, 10, _eval_batch)
    yield Hook(f"on_{word}_batch_end", stage, Events.ITERATION_COMPLETED, 10, _eval_batch_end)
    ended = _predictions if stage == "predict" else _nothing
    yield Hook(f"on_{word}_epoch_end", stage, Events.EPOCH_COMPLETED, 10, ended)
    yield Hook(f"on_{word}_end", stage, Events.COMPLETED, 10)
    yield Hook(f"on_{word}_model_train", stage, Events.COMPLETED, 95, callback=False)


HOOKS: tuple[Hook, ...] = (
    Hook("on_fit_start", "train", TrainerEvents.FIT_STARTED, 10),
    Hook("on_pretrain_routine_start", "train", TrainerEvents.PRETRAIN_STARTED, 10),
    Hook("on_pretrain_routine_end", "train", TrainerEvents.PRETRAIN_COMPLETED, 10),
    Hook("on_sanity_check_start", "train", TrainerEvents.SANITY_CHECK_STARTED, 10, module=False),
    Hook("on_sanity_check_end", "train", TrainerEvents.SANITY_CHECK_COMPLETED, 10, module=False),
    Hook("on_train_start", "train", Events.STARTED, 10),
    Hook("on_epoch_start", "train", Events.EPOCH_STARTED, 10),
    Hook("on_train_epoch_start", "train", Events.EPOCH_STARTED, 12),
    Hook("on_batch_start", "train", Events.ITERATION_STARTED, 10, module=False),
    Hook("on_train_batch_start", "train", Events.ITERATION_STARTED, 12, _train_batch),
    Hook("on_before_backward", "train", TrainerEvents.BACKWARD_STARTED, 10, _loss),
    # After norm tracking (10) and clipping (20): Lightning 1.1 shows clipped gradients here.
    Hook("on_after_backward", "train", TrainerEvents.GRADIENTS_READY, 30),
    Hook(
        "on_before_optimizer_step",
        "train",
        TrainerEvents.OPTIMIZER_STEP_STARTED,
        10,
        _optimizer_and_index,
    ),
    Hook("on_before_zero_grad", "train", TrainerEvents.ZERO_GRAD_STARTED, 10, _optimizer),
    Hook("on_batch_end", "train", Events.ITERATION_COMPLETED, 10, module=False),
    Hook("on_train_batch_end", "train", Events.ITERATION_COMPLETED, 12, _train_batch_end),
    Hook("on_epoch_end", "train", Events.EPOCH_COMPLETED, 10),
    Hook("on_train_epoch_end", "train", Events.EPOCH_COMPLETED, 12, _epoch_outputs),
    # Where no validation runs, who reads the epoch's metrics is asked here, after they are reduced.
    Hook("on_train_epoch_metrics", "train", Events.EPOCH_COMPLETED, 70, module=False),
    Hook("on_train_end", "train", TrainerEvents.TRAINING_ENDED, 10),
    Hook("on_fit_end", "train", TrainerEvents.FIT_COMPLETED, 10),
    *(hook for stage, word in WORDS.items() for hook in _evaluation(stage, word)),
)


def hooks_of(stage: str) -> list[Hook]:
    """The hooks that may be bound on an engine of this stage, in table order."""
    return [hook for hook in HOOKS if hook.stage == stage]


def bind_callback(
    engine: Engine,
    hook: Hook,
    function: Callable[..., Any],
    *,
    order: float,
    listen: Callable[..., Any],
    scope: Any,
) -> None:
    """Bind ``function(trainer, pl_module, *arguments)`` to the hook's event."""
    arguments, name = hook.arguments, hook.name
    state: State = engine.state
    taken = accepted(function, 2)

    def call(engine: Engine) -> None:
        scope.hook = name
        function(state.trainer, state.model, *arguments(state)[:taken])

    def call_plain(engine: Engine) -> None:
        scope.hook = name
        function(state.trainer, state.model)

    chosen = call_plain if arguments is _nothing else call
    _listen(engine, hook, chosen, function, hook.rank + order / 200, listen)


def bind_module(
    engine: Engine,
    hook: Hook,
    function: Callable[..., Any],
    *,
    listen: Callable[..., Any],
    scope: Any,
) -> None:
    """Bind ``function(*arguments)`` of a module to the hook's event."""
    arguments, name = hook.arguments, hook.name
    state: State = engine.state
    taken = accepted(function, 0)

    def call(engine: Engine) -> None:
        scope.hook = name
        function(*arguments(state)[:taken])

    def call_batch_start(engine: Engine) -> None:
        scope.hook = name
        # Source: Lightning 1.1, where -1 from the module's hook ends the epoch before this batch,
        # which is counted all the same, as a step where it would have closed its group.
        if function(*arguments(state)[:taken]) == -1:
            position = state.iteration - state.epoch_start
            if position % state.accumulate_grad_batches == 0 or position == state.num_batches:
                state.close_group()
            engine.terminate_epoch()

    chosen = call_batch_start if name == "on_train_batch_start" else call
    _listen(engine, hook, chosen, function, hook.rank + 0.9, listen)


def accepted(function: Callable[..., Any], given: int) -> int | None:
    """How many further positional arguments ``function`` takes after ``given``; None if any number.

    Later versions of Lightning dropped trailing arguments of some hooks; code in either style runs.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return max(len(positional) - given, 0)


def _listen(
    engine: Engine,
    hook: Hook,
    call: Callable[[Engine], None],
    function: Callable[..., Any],
    rank: float,
    listen: Callable[..., Any],
) -> None:
    call.__name__, call.__qualname__ = hook.name, getattr(function, "__qualname__", hook.name)
    listen(engine, hook.event, call, order=rank)
