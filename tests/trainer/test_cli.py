"""LeydenCLI: command lines to Trainer, module and data, with the real jsonargparse."""

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

import leyden
from leyden.cli import LeydenCLI, SaveConfigCallback, instantiate_class
from leyden.cli_objects import drawn_seed
from leyden.cli_parser import parser_class
from leyden.config import defaults
from leyden.engine.errors import MisconfigurationException
from leyden.handlers import EarlyStopping, GradientClipping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:ModelCheckpoint has no monitor"),
    pytest.mark.usefixtures("here"),
]
QUIET: dict[str, Any] = {
    "logger": False,
    "checkpoint_callback": False,
    "progress_bar_refresh_rate": 0,
    "weights_summary": None,
}


class Line(leyden.LightningModule):
    """A line.

    Args:
        lr: how far a step goes, 100% by default.
        out: how many lines.
        optim: what a linked option says.
    """

    def __init__(self, lr: float = 0.1, out: int = 1, optim: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, out)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).pow(2).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).pow(2).mean())

    test_step = validation_step

    def predict_step(self, batch: torch.Tensor, batch_idx: int, dataloader_idx: Any = None) -> Any:
        return self.layer(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class SubLine(Line):
    """Another line, to be chosen by name."""

    def __init__(self, extra: int, lr: float = 0.2) -> None:
        super().__init__(lr)
        self.extra = extra


class Ones(leyden.LightningDataModule):
    """Batches of ones.

    Args:
        batch_size: samples in a batch.
    """

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(16.0).reshape(16, 1) / 16, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 1), batch_size=self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cli(*args: str, cls: type[LeydenCLI] = LeydenCLI, **kwargs: Any) -> LeydenCLI:
    made = {"trainer_defaults": {**QUIET, **kwargs.pop("trainer_defaults", {})}}
    return cls(
        kwargs.pop("model", Line), kwargs.pop("data", Ones), args=list(args), **made, **kwargs
    )


def refused(capsys: pytest.CaptureFixture[str], *args: str, **kwargs: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli(*args, **kwargs)
    assert stopped.value.code == 2
    return capsys.readouterr().err.split("error: ")[-1]


def test_options_reach_trainer_module_and_data() -> None:
    made = cli("fit", "--trainer.max_epochs=3", "--model.lr=0.5", "--data.batch_size", "8")
    assert made.trainer.max_epochs == 3 and made.model.hparams.lr == 0.5
    assert made.trainer.global_step == 6 and made.result == 1
    assert made.datamodule.batch_size == 8 and made.subcommand == "fit"


def test_every_argument_of_the_trainer_is_an_option_with_its_default() -> None:
    made = LeydenCLI(Line, Ones, args=[], run=False, save_config_callback=None)
    parsed = made.config["trainer"].as_dict()
    assert {name: parsed[name] for name in defaults()} == defaults()
    # What holds its default is not passed on: the plan marks it as a default.
    assert set(made.trainer._settings.given) == {"callbacks"}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("1", "val_check_interval", 1),
        ("0.25", "val_check_interval", 0.25),
        ("{0: 2, 4: 8}", "accumulate_grad_batches", {0: 2, 4: 8}),
        ("hparams.rate", "auto_lr_find", "hparams.rate"),
        ("true", "fast_dev_run", True),
        ("bf16", "precision", "bf16"),
        ("inf", "track_grad_norm", "inf"),
        ("{hours: 2}", "max_time", {"hours": 2.0}),
        ("1e-2", "gradient_clip_val", 0.01),
    ],
)
def test_text_becomes_what_the_argument_takes(text: str, name: str, value: Any) -> None:
    made = cli(f"--trainer.{name}", text, run=False)
    parsed = made.config["trainer"][name]
    assert parsed == value and type(parsed) is type(value)


def test_a_file_and_later_options_and_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("trainer:\n  max_epochs: 7\n  max_steps: 2\nmodel:\n  lr: 0.4\n")
    made = cli("fit", "--config", "run.yaml", "--trainer.max_epochs", "5")
    assert (made.trainer.max_epochs, made.trainer.max_steps) == (5, 2)
    assert made.model.hparams.lr == 0.4
    with pytest.raises(SystemExit) as stopped:
        cli("fit", "--config", "run.yaml", "--print_config")
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["max_epochs"] == 7 and printed["data"] == {"batch_size": 4}


