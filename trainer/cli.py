"""A command line for a module and its data: ``LeydenCLI``, on jsonargparse (the extra ``cli``)."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from leyden.arguments import default_attributes
from leyden.cli_objects import SaveConfigCallback, configured, drawn_seed, instantiate_class
from leyden.cli_parser import add_class, add_trainer, jsonargparse, parser_class, type_of_class
from leyden.datamodule import LightningDataModule
from leyden.engine.errors import MisconfigurationException
from leyden.module import LightningModule
from leyden.seed import seed_everything
from leyden.trainer import Trainer

__all__ = ["LeydenCLI", "SaveConfigCallback", "instantiate_class"]

#: What can be run, and the options beside those of Trainer, module and data.
SUBCOMMANDS = {
    "fit": "train, and validate on the way",
    "validate": "run the validation loop",
    "test": "run the test loop",
    "predict": "run predict_step over the data",
    "tune": "search for what auto_lr_find and auto_scale_batch_size ask for",
    "plan": "print every handler that would run, and run nothing",
}
_WITH_CHECKPOINT = ("fit", "validate", "test", "predict")
_PLAIN = (bool, int, float, str, type(None))


class LeydenCLI:
    """Parses a command line, makes Trainer, module and data of it, and runs them.

    ``python train.py fit --config run.yaml --trainer.max_epochs 5 --model.lr 0.1`` where
    ``train.py`` ends with ``LeydenCLI(Model, Data)``. Every argument of the three constructors is
    an option; ``--print_config`` prints them all as YAML, which ``--config`` reads back.

    Args:
        model_class: a ``LightningModule``; None: ``--model package.Class`` chooses one.
        datamodule_class: a ``LightningDataModule``; None: ``--data package.Class`` may choose one,
            else the module brings its loaders.
        save_config_callback: what writes the configuration into the folder of the run; None for
            nothing.
        save_config_kwargs: its arguments, such as ``{"overwrite": True}``.
        trainer_class: the Trainer, or a subclass.
        trainer_defaults: defaults of this program for the Trainer's arguments. Objects are taken
            too: callbacks join those of the command line.
        seed_everything_default: a seed; True for a random one, False for none.
        parser_kwargs: for jsonargparse's parser, ``{"default_env": True}`` reads
            ``LEYDEN_CLI_FIT__TRAINER__MAX_EPOCHS`` and its like; those of one subcommand under its
            name.
        subclass_mode_model: ``--model`` chooses among subclasses of ``model_class``.
        subclass_mode_data: ``--data`` chooses among subclasses of ``datamodule_class``.
        args: the command line, or a dict of nested values; None for ``sys.argv``.
        run: False parses and makes the objects only; then there are no subcommands.
        auto_configure_optimizers: add ``--optimizer`` and ``--lr_scheduler``, which replace the
            module's ``configure_optimizers`` where they are given.

    Attributes:
        parser: the parser.
        config: what was parsed.
        subcommand: what was run; None with ``run=False``.
        trainer: the Trainer.
        model: the module.
        datamodule: the data, or None.
        result: what the subcommand returned.

    Raises:
        ImportError: jsonargparse is not installed.
        TypeError: a class is none of a module or of data.
    """

    trainer: Trainer
    model: Any
    datamodule: Any
    parser: Any
    config: Any
    subcommand: str | None
    result: Any

    def __init__(
        self,
        model_class: Any = None,
        datamodule_class: Any = None,
        *,
        save_config_callback: Any = SaveConfigCallback,
        save_config_kwargs: dict[str, Any] | None = None,
        trainer_class: type[Trainer] = Trainer,
        trainer_defaults: dict[str, Any] | None = None,
        seed_everything_default: bool | int = True,
        parser_kwargs: dict[str, Any] | None = None,
        subclass_mode_model: bool = False,
        subclass_mode_data: bool = False,
        args: Sequence[str] | dict[str, Any] | None = None,
        run: bool = True,
        auto_configure_optimizers: bool = True,
    ) -> None:
        jsonargparse()
        self.model_class = type_of_class(
            "model_class", LightningModule if model_class is None else model_class, LightningModule
        )
        self.datamodule_class = type_of_class(
            "datamodule_class",
            LightningDataModule if datamodule_class is None else datamodule_class,
            LightningDataModule,
        )
        self.choose_model = subclass_mode_model or model_class is None
        self.choose_data = subclass_mode_data or datamodule_class is None
        self.data_required = datamodule_class is not None
        self.save_config_callback = save_config_callback
        self.save_config_kwargs = save_config_kwargs or {}
        self.trainer_class = trainer_class
        self.trainer_defaults = trainer_defaults or {}
        self.seed_everything_default = seed_everything_default
        self.auto_configure_optimizers = auto_configure_optimizers
        self.parsers: dict[str, Any] = {}
        self.parser = self._make_parser(parser_kwargs or {}, run)
        parsed = self._parse(args)
        self.subcommand = parsed["subcommand"] if run else None
        self.config = parsed[self.subcommand] if self.subcommand else parsed
        self._seed()
        self.before_instantiate_classes()
        self.instantiate_classes(parsed)
        self.result = None
        if self.subcommand:
            self._run(self.subcommand)

    def __getstate__(self) -> dict[str, Any]:
        # A module whose optimizers were replaced brings this along into spawned processes.
        left_out = ("parser", "parsers", "config_init", "trainer", "model", "datamodule", "result")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    # ------------------------------------------------------------------ to override

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Add options of your own, ``parser.link_arguments``, ``parser.set_defaults``.

        Runs for the parser of each subcommand, after the options of Trainer, module and data.

        Args:
            parser: a jsonargparse parser with ``add_optimizer_args(cls, nested_key, link_to)`` and
                ``add_lr_scheduler_args`` besides.
        """

    def before_instantiate_classes(self) -> None:
        """Run when the command line is parsed and the seed set, before anything is made.

        ``before_fit``, ``after_fit`` and their like for the other subcommands are called too, where
        they are defined.
        """

    def configure_optimizers(
        self, lightning_module: Any, optimizer: Any, lr_scheduler: Any = None
    ) -> Any:
        """Return what the module's ``configure_optimizers`` gives, of what the options made.

        Args:
            lightning_module: the module.
            optimizer: the optimizer, over all its parameters.
            lr_scheduler: None, or ``{"scheduler": ..., "monitor": ..., "interval": ...}``.
        """
        return optimizer if lr_scheduler is None else ([optimizer], [lr_scheduler])

    # ------------------------------------------------------------------ parsing

    def _make_parser(self, kwargs: dict[str, Any], run: bool) -> Any:
        general = {k: v for k, v in kwargs.items() if k not in SUBCOMMANDS}
        made = {"env_prefix": "LEYDEN_CLI", "allow_abbrev": False, **general}
        if not run:
            return self._fill(parser_class()(**made), "fit")
        parser = parser_class()(**made)
        _add_config(parser)
        # All options in a usage line would hide what an error says.
        usage = "%(prog)s [-c FILE] [--trainer.x X] [--model.x X] [--data.x X] ..."
        commands = parser.add_subcommands(required=True, dest="subcommand")
        for name, told in SUBCOMMANDS.items():
            words = {"description": f"{told[0].upper()}{told[1:]}.", "usage": usage}
            own = {**words, **made, **kwargs.get(name, {})}
            self.parsers[name] = self._fill(parser_class()(**own), name)
            commands.add_subcommand(name, self.parsers[name], help=told)
        return parser

    def _fill(self, parser: Any, command: str) -> Any:
        _add_config(parser)
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="A seed for every generator of random numbers; true for a random one, false to "
            "leave them as they are.",
        )
        add_trainer(parser, self.trainer_class)
        add_class(parser, self.model_class, "model", choose=self.choose_model, required=True)
        add_class(
            parser,
            self.datamodule_class,
            "data",
            choose=self.choose_data,
            required=self.data_required,
        )
        plain = {f"trainer.{k}": v for k, v in self.trainer_defaults.items() if _is_plain(v)}
        parser.set_defaults(plain)
        if command in _WITH_CHECKPOINT:
            told = "continue from" if command == "fit" else "take the weights from"
            parser.add_argument(
                "--ckpt_path", type=str | None, default=None, help=f"A checkpoint to {told}."
            )
        if command in ("validate", "test"):
            parser.add_argument(
                "--verbose", type=bool, default=True, help="Whether to print the metrics."
            )
        self.add_arguments_to_parser(parser)
        chosen = {choice.kind for choice in parser.__dict__.get("choices", {}).values()}
        if self.auto_configure_optimizers:
            if "optimizer" not in chosen:
                parser.add_optimizer_args()
            if "lr_scheduler" not in chosen:
                parser.add_lr_scheduler_args()
            _add_scheduler_options(parser)
        return parser

    def _parse(self, args: Sequence[str] | dict[str, Any] | None) -> Any:
        if isinstance(args, Mapping):
            return self.parser.parse_object(dict(args))
        return self.parser.parse_args(args)

    @property
    def _own_parser(self) -> Any:
        return self.parsers[self.subcommand] if self.subcommand else self.parser

    def _seed(self) -> None:
        seed = self.config["seed_everything"]
        if seed is False:
            return
        if seed is True:
            # Chosen here, so that the configuration that is saved gives the same run again.
            seed = drawn_seed(os.environ)
        self.config["seed_everything"] = seed_everything(seed)

    # ------------------------------------------------------------------ objects

    def instantiate_classes(self, parsed: Any) -> None:
        """Make module, data and Trainer of what was parsed."""
        made = self.parser.instantiate(parsed)
        made = made[self.subcommand] if self.subcommand else made
        self.config_init = made
        self.model = made["model"]
        self.datamodule = made.get("data")
        self._replace_optimizers()
        try:
            self.trainer = self.instantiate_trainer(made["trainer"].as_dict())
        except MisconfigurationException as error:
            self._own_parser.error(str(error))

    def instantiate_trainer(self, arguments: dict[str, Any]) -> Trainer:
        """Make the Trainer.

        Args:
            arguments: all of its arguments, from the command line; what holds its default is not
                passed on, so that variables of the environment fill it.
        """
        defaults = default_attributes(self.trainer_class)
        given = {k: v for k, v in arguments.items() if not _same(v, defaults.get(k))}
        objects = {k: v for k, v in self.trainer_defaults.items() if not _is_plain(v)}
        callbacks = [*_listed(given.pop("callbacks", None)), *_listed(objects.pop("callbacks", []))]
        if self.save_config_callback is not None:
            # None too: it need not be the default.
            text = self._own_parser.dump(self.config, skip_unset=False)
            callbacks.append(self.save_config_callback(text, **self.save_config_kwargs))
        return self.trainer_class(**{**objects, **given, "callbacks": callbacks})

    def _replace_optimizers(self) -> None:
        """Put ``--optimizer`` and ``--lr_scheduler`` in the place of the module's own."""
        specs: dict[str, Any] = {}
        for key, choice in self._own_parser.__dict__.get("choices", {}).items():
            chosen = self.config.get(key)
            if choice.link_to or chosen is None:
                continue
            if choice.kind in specs:
                self._own_parser.error(
                    f"there are two {choice.kind}s without link_to: give link_to='model.x' in "
                    "add_arguments_to_parser, and make them in configure_optimizers"
                )
            specs[choice.kind] = choice.spec(chosen)
        if not specs:
            return
        options = self.config.get("lr_scheduler_config")
        config = {} if options is None else options.as_dict()
        if "optimizer" not in specs:
            self._own_parser.error(
                "--lr_scheduler needs an optimizer to steer: pass --optimizer too, or return the "
                "scheduler from configure_optimizers"
            )
        if "lr_scheduler" in specs:
            plateau = specs["lr_scheduler"]["class_path"].endswith("ReduceLROnPlateau")
            if plateau and config.get("monitor") is None:
                self._own_parser.error(
                    "--lr_scheduler ReduceLROnPlateau has to know which metric to watch: pass "
                    "--lr_scheduler_config.monitor val_loss (or what it is called)"
                )
        self.model.configure_optimizers = functools.partial(
            configured, self.configure_optimizers, self.model, specs, config
        )

    # ------------------------------------------------------------------ running

    def _run(self, subcommand: str) -> None:
        for moment in ("before", "run", "after"):
            if moment == "run":
                self.result = getattr(self, f"_{subcommand}")()
            elif hasattr(self, f"{moment}_{subcommand}"):
                getattr(self, f"{moment}_{subcommand}")()

    def _fit(self) -> Any:
        return self.trainer.fit(
            self.model, datamodule=self.datamodule, ckpt_path=self.config["ckpt_path"]
        )

    def _validate(self) -> Any:
        self._load_weights()
        verbose = self.config["verbose"]
        return self.trainer.validate(self.model, datamodule=self.datamodule, verbose=verbose)

    def _test(self) -> Any:
        self._load_weights()
        verbose = self.config["verbose"]
        return self.trainer.test(self.model, datamodule=self.datamodule, verbose=verbose)

    def _predict(self) -> Any:
        self._load_weights()
        return self.trainer.predict(self.model, datamodule=self.datamodule)

    def _tune(self) -> Any:
        return self.trainer.tune(self.model, datamodule=self.datamodule)

    def _plan(self) -> Any:
        plan = self.trainer.plan()
        print(plan)
        return plan

    def _load_weights(self) -> None:
        if self.config["ckpt_path"] is None:
            return
        from leyden.handlers.checkpoint_io import load

        checkpoint = load(self.config["ckpt_path"], map_location="cpu")
        self.model.on_load_checkpoint(checkpoint)
        self.model.load_state_dict(checkpoint["state_dict"])


def _add_config(parser: Any) -> None:
    parser.add_argument(
        "-c",
        "--config",
        action=jsonargparse().ActionConfigFile,
        help="A YAML file with any of these; later options win over earlier ones.",
    )


def _add_scheduler_options(parser: Any) -> None:
    for name, kind, default, told in (
        ("monitor", str | None, None, "The metric that ReduceLROnPlateau watches."),
        ("interval", str, "epoch", "Step it after every 'epoch' or every 'step'."),
        ("frequency", int, 1, "Step it after so many of them."),
    ):
        parser.add_argument(f"--lr_scheduler_config.{name}", type=kind, default=default, help=told)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(_is_plain(part) for part in value.values())
    return isinstance(value, _PLAIN)


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
