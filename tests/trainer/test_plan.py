"""The plan: the text that is printed, plain data, and counts that hold when the run is counted."""

import json
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leyden
from leyden.engine import Events, TrainerEvents
from leyden.engine.filters import read_filter
from leyden.plan import WIDTH, Line, Plan
from leyden.plan_counts import passes
from tests.trainer.tiny import QUIET, Bare, Tiny, data, trainer


class Watch(leyden.Callback):
    """Overrides two hooks."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None: ...
    def on_train_end(self, trainer: Any, pl_module: Any) -> None: ...


def by_hand() -> None: ...


def example() -> leyden.Trainer:
    made = trainer(
        max_epochs=3,
        gradient_clip_val=0.5,
        accumulate_grad_batches=2,
        val_check_interval=2,
        check_val_every_n_epoch=2,
        callbacks=[Watch()],
        num_sanity_val_steps=1,
    )
    made.engine.add_event_handler(Events.ITERATION_COMPLETED(every=4), by_hand)
    return made


BEFORE = """\
    order  handler                          when            times  put there by
--------------------------------------------------------------------------------------------
training
  EPOCH_STARTED
        3  SamplerEpoch.set_epoch                               3  always
        5  GradientAccumulation.set_factor                      3  accumulate_grad_batches=2
       80  Stopping.before_epoch                                3  max_steps=None *
       99  Position.begin_epoch                                 3  always
  the step
           training_step, backward                                 fit(model)
  GRADIENTS_READY
       20  GradientClipping.clip                                   gradient_clip_val=0.5
  the step
           optimizer.step, zero_grad        each 2 batches         accumulate_grad_batches=2
  ITERATION_COMPLETED
    12.25  Watch.on_train_batch_end                                callbacks[0]
       50  by_hand                          every=4                attached by hand
  EPOCH_COMPLETED
        0  Position.refuse_empty                                3  always
       35  Validation.after_epoch           each 2 epochs       3  val_check_interval=2
       80  Stopping.after_epoch                                 3  max_steps=None *
       99  Position.end_epoch                                   3  always
  TRAINING_ENDED
    10.25  Watch.on_train_end                                   1  callbacks[0]

val_check_interval=2: validation runs after every 2 batches, in one epoch of 2
the hooks and steps of the model join when fit(model) begins
* by default"""


AFTER = """\
    order  handler                             when            times  put there by
-----------------------------------------------------------------------------------------------
training
  EPOCH_STARTED
        1  ModuleHandler.begin_epoch                               3  model=Tiny
        3  SamplerEpoch.set_epoch                                  3  always
        5  GradientAccumulation.set_factor                         3  accumulate_grad_batches=2
       80  Stopping.before_epoch                                   3  max_steps=None *
       99  Position.begin_epoch                                    3  always
  the step
           Tiny.training_step, backward                           18  model=Tiny
  GRADIENTS_READY
       20  GradientClipping.clip                                   9  gradient_clip_val=0.5
  the step
           SGD.step, zero_grad                 each 2 batches      9  accumulate_grad_batches=2
  ITERATION_COMPLETED
    12.25  Watch.on_train_batch_end                               18  callbacks[0]
       30  ModuleHandler.end_batch                                18  model=Tiny
       35  Validation.after_batch              each 2 batches     18  val_check_interval=2
       50  by_hand                             every=4             4  attached by hand
  EPOCH_COMPLETED
        0  Position.refuse_empty                                   3  always
       20  ModuleHandler.end_epoch                                 3  model=Tiny
       35  Validation.after_epoch              each 2 epochs       3  val_check_interval=2
       80  Stopping.after_epoch                                    3  max_steps=None *
       99  Position.end_epoch                                      3  always
  TRAINING_ENDED
    10.25  Watch.on_train_end                                      1  callbacks[0]

validation
  the step
           Tiny.validation_step                                    7  model=Tiny
  ITERATION_COMPLETED
       30  ModuleHandler.end_evaluation_batch                      7  model=Tiny
  EPOCH_COMPLETED
        5  ModuleHandler.end_epoch                                 4  model=Tiny
       30  ModuleHandler.reduce                                    4  model=Tiny

