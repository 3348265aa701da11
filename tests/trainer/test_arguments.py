"""Command lines and environment variables."""

import argparse
import inspect
import pickle
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, Literal

import numpy
import pytest

from leyden.arguments import (
    add_argparse_args,
    argument_descriptions,
    default_attributes,
    from_argparse_args,
    get_deprecated_arg_names,
    get_init_arguments_and_types,
    match_env_arguments,
    parse_argparser,
    parse_text,
)
from leyden.config import CHECKS, TrainerConfig, signature_parameters
from leyden.exceptions import MisconfigurationException

parse = TrainerConfig.parse


class Trainer:
    """A facade: the signature of the Trainer, and nothing but its configuration."""

    def __init__(self, logger: Any = True, **kwargs: Any) -> None:
        self.config = TrainerConfig.parse(logger=logger, **kwargs)


_self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
Trainer.__init__.__signature__ = inspect.Signature([_self, *signature_parameters()])  # type: ignore[attr-defined]


class Data:
    """Data for a test.

    Args:
        root: folder of the data, 100% local,
            made when missing.
        batch_size (int): rows of a batch
    """

    DEPRECATED_NAMES = ("bs",)

    def __init__(  # type: ignore[no-untyped-def]
        self,
        root: Path,
        batch_size: int = 32,
        shuffle: bool = True,
        mode: Literal["fast", "slow"] = "fast",
        drop: "Undefined" = None,  # type: ignore[name-defined]  # noqa: F821
        untyped=0.5,
        bs: int = 1,
        sizes: tuple[int, ...] = (1,),
    ) -> None:
        self.values = (root, batch_size, shuffle, mode, drop, untyped, bs, sizes)