def test_objects_in_a_file_by_short_names() -> None:
    Path("run.yaml").write_text(
        "trainer:\n"
        "  callbacks:\n"
        "    - class_path: EarlyStopping\n"
        "      init_args: {monitor: val_loss}\n"
        "  logger:\n"
        "    class_path: CSVLogger\n"
        "    init_args: {save_dir: runs}\n"
        "optimizer:\n"
        "  class_path: AdamW\n"
        "  init_args: {lr: 0.01}\n"
    )
    made = cli("--config=run.yaml", "--trainer.callbacks+=LearningRateMonitor", run=False)
    names = [type(one).__name__ for one in made.trainer.callbacks]
    assert {"EarlyStopping", "LearningRateMonitor"} <= set(names)
    assert type(made.trainer.logger).__name__ == "CSVLogger"
    assert type(made.model.configure_optimizers()).__name__ == "AdamW"


def test_the_saved_configuration_repeats_the_run_bit_for_bit() -> None:
    csv = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs"]
    first = cli("fit", "--trainer.max_epochs=2", "--model.lr=0.3", *csv)
    assert first.trainer.log_dir is not None
    saved = Path(first.trainer.log_dir) / "config.yaml"
    assert isinstance(yaml.safe_load(saved.read_text())["seed_everything"], int)
    again = cli("fit", "--config", str(saved))
    assert Path(again.trainer.log_dir or "") != saved.parent
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    # Another seed does not: so the equality above says something.
    other_seed = cli("fit", "--config", str(saved), "--seed_everything=1")
    assert not torch.equal(first.model.layer.weight, other_seed.model.layer.weight)


def test_a_configuration_is_not_overwritten_unless_asked_to() -> None:
    csv = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs"]
    csv += ["--trainer.logger.version=one", "--trainer.max_steps=1"]
    cli("fit", *csv)
    with pytest.raises(MisconfigurationException, match="config.yaml is there already"):
        cli("fit", *csv)
    cli("fit", *csv, "--model.lr=0.7", save_config_kwargs={"overwrite": True})
    (saved,) = Path("runs").rglob("config.yaml")
    assert yaml.safe_load(saved.read_text())["model"]["lr"] == 0.7


def test_without_a_logger_no_configuration_is_saved() -> None:
    made = cli("fit", "--trainer.max_steps=1")
    assert any(isinstance(one, SaveConfigCallback) for one in made.trainer.callbacks)
    assert list(Path().rglob("config.yaml")) == []
    made = cli("fit", "--trainer.max_steps=1", save_config_callback=None)
    assert not any(isinstance(one, SaveConfigCallback) for one in made.trainer.callbacks)


def test_callbacks_and_handlers_by_name_join_those_of_the_program() -> None:
    options = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    options += ["--trainer.callbacks+=GradientClipping", "--trainer.callbacks.limit=0.5"]
    mine = leyden.Callback()
    made = cli(*options, run=False, trainer_defaults={"callbacks": [mine], "max_epochs": 4})
    stopping, clipping, *rest = made.trainer.callbacks
    assert isinstance(stopping, EarlyStopping) and stopping.monitor == "val_loss"
    assert isinstance(clipping, GradientClipping) and clipping.limit == 0.5
    assert mine in rest and made.trainer.max_epochs == 4


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--trainer.max_epoch=3"], "did you mean --trainer.max_epochs"),
        (["--trainer.max_epochs=many"], "many"),
        (["--trainer.gradient_clip_val=-1"], "gradient_clip_val=-1.0 is negative"),
        (["--model.lr=much"], "model.lr"),
        (["--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"], "pass --optimizer too"),
        (
            ["--optimizer=SGD", "--optimizer.lr=1", "--lr_scheduler=ReduceLROnPlateau"],
            "--lr_scheduler_config.monitor",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "fit", *args)


def test_mistakes_are_errors_where_the_program_wants_them() -> None:
    with pytest.raises(Exception, match="did you mean") as caught:
        cli("fit", "--trainer.max_epoch=3", parser_kwargs={"exit_on_error": False})
    assert str(caught.value).count("did you mean") == 1


