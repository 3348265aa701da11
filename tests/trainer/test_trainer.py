"""The facade: its signature, what was given, command lines, properties, bad input."""

import argparse
import ast
import inspect
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden import trainer as module_of_trainer
from leyden.callbacks import ModelCheckpoint
from leyden.config import CHECKS, TrainerConfig, defaults, signature_parameters
from leyden.config_names import ALIASES
from leyden.exceptions import MisconfigurationException
from leyden.hardware import HardwareProperties
from tests.trainer.tiny import QUIET, Bare, Tiny, data, trainer

# --- the signature


def written_signature() -> list[inspect.Parameter]:
    """The parameters that editors and type checkers see, read from the source."""
    source = inspect.getsource(module_of_trainer)
    init = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__" and node.args.kwonlyargs
    )
    found = []
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        assert argument.annotation is not None
        assert default is not None
        found.append(
            inspect.Parameter(
                argument.arg,
                inspect.Parameter.KEYWORD_ONLY,
                default=ast.literal_eval(default),
                annotation=eval(ast.unparse(argument.annotation), vars(module_of_trainer)),
            )
        )
    return found


def test_tools_see_the_signature_of_the_configuration() -> None:
    shown = list(inspect.signature(leyden.Trainer).parameters.values())
    assert shown == signature_parameters()
    assert [p.name for p in shown] == [*CHECKS, *ALIASES]
    assert inspect.getfullargspec(leyden.Trainer).kwonlyargs == [*CHECKS, *ALIASES]


def test_editors_see_the_same_signature() -> None:
    written, shown = written_signature(), signature_parameters()
    assert [p.name for p in written] == [p.name for p in shown]
    assert [(p.name, p.default) for p in written] == [(p.name, p.default) for p in shown]
    for ours, theirs in zip(written, shown, strict=True):
        if ours.name != "devices":  # a bare list there: what an environment variable may hold
            assert str(ours.annotation) == str(theirs.annotation) or (
                ours.annotation == theirs.annotation
            ), ours.name


def test_every_argument_reads_back_as_it_is_in_force() -> None:
    made = leyden.Trainer(default_root_dir="/somewhere", logger=False)
    differently = {
        "logger": None,
        "callbacks": made.callbacks,
        "checkpoint_callback": made.checkpoint_callback,
        "default_root_dir": "/somewhere",
        "weights_save_path": "/somewhere",
        "profiler": made.profiler,
        "track_grad_norm": -1.0,
        "amp_backend": None,  # none is in force with 32 bits
    }
    for name, default in defaults().items():
        assert getattr(made, name) == differently.get(name, default), name


@pytest.mark.parametrize("name", sorted(n for n in vars(HardwareProperties) if n[0] != "_"))
def test_facts_of_the_machine_can_be_read(name: str) -> None:
    made = leyden.Trainer(**QUIET)
    value = getattr(made, name)
    expected: dict[str, Any] = {
        "is_global_zero": True,
        "world_size": 1,
        "num_processes": 1,
        "on_cpu": True,
        "root_device": torch.device("cpu"),
        "distributed_sampler_kwargs": {"num_replicas": 1, "rank": 0},
        "data_parallel_device_ids": None,
        "root_gpu": None,
        "tpu_id": None,
        "amp_backend": None,
        "scaler": None,
        "precision_plugin": made._run.precision,
        "strategy": made._run.strategy,
        "slurm_job_id": None,
    }
    assert value == expected.get(name, 0)


# --- what was given


def test_an_argument_written_with_its_default_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_TRAINER_MAX_EPOCHS", "4")
    monkeypatch.setenv("LEYDEN_TRAINER_MIN_EPOCHS", "2")
    made = leyden.Trainer(**QUIET, max_epochs=1000)
    assert (made.max_epochs, made.min_epochs) == (1000, 2)
    monkeypatch.delenv("LEYDEN_TRAINER_MAX_EPOCHS")
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "6")
    assert leyden.Trainer(**QUIET, max_epochs=1000).max_epochs == 6