val_check_interval=2: validation runs after batches 2, 4, 6: 3 times an epoch, in one epoch of 2; 3
times in this run
* by default"""


def test_the_printed_plan_before_and_after_fit() -> None:
    made = example()
    assert str(made.plan()) == BEFORE
    made.fit(Tiny(), data(), data(2))
    assert str(made.plan()) == AFTER


def test_reasons_are_printed_on_request() -> None:
    made = example()
    text = str(made.plan(reasons=True))
    assert (
        "        5  GradientAccumulation.set_factor                      3  "
        "accumulate_grad_batches=2\n            before the hooks: they may look at the factor\n"
    ) in text
    assert [line for line in text.splitlines() if line in BEFORE.splitlines()] == (
        BEFORE.splitlines()
    )


def test_the_plan_as_plain_data() -> None:
    made = example()
    made.fit(Tiny(), data(), data(2))
    plan = json.loads(json.dumps(made.plan().to_dict()))
    assert set(plan) == {"lines", "notes"}
    clipping = next(line for line in plan["lines"] if "Clipping" in line["handler"])
    reason = clipping.pop("reason")
    assert reason.startswith("after norm tracking (10)")
    assert clipping == {
        "engine": "train",
        "event": "GRADIENTS_READY",
        "order": 20.0,
        "handler": "GradientClipping.clip",
        "filter": "",
        "times": 9,
        "origin": "gradient_clip_val=0.5",
    }


@pytest.mark.parametrize("given_", [{}, dict(fast_dev_run=3), dict(overfit_batches=2)])
def test_every_line_fits_the_page_and_nothing_is_cut_off(
    given_: dict[str, Any], tmp_path: Any
) -> None:
    made = leyden.Trainer(default_root_dir=tmp_path, **given_)
    plan = made.plan()
    text = str(plan)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "~" not in text
    squeezed = "".join(text.split())
    for line in plan.lines:
        assert line.handler.split(".")[0] in text
        assert line.origin.removesuffix(" (default)").split("=")[0] in squeezed


def test_long_names_wrap_at_their_joints() -> None:
    name = (
        "AVeryLongHandlerNameIndeed.with_a_method_that_is_longer_than_a_line_has_room_for_in_all_"
        * 2
    )
    line = Line("train", "STARTED", 5.0, name, "x" * 60, 12345, "origin=" + "q" * 70)
    text = str(Plan([line]))
    assert max(map(len, text.splitlines())) <= WIDTH
    squeezed = "".join(text.split())
    for part in ("AVeryLongHandlerNameIndeed.", "with_a_method", "origin=", "12345"):
        assert part in squeezed
    assert text.count("x") == 60
    assert text.count("q") == 70


@pytest.mark.parametrize(
    ("given_", "batches", "words"),
    [
        (dict(), 6, "at the end of each training epoch, after batch 6; 2 times in this run"),
        (dict(val_check_interval=0.5), 6, "after batches 3, 6: 2 times an epoch; 4 times in this"),
        (dict(val_check_interval=1), 6, "after batches 1, 2, 3, ... 6: 6 times an epoch; 12 times"),
        (dict(val_check_interval=4), 6, "after batches 4: 1 times an epoch; 2 times in this run"),
    ],
)
def test_when_validation_runs_is_said_in_words(
    given_: dict[str, Any], batches: int, words: str
) -> None:
    made = trainer(max_epochs=2, **given_)
    made.fit(Tiny(), data(batches), data(2))
    note = made.plan().notes[0]
    assert note.startswith(f"val_check_interval={made.val_check_interval!r}: validation runs ")
    assert words in note


def test_a_run_without_validation_says_so() -> None:
    made = trainer(max_epochs=1)
    made.fit(Bare(), data())
    assert made.plan().notes == [
        "no validation: there is no validation_step, or there are no batches for it"
    ]
    assert {line.engine for line in made.plan().lines} == {"train"}


def test_what_changed_other_arguments_is_noted() -> None:
    notes = trainer(overfit_batches=2).plan().notes
    assert "changed: limit_val_batches: 1.0 -> 2 (overfit_batches=2)" in notes


class Two(Bare):
    """Two optimizers, in turn where frequencies are given."""

    def __init__(self, frequencies: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.frequencies = frequencies

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        both = [torch.optim.SGD(self.parameters(), 0.1), torch.optim.Adam(self.parameters())]
        if self.frequencies is None:
            return both
        return [
            {"optimizer": one, "frequency": many}
            for one, many in zip(both, self.frequencies, strict=True)
        ]


class ByHand(Bare):
    """Optimizes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.optimizers().step()
        return loss