def test_optimizer_and_scheduler_replace_those_of_the_module() -> None:
    made = cli(
        "fit",
        "--trainer.max_epochs=2",
        *("--optimizer=SGD", "--optimizer.lr=0.8", "--optimizer.momentum=0.5"),
        *("--lr_scheduler=StepLR", "--lr_scheduler.step_size=2", "--lr_scheduler.gamma=0.5"),
        "--lr_scheduler_config.interval=step",
    )
    (optimizer,) = made.trainer.optimizers
    assert optimizer.param_groups[0]["momentum"] == 0.5
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.8 * 0.5**4)  # 8 steps, halved by 2


def test_a_module_with_a_replaced_optimizer_can_be_sent_to_a_process() -> None:
    made = cli("--optimizer=SGD", "--optimizer.lr=0.5", run=False)
    again = pickle.loads(pickle.dumps(made.model))
    (group,) = again.configure_optimizers().param_groups
    assert group["lr"] == 0.5 and group["params"][0] is again.layer.weight


def test_plateau_watches_the_metric_it_is_told() -> None:
    plateau = ["--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.patience=0"]
    plateau += ["--lr_scheduler.threshold=1e9", "--lr_scheduler_config.monitor=val_loss"]
    made = cli("fit", "--trainer.max_epochs=3", "--optimizer=SGD", "--optimizer.lr=0.1", *plateau)
    (optimizer,) = made.trainer.optimizers
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_one_optimizer_given_by_the_program() -> None:
    class OneOptimizer(LeydenCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_optimizer_args(torch.optim.RMSprop)
            parser.set_defaults({"optimizer.lr": 0.25})

    made = cli("fit", "--trainer.max_steps=1", "--optimizer.alpha=0.5", cls=OneOptimizer)
    (optimizer,) = made.trainer.optimizers
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["alpha"]) == (0.25, 0.5)


