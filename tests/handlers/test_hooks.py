"""The table of hooks: complete, in Lightning's order, and bound only where overridden."""

from typing import Any

import pytest

from leyden import Callback
from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.hooks import HOOKS, accepted, hooks_of, kept_outputs
from tests.trainer.tiny import Tiny, data, trainer

#: These belong to no event of an engine: the Trainer calls them itself.
CALLED = {
    "on_init_start",
    "on_init_end",
    "setup",
    "teardown",
    "on_exception",
    "on_keyboard_interrupt",
    "on_save_checkpoint",
    "on_load_checkpoint",
}


def test_every_hook_of_a_callback_is_in_the_table_or_called_by_name() -> None:
    declared = {name for name in vars(Callback) if name.startswith("on_")} | {"setup", "teardown"}
    bound = {hook.name for hook in HOOKS if hook.callback}
    assert declared - bound <= CALLED and not bound & CALLED
    extra = {"on_train_epoch_metrics"}  # leyden's own
    assert bound - declared <= extra


@pytest.mark.parametrize("stage", ["train", "validate", "test", "predict"])
def test_a_stage_has_each_hook_once_and_every_one_is_on_an_event(stage: str) -> None:
    hooks = hooks_of(stage)
    assert len({hook.name for hook in hooks}) == len(hooks)
    known = {*Events, *TrainerEvents}
    assert all(hook.event in known and (hook.callback or hook.module) for hook in hooks)


def test_callbacks_run_before_the_module_and_in_lightnings_order(tmp_path: Any) -> None:
    seen: list[str] = []
    own = {"on_validation_start", "on_validation_end"}  # a module's, which 1.1 never calls

    def method(owner: str, name: str) -> Any:
        return lambda self, *arguments: seen.append(f"{owner}.{name}")

    names = [hook.name for hook in HOOKS if hook.stage in ("train", "validate") and hook.callback]
    watcher: Any = type("All", (Callback,), {name: method("callback", name) for name in names})
    on_module = [h.name for h in HOOKS if h.stage == "train" and h.module and hasattr(Tiny, h.name)]
    model: Any = type("Model", (Tiny,), {name: method("module", name) for name in on_module})
    trainer(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=[watcher()]).fit(
        model(), data(), data(1)
    )
    for name in set(on_module) - own:
        if f"callback.{name}" in seen:
            assert seen.index(f"callback.{name}") < seen.index(f"module.{name}")
    order = [
        "on_fit_start",
        "on_pretrain_routine_start",
        "on_pretrain_routine_end",
        "on_train_start",
        "on_epoch_start",
        "on_train_epoch_start",
        "on_batch_start",
        "on_train_batch_start",
        "on_before_backward",
        "on_after_backward",
        "on_before_zero_grad",
        "on_batch_end",
        "on_train_batch_end",
        "on_epoch_end",
        "on_train_epoch_end",
        "on_validation_start",
        "on_validation_epoch_start",
        "on_validation_batch_start",
        "on_validation_batch_end",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_train_end",
        "on_fit_end",
    ]
    assert [name for name in seen if name in {f"callback.{one}" for one in order}] == [
        f"callback.{name}" for name in order
    ]


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        (lambda: None, 0, 0),
        (lambda a, b, c: None, 2, 1),
        (lambda a, *rest: None, 1, None),
        (lambda a, *, b=1: None, 0, 1),
        (lambda a: None, 3, 0),
        (print, 0, None),
    ],
)
def test_how_many_arguments_a_function_takes(function: Any, given: int, expected: Any) -> None:
    assert accepted(function, given) == expected


def test_hooks_may_leave_out_the_arguments_that_they_do_not_need(tmp_path: Any) -> None:
    seen: list[int] = []

    class Short(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:  # type: ignore[override]
            seen.append(len(outputs))

    trainer(tmp_path, max_epochs=1, callbacks=[Short()]).fit(Tiny(), data(2), data(1))
    assert seen == [1, 1]


def test_a_hook_that_takes_no_module_is_an_error(tmp_path: Any) -> None:
    class TooShort(Callback):
        def on_train_batch_start(self, trainer: Any) -> None:  # type: ignore[override]
            raise AssertionError("cannot be called")

    made = trainer(tmp_path, max_epochs=1, callbacks=[TooShort()])
    with pytest.raises(TypeError, match="on_train_batch_start"):
        made.fit(Tiny(), data(1), data(1))


def test_what_nobody_overrides_is_bound_to_nothing() -> None:
    engine = Engine(lambda engine, batch: None)
    Callback().attach(engine)
    assert not list(engine.entries())


def test_outputs_of_a_batch_have_lightnings_shape() -> None:
    class State:
        outputs = [[{"loss": 1.0, "n": 2, "hiddens": 3}], [], [{"loss": 4.0}, {"loss": 5.0}]]

    rows = kept_outputs(State)
    assert [len(row) for row in rows] == [1, 2]
    assert rows[0][0]["minimize"] == 1.0 and rows[0][0]["extra"] == {"n": 2}