class Child(Data):
    """More data."""

    def __init__(self, classes: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes


WEIGHTS = numpy.ones(2)


def parser_of(cls: type = Trainer) -> ArgumentParser:
    texts = argument_descriptions(TrainerConfig) if cls is Trainer else None
    return add_argparse_args(cls, ArgumentParser(prog="train"), texts)


def test_values_from_the_command_line_have_their_types() -> None:
    parser = parser_of()
    parser.add_argument("--mine", default=3)
    line = (
        "--max_epochs 3 --limit_train_batches 0.5 --val_check_interval 2 --gradient_clip_val 0.25 "
        "--logger False --checkpoint_callback false --progress_bar_refresh_rate 0 "
        "--max_time 00:01:00:00"
    )
    args = parser.parse_args(line.split())
    config = from_argparse_args(Trainer, args, min_epochs=2).config
    found = (config.max_epochs, config.limit_train_batches, config.val_check_interval)
    assert found == (3, 0.5, 2) and isinstance(config.val_check_interval, int)
    assert config.gradient_clip_val == 0.25 and config.min_epochs == 2
    assert config.logger is False and config.checkpoint_callback is False
    assert args.mine == 3
    assert set(config.given) == {word[2:] for word in line.split()[::2]} | {"min_epochs"}


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("", "fast_dev_run", False),
        ("--fast_dev_run", "fast_dev_run", True),
        ("--fast_dev_run 3", "fast_dev_run", 3),
        ("--fast_dev_run true", "fast_dev_run", True),
        ("--benchmark", "benchmark", True),
        ("--benchmark off", "benchmark", False),
        ("--auto_lr_find=True", "auto_lr_find", True),
        ("--auto_lr_find=hidden.rate", "auto_lr_find", "hidden.rate"),
        ("--gpus 2", "gpus", 2),
        ("--gpus 0,1", "gpus", "0,1"),
        ("--tpu_cores 1,", "tpu_cores", "1,"),
        ("--limit_train_batches 100", "limit_train_batches", 100),
        ("--limit_train_batches 1.0", "limit_train_batches", 1.0),
        ("--overfit_batches 1e-1", "overfit_batches", 0.1),
        ("--track_grad_norm inf", "track_grad_norm", float("inf")),
        ("--weights_save_path ./", "weights_save_path", "./"),
        ("--weights_summary None", "weights_summary", None),
        ("--max_steps none", "max_steps", None),
        ("--profiler simple", "profiler", "simple"),
        ("--devices 2", "devices", 2),
        ("--strategy auto", "strategy", "auto"),
        ("--enable_checkpointing no", "enable_checkpointing", False),
    ],
)
def test_reading_a_command_line(line: str, name: str, expected: Any) -> None:
    found = getattr(parser_of().parse_args(line.split()), name)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max_epochs x", "argument --max_epochs: invalid int value: 'x'"),
        ("--limit_val_batches x", "invalid int or float value: 'x'"),
        ("--benchmark maybe", "invalid bool value: 'maybe'"),
    ],
)
def test_bad_command_lines_say_what_is_allowed(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser_of().parse_args(line.split())
    assert message in capsys.readouterr().err


def test_help_has_types_defaults_and_descriptions() -> None:
    text = " ".join(parser_of().format_help().split())
    assert "--max_epochs MAX_EPOCHS Epochs after which training ends. (int, default: 1000)" in text
    assert "(int or float, default: 1.0)" in text and "(int or dict, default: 1)" in text
    assert "(str, default: 'top')" in text
    assert "--callbacks" not in text
    described = argument_descriptions(TrainerConfig)
    assert set(CHECKS) <= set(described) and all(described[name] for name in CHECKS)


def test_parent_parser_stays_and_args_pickle() -> None:
    parent = ArgumentParser()
    parser = add_argparse_args(Trainer, parent)
    assert vars(parent.parse_args([])) == {}
    args = parser.parse_args([])
    assert pickle.loads(pickle.dumps(args)) == args
    assert from_argparse_args(Trainer, args).config == parse()
    with pytest.raises(argparse.ArgumentError):
        add_argparse_args(Trainer, parser)


def test_from_argparse_args_takes_what_is_the_class_s_own() -> None:
    args = Namespace(logger=False, mine=0)
    config = from_argparse_args(Trainer, args, logger=True, checkpoint_callback=False).config
    assert config.given == {"logger": True, "checkpoint_callback": False}
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'mine'"):
        from_argparse_args(Trainer, Namespace(), mine=0)


@pytest.mark.parametrize("size", [1, 8])
def test_defaults_that_do_not_compare_are_kept(size: int) -> None:
    class Weighted:
        """Weights as an array."""

        def __init__(self, weights: Any = WEIGHTS) -> None:
            self.weights = weights

    given = numpy.ones(size)
    assert from_argparse_args(Weighted, Namespace(weights=given)).weights is given


def test_parse_argparser_reads_a_bare_flag_as_true() -> None:
    args = parse_argparser(Trainer, Namespace(benchmark=None, max_steps=None, mine=None))
    assert args == Namespace(benchmark=True, max_steps=None, mine=None)


def test_from_a_parser_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--max_epochs", "2"])
    assert from_argparse_args(Trainer, parser_of()).config.max_epochs == 2


def test_any_class_has_arguments() -> None:
    empty = inspect.Parameter.empty
    assert get_init_arguments_and_types(Data) == [
        ("root", (Path,), empty),
        ("batch_size", (int,), 32),
        ("shuffle", (bool,), True),
        ("mode", (str,), "fast"),
        ("drop", (), None),
        ("untyped", (float,), 0.5),
        ("bs", (int,), 1),
        ("sizes", (tuple,), (1,)),
    ]
    assert get_deprecated_arg_names(Data) == ["bs"]
    assert default_attributes(Data)["batch_size"] == 32
    assert "root" not in default_attributes(Data)
    assert [name for name, _, _ in get_init_arguments_and_types(Child)][:3] == [
        "classes",
        "root",
        "batch_size",
    ]
    assert argument_descriptions(Child) == {
        "root": "folder of the data, 100% local, made when missing.",
        "batch_size": "rows of a batch",
    }


def test_any_class_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(Child)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "required: --root" in capsys.readouterr().err
    assert "100% local" in parser.format_help()
    args = parser.parse_args("--root data --classes 3 --shuffle no --untyped 0.25".split())
    child = from_argparse_args(Child, args)
    assert child.values == (Path("data"), 32, False, "fast", None, 0.25, 1, (1,))
    assert child.classes == 3
    assert not hasattr(args, "bs") and not hasattr(args, "sizes")


@pytest.mark.parametrize(
    ("kinds", "text", "expected"),
    [
        ((int, dict), "{0: 1, 4: 2}", {0: 1, 4: 2}),
        ((list, str), "[0, 1]", [0, 1]),
        ((list, str), "[0, 1", "[0, 1"),
        ((bool, int), "1", 1),
        ((bool,), "1", True),
        ((bool, str), "YES", True),
        ((int, type(None)), "null", None),
        ((str,), "None", "None"),
        ((Path,), "a/b", Path("a/b")),
        ((int, float), "-2", -2),
    ],
)
def test_text_to_values(kinds: tuple[type, ...], text: str, expected: Any) -> None:
    found = parse_text(kinds, text)
    assert (type(found), found) == (type(expected), expected)


def test_text_that_is_nothing() -> None:
    with pytest.raises(ValueError, match="'x' is not int or float"):
        parse_text((int, float, type(None)), "x")


def test_pl_variables_win_and_leyden_variables_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "4")
    monkeypatch.setenv("PL_TRAINER_NOT_THERE", "1")
    monkeypatch.setenv("PL_TRAINER_MIN_EPOCHS", "")
    monkeypatch.setenv("LEYDEN_TRAINER_LIMIT_VAL_BATCHES", "0.5")
    monkeypatch.setenv("LEYDEN_TRAINER_LIMIT_TEST_BATCHES", "3")
    monkeypatch.setenv("LEYDEN_TRAINER_ENABLE_CHECKPOINTING", "no")
    config = parse(max_epochs=2, limit_test_batches=2)
    assert config.max_epochs == 4 and config.limit_val_batches == 0.5
    assert config.limit_test_batches == 2 and config.checkpoint_callback is False
    assert config.origin == {
        "max_epochs": "PL_TRAINER_MAX_EPOCHS",
        "limit_val_batches": "LEYDEN_TRAINER_LIMIT_VAL_BATCHES",
        "limit_test_batches": "limit_test_batches",
        "checkpoint_callback": "LEYDEN_TRAINER_ENABLE_CHECKPOINTING",
    }
    assert match_env_arguments(Trainer) == Namespace(
        max_epochs=4, limit_val_batches=0.5, limit_test_batches=3, enable_checkpointing=False
    )


