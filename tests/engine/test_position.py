"""Saving and loading the place of a run."""

from typing import Any

import pytest
import torch

from leyden.engine import Engine, Events, IllegalMove, Phase


def _engine(seen: list[Any], **kind: bool) -> Engine:
    def step(engine: Any, batch: Any) -> None:
        state = engine.state
        seen.append((state.epoch, engine.epoch_iteration, state.iteration))

    return Engine(step, **kind)


STEPS = [(epoch, batch, 3 * (epoch - 1) + batch) for epoch in (1, 2, 3) for batch in (1, 2, 3)]


class Data:
    """Three batches an epoch; it knows from the engine where to begin, as a feed does."""

    engine: Engine

    def __iter__(self) -> Any:
        return iter(range(self.engine.epoch_iteration, 3))


@pytest.mark.parametrize("event", [Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED])
def test_a_new_engine_goes_on_at_any_place(event: Any) -> None:
    data = Data()
    saved: list[Any] = []
    data.engine = engine = _engine([], data_ends_epoch=True)
    engine.listen(event, lambda engine: saved.append((dict(engine.state_dict()), engine.state)))
    places: list[int] = []
    engine.listen(event, lambda engine: places.append(engine.state.iteration))
    engine.run(data, max_epochs=3)
    assert len(saved) == (9 if event is Events.ITERATION_COMPLETED else 3)
    for (state, _), place in zip(saved, places, strict=True):
        assert all(type(value) is int or value is None for value in state.values()), state
        seen: list[Any] = []
        data.engine = other = _engine(seen, data_ends_epoch=True)
        other.load_state_dict(state)
        assert dict(other.state_dict()) == state
        other.run(data, max_epochs=3)
        assert seen == STEPS[place:]
        assert (other.state.epoch, other.state.iteration) == (3, 9)


@pytest.mark.parametrize("how", ["terminate", "raise"])
def test_the_rest_of_a_stopped_epoch_is_run_only_if_asked_for(how: str) -> None:
    seen: list[Any] = []
    data = Data()
    data.engine = engine = _engine(seen, data_ends_epoch=True)

    @engine.on(Events.ITERATION_COMPLETED(once=4))
    def stop() -> None:
        if how == "raise":
            raise OSError("gone")
        engine.terminate()

    def first() -> None:
        seen.clear()
        engine.state.max_epochs = None
        if how == "raise":
            with pytest.raises(OSError, match="gone"):
                engine.run(data, max_epochs=3)
        else:
            engine.run(data, max_epochs=3)
        assert seen == STEPS[:4]

    first()
    engine.run(data)
    assert seen[4:] == [(3, 1, 5), (3, 2, 6), (3, 3, 7)]
    first()
    engine.load_state_dict(engine.state_dict())
    assert engine.phase is Phase.IDLE
    engine.run(data)
    assert seen == STEPS


def test_a_run_that_was_over_has_nothing_left_to_do() -> None:
    seen: list[Any] = []
    engine = _engine(seen, data_ends_epoch=True)
    place = {"epoch": 3, "batch": 0, "iteration": 9, "max_epochs": 3, "epoch_length": None}
    engine.load_state_dict(place)
    engine.listen(Events.EPOCH_STARTED, lambda engine: pytest.fail("an epoch was begun"))
    assert engine.run([0, 1, 2], max_epochs=3).iteration == 9
    assert engine.phase is Phase.COMPLETED
    place = {"iteration": 9, "max_epochs": 3, "epoch_length": 3}
    engine = _engine(seen)
    engine.load_state_dict(place)
    engine.run([0, 1, 2], max_epochs=3)
    assert seen == STEPS  # ignite's way


def test_ignites_state_dict_goes_on_as_with_ignite() -> None:
    seen: list[Any] = []
    engine = _engine(seen)
    engine.load_state_dict({"iteration": 4, "max_epochs": 3, "epoch_length": 3})
    engine.run([0, 1, 2])
    assert seen == STEPS[4:]
    assert set(engine.state_dict()) == {"iteration", "max_epochs", "epoch_length"}


def test_users_keys_are_saved_with_the_place() -> None:
    engine: Any = Engine(lambda engine, batch: None, data_ends_epoch=True)
    engine.state_dict_user_keys.append("alpha")
    engine.state.alpha = 0.5
    other: Any = Engine(lambda engine, batch: None, data_ends_epoch=True)
    other.state_dict_user_keys.append("alpha")
    other.load_state_dict(engine.state_dict())
    assert other.state.alpha == 0.5


@pytest.mark.parametrize("event", [Events.STARTED, Events.EPOCH_COMPLETED(once=1)])
def test_a_place_may_be_loaded_between_epochs(event: Any) -> None:
    seen: list[Any] = []
    data = Data()
    data.engine = engine = _engine(seen, data_ends_epoch=True)
    state = {"epoch": 2, "batch": 1, "iteration": 7, "max_epochs": 3, "epoch_length": None}

    @engine.on(event)
    def restore() -> None:
        engine.load_state_dict(state)

    engine.run(data, max_epochs=3)
    assert seen == (STEPS[7:] if event == Events.STARTED else [*STEPS[:3], *STEPS[7:]])


@pytest.mark.parametrize("event", [Events.EPOCH_STARTED, Events.ITERATION_COMPLETED])
def test_inside_an_epoch_loading_is_refused_and_changes_nothing(event: Any) -> None:
    engine = Engine(lambda engine, batch: None)

    @engine.on(event(once=1))
    def restore() -> None:
        before = dict(vars(engine.state))
        with pytest.raises(IllegalMove, match="RESTORE is not possible in phase .* Load before"):
            engine.load_state_dict({"iteration": 0, "max_epochs": 9, "epoch_length": 3})
        assert dict(vars(engine.state)) == before

    engine.run([0, 1, 2], max_epochs=2)
    assert engine.state.epoch == 2


def test_a_state_that_does_not_fit_leaves_the_phase_alone() -> None:
    engine: Any = Engine(lambda engine, batch: None)
    engine.on(Events.ITERATION_COMPLETED(once=1))(engine.interrupt)
    engine.run([0, 1, 2])
    with pytest.raises(ValueError, match="Required state attribute 'epoch_length' is absent"):
        engine.load_state_dict({"iteration": 0, "max_epochs": 9})
    assert engine.phase is Phase.INTERRUPTED
    engine.load_state_dict({"iteration": 0, "max_epochs": 9, "epoch_length": 3})
    assert engine.phase is Phase.IDLE


def test_what_an_interrupt_handler_loads_is_where_the_run_goes_on() -> None:
    seen: list[Any] = []
    engine = _engine(seen)
    engine.on(Events.ITERATION_COMPLETED(once=5))(engine.interrupt)
    state = {"iteration": 7, "max_epochs": 3, "epoch_length": 3}
    engine.on(Events.INTERRUPT)(lambda: engine.load_state_dict(state))
    engine.run([0, 1, 2], max_epochs=3)
    assert engine.phase is Phase.IDLE
    engine.run([0, 1, 2])
    assert seen == STEPS[:5] + STEPS[7:]


def test_the_place_survives_a_safe_save(tmp_path: Any) -> None:
    engine = Engine(lambda engine, batch: None, data_ends_epoch=True)
    engine.run([0, 1], max_epochs=2)
    torch.save(engine.state_dict(), tmp_path / "place.pt")
    assert torch.load(tmp_path / "place.pt", weights_only=True) == engine.state_dict()