def test_the_plan_tells_defaults_from_what_was_given() -> None:
    default = leyden.Trainer(logger=False).plan().to_dict()["lines"]
    given = leyden.Trainer(logger=False, checkpoint_callback=True).plan().to_dict()["lines"]
    origins = [
        {line["origin"] for line in lines if line["handler"].startswith("ModelCheckpoint")}
        for lines in (default, given)
    ]
    assert origins == [{"checkpoint_callback=True (default)"}, {"checkpoint_callback=True"}]


def test_todays_names_mean_the_same() -> None:
    made = leyden.Trainer(
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    assert made.checkpoint_callback is None
    assert made.progress_bar_callback is None
    assert made.weights_summary is None
    assert (
        leyden.Trainer(**QUIET, reload_dataloaders_every_n_epochs=3)
        .handlers["LoaderReload"]
        .every_n_epochs
        == 3
    )


# --- command lines


def test_a_command_line_loses_no_argument() -> None:
    parser = leyden.Trainer.add_argparse_args(argparse.ArgumentParser())
    known = set(vars(parser.parse_args([])))
    assert set(CHECKS) | set(ALIASES) == known | {"callbacks"}  # objects cannot be typed
    assert "Epochs after which training ends. (int, default: 1000)" in " ".join(
        parser.format_help().split()
    )


def test_a_trainer_from_the_command_line() -> None:
    parser = leyden.Trainer.add_argparse_args(argparse.ArgumentParser())
    parser.add_argument("--mine", type=int, default=3)
    args = parser.parse_args(
        "--max_epochs 3 --limit_train_batches 0.5 --val_check_interval 2 --logger False "
        "--accumulate_grad_batches {0:2} --deterministic warn --mine 4".split()
    )
    made = leyden.Trainer.from_argparse_args(args, checkpoint_callback=False, max_epochs=5)
    assert (made.max_epochs, made.limit_train_batches, made.val_check_interval) == (5, 0.5, 2)
    assert made.accumulate_grad_batches == {0: 2}
    assert made.deterministic == "warn"
    assert (made.logger, made.checkpoint_callback) == (None, None)


def test_tools_for_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leyden.Trainer.default_attributes() == {
        **defaults(),
        **dict.fromkeys(ALIASES, None),
    }
    names = [name for name, _, _ in leyden.Trainer.get_init_arguments_and_types()]
    assert names == [*CHECKS, *ALIASES]
    types = {n: kinds for n, kinds, _ in leyden.Trainer.get_init_arguments_and_types()}
    assert types["max_epochs"] == (int,)
    assert types["limit_val_batches"] == (int, float)
    assert leyden.Trainer.get_deprecated_arg_names() == []
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "8")
    assert leyden.Trainer.match_env_arguments() == argparse.Namespace(max_steps=8)
    parsed = leyden.Trainer.parse_argparser(argparse.Namespace(benchmark=None, mine=1))
    assert parsed == argparse.Namespace(benchmark=True, mine=1)


