"""The listing at the top of events.py is what a run really does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.engine import Engine, Events, TrainerEvents, events
from leyden.engine.step import register_training_events
from leyden.handlers import Handler
from tests.trainer.tiny import Tiny, data, trainer

EPOCHS, BATCHES, FACTOR, CHECK = 2, 5, 2, 3
STEP = ("GRADIENTS_READY", "OPTIMIZER_STEP_", "ZERO_GRAD")


@dataclass
class Node:
    """An event of the listing, or a loop over what stands below it."""

    indent: int
    name: str = ""
    loop: str = ""
    children: list[Node] = field(default_factory=list)


def listing() -> Node:
    """Read the listing; deeper lines belong to the loop or the event above them."""
    root = Node(-1)
    above = [root]
    for line in (events.__doc__ or "").splitlines():
        indent = len(line) - len(line.lstrip())
        loop = re.match(r"\s*for each (\w+):", line)
        event = re.match(r"\s*(?:Trainer)?Events\.(\w+)", line)
        if not loop and not event:
            continue
        node = Node(indent, event[1] if event else "", loop[1] if loop else "")
        while above[-1].indent >= indent:
            above.pop()
        above[-1].children.append(node)
        above.append(node)
    return root


def expand(node: Node, fires: Callable[[str, int, int], bool], epoch: int, batch: int) -> Any:
    """Yield the events of the listing one by one, the loops unrolled."""
    if node.loop == "epoch":
        for epoch in range(1, EPOCHS + 1):
            yield from children(node, fires, epoch, 0)
    elif node.loop == "batch":
        for batch in range(1, BATCHES + 1):
            yield from children(node, fires, epoch, batch)
        yield "GET_BATCH_STARTED"  # the data is asked once more, and has ended
    else:
        if node.name and fires(node.name, epoch, batch):
            yield node.name
        yield from children(node, fires, epoch, batch)


def children(
    node: Node, fires: Callable[[str, int, int], bool], epoch: int, batch: int
) -> Iterator[str]:
    for child in node.children:
        yield from expand(child, fires, epoch, batch)


class Recorder(Handler):
    """Notes each event as the first of its listeners."""

    order = -1.0
    order_reason = "what other handlers fire comes after the event that they listen on"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def attach(self, engine: Engine) -> None:
        for event in (*Events, *TrainerEvents):
            if event is Events.EXCEPTION_RAISED:
                note: Any = lambda engine, error, name=event.name: self.seen.append(name)  # noqa: E731
            else:
                note = lambda engine, name=event.name: self.seen.append(name)  # noqa: E731
            if event is Events.TERMINATE_SINGLE_EPOCH:
                engine.add_event_handler(event, lambda engine, iter_counter: None)
            else:
                engine.listen(event, note, order=self.order)


def recorded(root: Path, **arguments: Any) -> tuple[Any, list[str]]:
    recorder = Recorder()
    made = trainer(
        root,
        max_epochs=EPOCHS,
        accumulate_grad_batches=FACTOR,
        num_sanity_val_steps=1,
        val_check_interval=CHECK,
        **arguments,
    )
    made.handlers.add(recorder)
    return made, recorder.seen


def test_a_run_fires_what_the_listing_says_in_that_order(tmp_path: Path) -> None:
    made, seen = recorded(tmp_path)
    save_at = Events.ITERATION_COMPLETED(once=BATCHES + CHECK)
    made.engine.listen(
        save_at, lambda engine: made.save_checkpoint(tmp_path / "saved.ckpt"), order=60
    )

    def fires(name: str, epoch: int, batch: int) -> bool:
        if name.startswith(STEP):
            return batch % FACTOR == 0 or batch == BATCHES
        if name.startswith("VALIDATION_"):
            return batch == CHECK
        if name == "CHECKPOINT_SAVED":
            return (epoch, batch) == (2, CHECK)
        return name != "CHECKPOINT_LOADED"

    made.fit(Tiny(), data(BATCHES), data(2))
    assert seen == list(expand(listing(), fires, 0, 0))


def test_validation_at_the_end_of_an_epoch_comes_where_the_listing_has_it(tmp_path: Path) -> None:
    made, seen = recorded(tmp_path)
    made.val_check_interval = 1.0

    def fires(name: str, epoch: int, batch: int) -> bool:
        if name.startswith(STEP):
            return batch % FACTOR == 0 or batch == BATCHES
        if name.startswith("VALIDATION_"):
            return batch == 0
        return not name.startswith("CHECKPOINT_")

    made.fit(Tiny(), data(BATCHES), data(2))
    assert seen == list(expand(listing(), fires, 0, 0))


def test_a_resumed_run_says_when_the_checkpoint_is_loaded(tmp_path: Path) -> None:
    made, _ = recorded(tmp_path)
    made.fit(Tiny(), data(BATCHES), data(2))
    made.save_checkpoint(tmp_path / "end.ckpt")
    again, seen = recorded(tmp_path, resume_from_checkpoint=str(tmp_path / "end.ckpt"))
    again.max_epochs = EPOCHS + 1
    again.fit(Tiny(), data(BATCHES), data(2))
    order = [node.name for node in listing().children if node.name]
    assert seen[: order.index("STARTED")] == order[: order.index("STARTED")]


def test_every_event_is_in_the_listing_and_the_listing_has_no_other() -> None:
    text = events.__doc__ or ""
    for event in TrainerEvents:
        assert f"TrainerEvents.{event.name}" in text, f"{event.name} is not in the listing"
    for name in re.findall(r"TrainerEvents\.(\w+)", text):
        assert name in TrainerEvents.__members__
    for name in re.findall(r"(?<!Trainer)Events\.(\w+)", text):
        assert name in Events.__members__
    assert len({event.value for event in TrainerEvents}) == len(TrainerEvents)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (lambda engine: None, ["EPOCH_COMPLETED", "EPOCH_COMPLETED", "COMPLETED"]),
        (lambda engine: engine.terminate(), ["TERMINATE", "COMPLETED"]),
        (lambda engine: engine.terminate(skip_completed=True), ["TERMINATE"]),
        (
            lambda engine: engine.terminate_epoch(),
            ["EPOCH_COMPLETED", "EPOCH_COMPLETED", "COMPLETED"],
        ),
        (
            lambda engine: engine.terminate_epoch(skip_epoch_completed=True),
            ["EPOCH_COMPLETED", "COMPLETED"],
        ),
        (lambda engine: engine.interrupt(), ["INTERRUPT"]),
        (lambda engine: 1 / 0, ["EXCEPTION_RAISED"]),
    ],
)
def test_what_follows_a_stop_in_the_middle_of_the_first_epoch(
    stop: Any, expected: list[str]
) -> None:
    engine = Engine(lambda engine, batch: None, reraise=True)
    register_training_events(engine)
    seen: list[str] = []
    ends = ("EPOCH_COMPLETED", "COMPLETED", "INTERRUPT", "TERMINATE")
    for name in ends:
        engine.listen(Events[name], lambda engine, name=name: seen.append(name))
    engine.listen(
        Events.EXCEPTION_RAISED, lambda engine, error: seen.append(Events.EXCEPTION_RAISED.name)
    )
    engine.listen(Events.ITERATION_COMPLETED(once=2), stop)
    if expected == ["EXCEPTION_RAISED"]:
        with pytest.raises(ZeroDivisionError):
            engine.run([1, 2, 3], max_epochs=2)
    else:
        engine.run([1, 2, 3], max_epochs=2)
    assert seen == expected


def test_events_of_the_optimizer_are_counted_by_its_steps() -> None:
    engine = Engine(lambda engine, batch: None)
    register_training_events(engine)
    register_training_events(engine)  # a second time changes nothing
    seen: list[int] = []
    stepped: Any = TrainerEvents.OPTIMIZER_STEP_COMPLETED(every=2)
    state: Any = engine.state
    engine.listen(stepped, lambda engine: seen.append(state.optimizer_steps))
    for steps in range(1, 6):
        state.optimizer_steps = steps
        engine.fire_event(TrainerEvents.OPTIMIZER_STEP_COMPLETED)
    assert seen == [2, 4]
    with pytest.raises(ValueError, match="nothing counts FORWARD_COMPLETED"):
        engine.listen(TrainerEvents.FORWARD_COMPLETED(every=2), lambda engine: None)


def test_recording_changes_no_weight(tmp_path: Path) -> None:
    made, _ = recorded(tmp_path)
    plain = trainer(tmp_path, max_epochs=EPOCHS, accumulate_grad_batches=FACTOR)
    models = [Tiny(), Tiny()]
    for runner, model in zip((made, plain), models, strict=True):
        torch.manual_seed(0)
        runner.fit(model, data(BATCHES), data(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)
    )