def test_variables_fill_what_a_command_line_left_at_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEYDEN_TRAINER_MAX_EPOCHS", "4")
    args = parser_of().parse_args(["--min_epochs", "2"])
    config = from_argparse_args(Trainer, args).config
    assert (config.min_epochs, config.max_epochs) == (2, 4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LEYDEN_TRAINER_DEVICES": "--1"}, "LEYDEN_TRAINER_DEVICES='--1' is not a whole number"),
        ({"PL_TRAINER_MAX_EPOCHS": "x"}, "PL_TRAINER_MAX_EPOCHS='x' is not a whole number"),
        ({"LEYDEN_TRAINER_MAX_EPOCH": "3"}, "LEYDEN_TRAINER_MAX_EPOCH: .*did you mean max_epochs"),
        (
            {"LEYDEN_TRAINER_MAX_EPOCHS": "3", "PL_TRAINER_MAX_EPOCHS": "4"},
            "LEYDEN_TRAINER_MAX_EPOCHS=3 and PL_TRAINER_MAX_EPOCHS=4 are both",
        ),
        ({"LEYDEN_TRAINER_GPUS": "0,1"}, r"gpus=\[0, 1\] \(from LEYDEN_TRAINER_GPUS\)"),
    ],
)
def test_bad_variables(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MisconfigurationException, match=message):
        parse()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ACCUMULATE_GRAD_BATCHES", "{0: 2, 4: 8}", {0: 2, 4: 8}),
        ("FAST_DEV_RUN", "true", True),
        ("TERMINATE_ON_NAN", "1", True),
        ("MAX_STEPS", "None", None),
        ("LOGGER", "False", False),
    ],
)
def test_variables_have_the_argument_s_type(
    name: str, text: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LEYDEN_TRAINER_{name}", text)
    assert getattr(parse(), name.lower()) == expected