@pytest.mark.parametrize("only", [torch.optim.SGD, None])
def test_an_optimizer_linked_into_the_module(only: Any) -> None:
    class Linked(LeydenCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_optimizer_args(only, link_to="model.optim")

    choose = [] if only else ["--optimizer=SGD"]
    made = cli(*choose, "--optimizer.lr=0.5", cls=Linked, run=False)
    optim = made.model.hparams.optim
    optimizer = instantiate_class((made.model.parameters(),), optim)
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["lr"] == 0.5
    assert made.model.configure_optimizers().param_groups[0]["lr"] == 0.1  # its own


def test_linked_arguments_and_options_of_the_program() -> None:
    class Mine(LeydenCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_argument("--words", type=int, default=2)
            parser.link_arguments("data.batch_size", "model.out")

    made = cli("--data.batch_size=3", "--words=5", cls=Mine, run=False)
    assert made.model.layer.out_features == 3 and made.config["words"] == 5


def test_without_run_nothing_runs() -> None:
    made = cli("--trainer.max_epochs=3", run=False)
    assert made.trainer.global_step == 0 and made.subcommand is None and made.result is None
    made.trainer.fit(made.model, datamodule=made.datamodule)
    assert made.trainer.current_epoch == 2


def test_nested_values_instead_of_a_command_line() -> None:
    values = {"trainer": {"max_epochs": 3}, "model": {"lr": 0.3}}
    made = LeydenCLI(Line, Ones, args=values, run=False)
    assert made.trainer.max_epochs == 3 and made.model.hparams.lr == 0.3


def test_classes_chosen_by_name() -> None:
    name = f"{SubLine.__module__}.SubLine"
    made = cli(f"--model={name}", "--model.extra=3", run=False, subclass_mode_model=True)
    assert type(made.model).__name__ == "SubLine" and made.model.extra == 3
    made = cli("--model=SubLine", "--model.extra=4", run=False, model=None, data=None)
    assert made.model.extra == 4 and made.datamodule is None


@pytest.mark.parametrize("wrong", [{"model": torch.nn.Linear}, {"data": Line}, {"model": Line()}])
def test_a_class_of_something_else_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="is no subclass of Lightning"):
        cli(run=False, **wrong)


def test_evaluations_take_the_weights_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    made = cli("fit", "--trainer.max_epochs=2")
    made.trainer.save_checkpoint("trained.ckpt")
    loss = float(made.trainer.callback_metrics["val_loss"])
    for command in ("test", "validate"):
        (found,) = cli(command, "--ckpt_path=trained.ckpt", "--seed_everything=3").result
        assert found["val_loss"] == pytest.approx(loss)
    assert "RESULTS" in capsys.readouterr().out
    quiet = cli("test", "--ckpt_path=trained.ckpt", "--verbose=false").result
    assert quiet[0]["val_loss"] == pytest.approx(loss) and capsys.readouterr().out == ""
    outputs = cli("predict", "--ckpt_path=trained.ckpt").result
    assert torch.equal(outputs[0], made.model.layer(torch.ones(4, 1)))
    (untrained,) = cli("test", "--seed_everything=3").result
    assert untrained["val_loss"] != pytest.approx(loss)


def test_fit_continues_from_a_checkpoint() -> None:
    made = cli("fit", "--trainer.max_epochs=1")
    made.trainer.save_checkpoint("first.ckpt")
    more = cli("fit", "--trainer.max_epochs=3", "--ckpt_path=first.ckpt")
    assert more.trainer.global_step == 12 and made.trainer.global_step == 4


def test_plan_prints_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made = cli("plan", "--trainer.gradient_clip_val=0.5")
    out = capsys.readouterr().out
    assert "GradientClipping.clip" in out and "gradient_clip_val=0.5" in out
    assert made.trainer.global_step == 0


def test_tune_gives_what_it_found() -> None:
    made = cli("tune", "--trainer.auto_lr_find=true")
    assert set(made.result) == {"lr_find"} and made.model.hparams.lr != 0.1


def test_what_is_defined_for_before_and_after_is_called() -> None:
    seen: list[Any] = []

    class Told(LeydenCLI):
        def before_instantiate_classes(self) -> None:
            seen.append(("parsed", self.config["trainer"]["max_steps"]))

        def before_fit(self) -> None:
            seen.append(("before", self.trainer.global_step))

        def after_fit(self) -> None:
            seen.append(("after", self.trainer.global_step))

    cli("fit", "--trainer.max_steps=3", cls=Told)
    assert seen == [("parsed", 3), ("before", 0), ("after", 3)]
    cli("validate", cls=Told)
    assert len(seen) == 4


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CLI_FIT__MODEL__LR", "0.6")
    monkeypatch.setenv("LEYDEN_TRAINER_MAX_STEPS", "2")  # the Trainer's own
    assert cli("fit", "--trainer.max_epochs=1").model.hparams.lr == 0.1
    made = cli("fit", "--trainer.max_epochs=1", parser_kwargs={"default_env": True})
    assert made.model.hparams.lr == 0.6 and made.trainer.global_step == 2


def test_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("--seed_everything=5", run=False).config["seed_everything"] == 5
    assert torch.initial_seed() == 5
    torch.manual_seed(11)
    assert cli(run=False, seed_everything_default=False).config["seed_everything"] is False
    assert torch.initial_seed() == 11
    chosen = cli(run=False).config["seed_everything"]
    assert type(chosen) is int and torch.initial_seed() == chosen


def test_the_processes_of_a_run_draw_the_same_seed() -> None:
    torchrun = {"MASTER_ADDR": "here", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "a"}
    first, second = (drawn_seed({**torchrun, "RANK": rank}) for rank in "01")
    assert first == second != drawn_seed({**torchrun, "RANK": "0", "MASTER_PORT": "29501"})
    assert drawn_seed({**torchrun, "RANK": "1", "PL_GLOBAL_SEED": "17"}) == 17
    assert drawn_seed({"PL_GLOBAL_SEED": "17"}) != drawn_seed({})


def test_help_tells_meaning_type_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    out = " ".join(capsys.readouterr().out.split())
    assert "Epochs after which training ends. (type: int, default: 1000)" in out
    assert "how far a step goes, 100% by default. (type: float, default: 0.1)" in out
    assert "samples in a batch. (type: int, default: 4)" in out
    assert "<class" not in out and "usage: " in out


def test_without_jsonargparse_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    parser_class.cache_clear()
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(ImportError, match=r"pip install 'leyden\[cli\]'"):
        cli(run=False)