@pytest.mark.parametrize(
    ("module", "steps"),
    [
        (
            Two,
            [
                ("Two.training_step, backward", "", 12),
                ("SGD.step, zero_grad", "", 6),
                ("Adam.step, zero_grad", "", 6),
            ],
        ),
        (
            lambda: Two((1, 2)),
            [
                ("Two.training_step, backward", "", 6),
                ("SGD.step, zero_grad", "1 of 3 batches", None),
                ("Adam.step, zero_grad", "2 of 3 batches", None),
            ],
        ),
        (ByHand, [("ByHand.training_step, by hand", "", 6)]),
    ],
)
def test_the_step_is_a_part_of_the_plan(module: Any, steps: list[Any]) -> None:
    made = trainer(max_epochs=1)
    made.fit(module(), data())
    lines = made.plan().lines
    assert [(x.handler, x.filter, x.times) for x in lines if x.event == "the step"] == steps


COUNTED = (
    Events.EPOCH_STARTED,
    Events.ITERATION_COMPLETED,
    TrainerEvents.GRADIENTS_READY,
    TrainerEvents.OPTIMIZER_STEP_COMPLETED,
    TrainerEvents.VALIDATION_STARTED,
    TrainerEvents.SANITY_CHECK_STARTED,
)


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    max_epochs=st.integers(0, 4),
    batches=st.integers(1, 5),
    max_steps=st.none() | st.integers(1, 9),
    accumulate=st.integers(1, 4) | st.just({1: 2}) | st.just({0: 3, 2: 1}),
    interval=st.sampled_from([1.0, 0.5, 1]),
    every_epoch=st.integers(1, 3),
    sanity=st.sampled_from([0, 1, -1]),
)
@pytest.mark.filterwarnings("ignore:accumulate_grad_batches=")
@pytest.mark.slow
def test_a_counted_run_equals_its_plan(
    max_epochs: int,
    batches: int,
    max_steps: int | None,
    accumulate: Any,
    interval: Any,
    every_epoch: int,
    sanity: int,
) -> None:
    made = leyden.Trainer(
        **{**QUIET, "num_sanity_val_steps": sanity},
        max_epochs=max_epochs,
        min_epochs=0,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        val_check_interval=interval,
        check_val_every_n_epoch=every_epoch,
    )
    seen: Counter[str] = Counter()
    for event in COUNTED:
        made.engine.add_event_handler(event, lambda _, name=event.name: seen.update([name]))
    checked: Counter[str] = Counter()
    validation = made.evaluators["validate"]
    for event in (Events.STARTED, Events.ITERATION_COMPLETED):
        validation.add_event_handler(event, lambda _, name=event.name: checked.update([name]))
    made.fit(Tiny(), data(batches), data(2))
    planned = {"train": seen, "validate": checked}
    for line in made.plan().lines:
        if line.origin == "attached by hand":
            assert planned[line.engine][line.event] == (line.times or 0), (line, seen, checked)


@pytest.mark.parametrize(
    "filter_",
    [dict(every=3), dict(once=4), dict(before=5), dict(after=2), dict(every=2, after=3, before=11)],
)
@pytest.mark.parametrize("total", [0, 1, 4, 12])
def test_filters_are_counted(filter_: dict[str, int], total: int) -> None:
    found = read_filter(Events.ITERATION_COMPLETED(**filter_).filter)
    assert not found.opaque
    assert passes(found, total) == sum(bool(found.test(None, i)) for i in range(1, total + 1))


def test_a_filter_of_the_users_own_is_not_counted() -> None:
    opaque = read_filter(Events.ITERATION_COMPLETED(event_filter=lambda e, i: i == 2).filter)
    assert passes(opaque, 10) is None
