"""Callback and LambdaCallback."""

import inspect
from typing import Any

import pytest

from leyden import callbacks
from leyden.callback import Callback
from leyden.exceptions import MisconfigurationException
from leyden.handlers.callback_base import CallbackBase
from leyden.lambda_callback import LambdaCallback
from leyden.overrides import overrides
from tests.trainer.tiny import Tiny, data, trainer

# The hooks of Lightning 1.1.
OLD = """setup teardown on_init_start on_init_end on_fit_start on_fit_end on_sanity_check_start
on_sanity_check_end on_train_batch_start on_train_batch_end on_train_epoch_start on_train_epoch_end
on_validation_epoch_start on_validation_epoch_end on_test_epoch_start on_test_epoch_end
on_epoch_start on_epoch_end on_batch_start on_batch_end on_validation_batch_start
on_validation_batch_end on_test_batch_start on_test_batch_end on_train_start on_train_end
on_pretrain_routine_start on_pretrain_routine_end on_validation_start on_validation_end
on_test_start on_test_end on_keyboard_interrupt on_save_checkpoint on_load_checkpoint
on_after_backward on_before_zero_grad""".split()
NEW = """on_exception on_before_backward on_before_optimizer_step on_predict_start on_predict_end
on_predict_epoch_start on_predict_epoch_end on_predict_batch_start on_predict_batch_end""".split()


@pytest.mark.parametrize("name", OLD + NEW)
def test_every_hook_is_there_does_nothing_and_is_explained(name: str) -> None:
    hook = getattr(Callback(), name)
    required = [
        p
        for p in inspect.signature(hook).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL
    ]
    assert hook(*[None] * len(required)) is None
    assert inspect.getdoc(hook)
    assert not overrides(Callback(), name, Callback)
    # The first parameters are those of Lightning 1.1.
    names = list(inspect.signature(hook).parameters)
    if name != "on_load_checkpoint":
        assert names[0] == "trainer" and (name.startswith("on_init") or names[1] == "pl_module")


def test_there_are_no_other_hooks() -> None:
    found = {name for name in vars(Callback) if name.startswith("on_")} | {"setup", "teardown"}
    assert found == set(OLD + NEW)


def test_a_callback_is_a_handler_that_knows_its_own_hooks() -> None:
    class Mine(Callback):
        def __init__(self) -> None:  # Without super().__init__(), as user code often is.
            self.n = 0

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self.n += 1

    mine = Mine()
    assert isinstance(mine, CallbackBase)
    assert mine.defines("on_fit_end") and not mine.defines("on_fit_start")
    assert mine.state_key.endswith("Mine") and mine.state_dict() == {} and mine.origin == ""
    mine.load_state_dict({})
    mine.detach()


BUILT_IN = [
    getattr(callbacks, name)
    for name in callbacks.__all__
    if isinstance(getattr(callbacks, name), type)
]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_callback_is_one_and_has_every_hook_to_call_by_super(kind: Any) -> None:
    assert issubclass(kind, Callback)
    assert all(callable(getattr(kind, name)) for name in OLD + NEW)


def test_a_subclass_of_a_built_in_one_calls_any_hook_by_super() -> None:
    calls: list[str] = []

    class Mine(callbacks.EarlyStopping):
        def on_train_batch_start(self, *args: Any) -> None:
            super().on_train_batch_start(*args)
            calls.append("batch")

    made = trainer(max_epochs=1, callbacks=[Mine("loss", strict=False)], limit_train_batches=2)
    made.fit(Tiny(), data(), data(2))
    assert calls == ["batch", "batch"]
    assert not callbacks.EarlyStopping("loss").defines("on_train_batch_start")


def test_functions_become_hooks() -> None:
    seen: list[Any] = []
    callback = LambdaCallback(
        on_fit_end=lambda trainer, pl_module: seen.append((trainer, pl_module)),
        setup=lambda *args: seen.append(args),
        on_fit_start=None,
    )
    assert [n for n in OLD if callback.defines(n)] == ["setup", "on_fit_end"]
    callback.on_fit_end("t", "m")
    callback.setup("t", "m", "fit")
    assert seen == [("t", "m"), ("t", "m", "fit")]


@pytest.mark.parametrize(
    ("hooks", "kind", "message"),
    [
        ({"on_fit_ends": print}, ValueError, "did you mean 'on_fit_end'"),
        ({"attach": print}, ValueError, "there are setup|no such hook"),
        ({"on_fit_end": 3}, TypeError, "on_fit_end=3"),
    ],
)
def test_bad_hooks_are_refused(hooks: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message) as caught:
        LambdaCallback(**hooks)
    assert isinstance(caught.value, kind)