def test_a_subclass_keeps_the_command_line() -> None:
    class Mine(leyden.Trainer):
        """A Trainer with an argument of its own.

        Args:
            tag: what to call it.
        """

        def __init__(self, *, tag: str = "x", **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.tag = tag

    parser = Mine.add_argparse_args(argparse.ArgumentParser())
    made = Mine.from_argparse_args(parser.parse_args(["--tag", "y", "--max_epochs", "2"]))
    assert isinstance(made, Mine)
    assert (made.tag, made.max_epochs) == ("y", 2)
    assert "what to call it." in parser.format_help()


# --- later names of the methods' arguments


def test_fit_takes_todays_names(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1)
    module = Bare()
    made.fit(module, train_dataloaders=data())
    made.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(tmp_path, max_epochs=2)
    again.fit(Bare(), train_dataloaders=data(), ckpt_path=tmp_path / "a.ckpt")
    assert (made.global_step, again.global_step) == (6, 12)


class WithTest(Tiny):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("tested", 1.0)


def test_evaluations_take_todays_names() -> None:
    made = trainer()
    assert made.test(WithTest(), dataloaders=data(), verbose=False) == [{"tested": 1.0}]
    found = made.validate(WithTest(), dataloaders=data(), verbose=False)
    assert list(found[0]) == ["val_score"]


@pytest.mark.parametrize("method", ["fit", "test", "validate"])
def test_unknown_arguments_of_methods_are_refused(method: str) -> None:
    run = getattr(trainer(), method)
    with pytest.raises(TypeError, match="unexpected keyword argument 'loaders'") as seen:
        run(WithTest(), loaders=data())
    assert isinstance(seen.value, MisconfigurationException)
    name = "train_dataloaders" if method == "fit" else "dataloaders"
    assert name in str(seen.value)
    with pytest.raises(TypeError, match="which are the same"):
        run(WithTest(), data(), **{name: data()})


# --- bad input


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(max_epoch=3), ["'max_epoch'", "did you mean max_epochs"]),
        (dict(something=3), ["'something'", "help(leyden.Trainer)"]),
        (dict(callbacks=[3]), ["callbacks=3", "no callback", "attach"]),
        (dict(callbacks=leyden.Callback), ["Callback", "is a class", "Callback(...)"]),
        (dict(logger="tensorboard"), ["logger='tensorboard'", "log_metrics", "True"]),
        (dict(logger=[3]), ["logger=3", "log_metrics"]),
        (
            dict(callbacks=[leyden.callbacks.ProgressBar(), leyden.callbacks.ProgressBar()]),
            ["2 progress bars", "pass one"],
        ),
        (dict(checkpoint_callback=3), ["checkpoint_callback=3", "ModelCheckpoint"]),
        (dict(profiler=3), ["profiler=3", "simple"]),
        (dict(deterministic="yes"), ["deterministic='yes'", "'warn'"]),
    ],
)
def test_bad_arguments_are_refused_with_a_cure(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MisconfigurationException) as seen:
        leyden.Trainer(**given)
    for word in words:
        assert word in str(seen.value)


def test_positional_arguments_are_refused_with_their_names() -> None:
    init: Any = leyden.Trainer
    with pytest.raises(MisconfigurationException, match=r"Trainer\(logger=\.\.\., checkpoint_cal"):
        init(True, False)
    with pytest.raises(MisconfigurationException, match=r"Trainer\(\*\*arguments\)"):
        init({"max_epochs": 3})


def test_the_configuration_is_plain_data() -> None:
    config = TrainerConfig.parse(max_epochs=3)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("name", ["callback_metrics", "logged_metrics", "progress_bar_metrics"])
def test_metric_dicts_can_be_assigned(name: str) -> None:
    made = leyden.Trainer(**QUIET)
    held = getattr(made, name)
    held["old"] = 1.0
    setattr(made, name, {"new": torch.tensor(2.0)})
    assert getattr(made, name) is held and dict(held) == {"new": 2.0}
    setattr(made, name, held)
    assert dict(held) == {"new": 2.0}


def test_a_name_that_the_bar_has_already_is_warned_of_once(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1)
    made.fit(Bare(), data())
    made.progress_bar_metrics = {"loss": 1.0, "own": 2.0}
    with pytest.warns(UserWarning, match="The progress bar already tracks .* 'loss', and self.log"):
        assert made.progress_bar_dict == {"loss": 1.0, "own": 2.0}
    assert made.progress_bar_dict["loss"] == 1.0


def test_what_is_saved_last_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for saver in (
            ModelCheckpoint(dirpath=tmp_path, save_last=True),
            ModelCheckpoint(dirpath=tmp_path),
        ):
            trainer(tmp_path, max_epochs=2, callbacks=[saver], checkpoint_callback=True).fit(
                Bare(), data()
            )
    assert caplog.messages.count("Saving latest checkpoint...") == 1


def test_a_loss_logged_by_hand_is_not_warned_of(tmp_path: Path) -> None:
    class ByHand(Bare):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.log("loss", 1.0, prog_bar=True)

    made = trainer(tmp_path, max_epochs=1)
    made.fit(ByHand(), data())
    assert made.progress_bar_dict["loss"] == 1.0
