"""Tuning before training: search for a learning rate and for a batch size, and leave no trace."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from leyden.engine.errors import MisconfigurationException, MisconfiguredType, MisconfiguredValue
from leyden.engine.notice import warn
from leyden.handlers.batch_size_scaler import BatchSizeScaler
from leyden.handlers.lr_curve import LRCurve
from leyden.handlers.lr_finder import LRFinder
from leyden.launched import launched
from leyden.loaders import Loaders, datamodule_of
from leyden.plan import Line, Plan
from leyden.plan_of import plan_of
from leyden.run import Run
from leyden.searching import RestingSchedulers, neutral, search, search_run
from leyden.stepping import verify
from leyden.tuned_attribute import TunedAttribute

__all__ = ["Tuner"]

# More than any search takes: the end of a search is its own.
_MANY = 10**9
_LR_NAMES = ("lr", "learning_rate")


class Tuner:
    """The searches of a Trainer: ``trainer.tuner``.

    Each trains the module for a few steps and puts everything back that this changed: weights,
    buffers, gradients, modes, random streams, counters, metrics, loaders. That holds as well where
    it fails or is interrupted. No file is written.

    Args:
        trainer: whose arguments and features the searches use; callbacks, loggers and the profiler
            stay out of them.

    Source: ``Trainer.tuner`` of Lightning 1.1.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def tune(
        self,
        model: Any,
        train_dataloader: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
    ) -> dict[str, Any]:
        """Run the searches that are switched on. See :meth:`leyden.Trainer.tune`."""
        settings = self._trainer._settings
        if datamodule is None and hasattr(train_dataloader, "train_dataloader"):
            train_dataloader, datamodule = None, train_dataloader
        loaders = {"train_dataloader": train_dataloader, "val_dataloader": val_dataloaders}
        Loaders().provide(model, datamodule, **loaders)  # refuses contradictions
        datamodule = self._connected(model, datamodule, train_dataloader, val_dataloaders)
        if settings.fast_dev_run:
            asked = [name for name in _SEARCHES if settings.given.get(name)]
            if asked:
                for name in asked:
                    if name == "auto_lr_find":  # a run without fast_dev_run would fail
                        self._rate_of(model, datamodule, settings.given[name])
                    _skipped(_FINDERS[name])
            return {}
        found: dict[str, Any] = {}
        if settings.auto_scale_batch_size:
            mode = settings.auto_scale_batch_size
            if train_dataloader is not None:
                raise MisconfigurationException(
                    f"auto_scale_batch_size={mode!r} cannot change the size of batches in a loader "
                    "that is made already, and tune() got train_dataloader: define "
                    "train_dataloader() on the module or the data module, of self.batch_size"
                )
            found["scale_batch_size"] = self.scale_batch_size(
                model,
                mode="power" if mode is True else mode,
                val_dataloaders=val_dataloaders,
                datamodule=datamodule,
            )
        if settings.auto_lr_find:
            found["lr_find"] = self.lr_find(
                model, train_dataloader, val_dataloaders, datamodule=datamodule, update_attr=True
            )
        if not found:
            warn(
                "tune() has nothing to do: make the Trainer with auto_lr_find=True or "
                "auto_scale_batch_size=True, or call trainer.tuner.lr_find(model)",
                UserWarning,
            )
        return found

    @launched("tuner.lr_find")
    def lr_find(
        self,
        model: Any,
        train_dataloader: Any = None,
        val_dataloaders: Any = None,
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        datamodule: Any = None,
        update_attr: bool = False,
        optimizer_idx: int | Sequence[int] | None = None,
    ) -> LRCurve | None:
        """Search for a learning rate.

        Args:
            model: a LightningModule.
            train_dataloader: as for ``fit``.
            val_dataloaders: as for ``fit``.
            min_lr: the first rate.
            max_lr: the last one.
            num_training: how many optimizer steps the search takes.
            mode: ``"exponential"`` or ``"linear"``: how the rate grows.
            early_stop_threshold: stop where the loss is above its best by this factor; None: only
                where it is not finite.
            datamodule: brings the loaders instead.
            update_attr: write the suggestion to the attribute that ``auto_lr_find`` names; if that
                is no text, to ``lr`` or ``learning_rate`` of the module or its ``hparams``.
            optimizer_idx: with several optimizers, whose rate to search.

        Returns:
            The rates and losses, with ``suggestion()`` and ``plot()``; None under fast_dev_run.

        Raises:
            MisconfigurationException: for arguments that make no sense, no attribute to write to, a
                loss that is not finite at the first step. Nothing is changed then.
        """
        if self._trainer._settings.fast_dev_run:
            _skipped(_FINDERS["auto_lr_find"])
            return None
        model = self._itself(model)
        verify(model, "fit")
        strategy = self._trainer.strategy
        datamodule = self._connected(model, datamodule, train_dataloader, val_dataloaders)
        finder = LRFinder(
            min_lr=min_lr,
            max_lr=max_lr,
            num_training=num_training,
            mode=mode,
            early_stop_threshold=early_stop_threshold,
            optimizer_idx=optimizer_idx,
            progress=self._shows_progress(),
        )
        if strategy.world_size > 1:
            # All processes see the mean, and so end the search at the same step.
            finder.whole = lambda loss: float(strategy.reduce(torch.tensor(loss)))
        target = self._rate_of(model, datamodule) if update_attr else None
        with neutral(self._trainer, model, datamodule) as (data, _):
            run = self._lr_run(finder, data)
            try:
                search(self._trainer, run, model, train_dataloader, val_dataloaders, datamodule)
                last = run.state.iteration - 1
            finally:
                finder.detach()
        curve = finder.curve
        curve._total_batch_idx = last
        if target is not None:
            self._write_rate(model, target, curve.suggestion())
        return curve

    @launched("tuner.scale_batch_size")
    def scale_batch_size(
        self,
        model: Any,
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.0,
        **fit_kwargs: Any,
    ) -> int | None:
        """Search for the largest batch that fits in memory, and write its size to the attribute.

        The module or the data module makes its loader of the attribute ``batch_arg_name``; the
        loader is asked for anew at each size. A size never exceeds the number of samples.

        Args:
            model: a LightningModule.
            mode: ``"power"`` doubles the size until it does not fit, and takes the last that did;
                ``"binsearch"`` then halves the gap until it is 1.
            steps_per_trial: optimizer steps with each size.
            init_val: the first size.
            max_trials: how many sizes to try at most.
            batch_arg_name: an attribute of the module, its ``hparams`` or the data module; with
                dots (``"hparams.data.size"``) the way to it from the module.
            margin: the share to take off the largest size that fitted: 0 keeps it as it is.
            fit_kwargs: ``datamodule`` and ``val_dataloaders``, as for ``fit``.

        Returns:
            The size; None under fast_dev_run.

        Raises:
            MisconfigurationException: no such attribute, a loader that does not use it, a first
                size that does not fit. Nothing is changed then.
        """
        unknown = sorted(set(fit_kwargs) - {"datamodule", "val_dataloaders", "train_dataloader"})
        if unknown:
            raise MisconfiguredType(
                f"scale_batch_size() got an unexpected keyword argument {unknown[0]!r}: beside the "
                "documented ones it takes datamodule and val_dataloaders"
            )
        if fit_kwargs.get("train_dataloader") is not None:
            raise MisconfigurationException(
                "the size of batches in a loader that is made already cannot be changed: define "
                "train_dataloader() on the module or the data module, of self.batch_size"
            )
        if self._trainer._settings.fast_dev_run:
            _skipped(_FINDERS["auto_scale_batch_size"])
            return None
        model = self._itself(model)
        verify(model, "fit")
        scaler = BatchSizeScaler(mode, init_val=init_val, max_trials=max_trials, margin=margin)
        _check_steps(steps_per_trial)
        val = fit_kwargs.get("val_dataloaders")
        datamodule = self._connected(model, fit_kwargs.get("datamodule"), val)
        target = TunedAttribute.find(model, datamodule, batch_arg_name)
        if target is None:
            raise MisconfigurationException(
                f"neither {type(model).__name__} nor its hparams nor a data module has "
                f"{batch_arg_name!r}: set that attribute and use it in train_dataloader(), or pass "
                "batch_arg_name"
            )
        if target.in_hparams_too or target.doubled:
            field = f"Field `model.{batch_arg_name}` and `model.hparams.{batch_arg_name}`"
            told = f"{field} are mutually exclusive! " if target.in_hparams_too else ""
            warn(
                f"{told}{batch_arg_name!r} is kept in several places, on the module, in its "
                "hparams or on the data module: the size that is found is written to all of them",
                UserWarning,
            )
        before = target.value
        with neutral(self._trainer, model, datamodule) as (data, put_back):
            trial = _Trial(self, model, datamodule, val, target, data, steps_per_trial)

            def run_trial(size: int) -> int | None:
                try:
                    return trial(size)
                finally:
                    put_back()

            found = scaler.search(run_trial)
        # Memory may differ from process to process; the size must not.
        found = int(self._trainer.strategy.reduce(torch.tensor(found), "min"))
        target.set(found)
        if self._shows_progress():
            print(f"{batch_arg_name}: {before!r} -> {found} ({_told(scaler)})")
        return found

    def plan(self) -> Plan:
        """Show what :meth:`tune` will do: the searches in order, and what runs in each."""
        settings = self._trainer._settings
        lines: list[Line] = []
        notes: list[str] = []
        mode = settings.auto_scale_batch_size
        if mode:
            run = search_run(self._trainer, max_steps=3)
            lines += _titled(run, "each size of the batch")
            how = "doubles it" if mode in (True, "power") else "doubles it, then halves the gap,"
            notes.append(
                f"auto_scale_batch_size={mode!r}: begins at 2 and {how} until a batch does not "
                "fit, 25 sizes at most, 3 steps each; writes batch_size"
            )
        if settings.auto_lr_find:
            run = self._lr_run(LRFinder(), None)
            lines += _titled(run, "search for the learning rate")
            name = settings.auto_lr_find
            wanted = name if isinstance(name, str) else " or ".join(_LR_NAMES)
            notes.append(
                f"auto_lr_find={name!r}: 100 steps with rates from 1e-08 to 1; writes {wanted}"
            )
        if not notes:
            notes.append("tune() does nothing: auto_scale_batch_size and auto_lr_find are both off")
        else:
            notes.append("afterwards everything but the attributes written is as it was before")
        return Plan(lines, notes)

    # ------------------------------------------------------------------ parts

    def _lr_run(self, finder: LRFinder, kept: Any) -> Run:
        run = search_run(self._trainer, kept, max_steps=finder.num_training, max_epochs=_MANY)
        stopping = run.stopping()
        # Steps without a loss do not count, so the end is where the finder says.
        stopping.max_steps = _MANY

        def stop(engine: Any) -> None:
            stopping.max_steps = engine.state.optimizer_steps

        finder.stop = stop
        run.handlers.add(RestingSchedulers(run), origin="tune")
        run.handlers.add(finder, origin="tune")
        return run

    def _itself(self, model: Any) -> Any:
        """The module within ``torch.compile(module)``; any other model is itself already."""
        compiled = hasattr(model, "_orig_mod")
        return self._trainer._run.compiling.take_out(model) if compiled else model

    def _connected(self, model: Any, datamodule: Any, *loaders: Any) -> Any:
        if datamodule is None and any(loader is not None for loader in loaders):
            return None
        found = datamodule_of(model, datamodule)
        if found is not None:
            found.trainer = self._trainer
        return found

    def _shows_progress(self) -> bool:
        shows = self._trainer._settings.progress_bar_refresh_rate
        return bool(shows) and self._trainer.is_global_zero

    def _rate_of(self, model: Any, datamodule: Any, name: Any = None) -> TunedAttribute:
        name = name or self._trainer._settings.auto_lr_find
        names = (name,) if isinstance(name, str) else _LR_NAMES
        found = TunedAttribute.find(model, None, *names)
        if found is None:
            wanted = " or ".join(repr(one) for one in names)
            raise MisconfigurationException(
                f"auto_lr_find={name!r} has no attribute to write to: neither "
                f"{type(model).__name__} nor its hparams has {wanted}. One of them should have "
                f"one of these fields ({wanted}), used in configure_optimizers; or name another "
                "one: auto_lr_find='hparams.rate'"
            )
        return found

    def _write_rate(self, model: Any, target: TunedAttribute, rate: float | None) -> None:
        if rate is None:
            return  # suggestion() has said why
        before = target.value
        target.set(rate)
        run = self._trainer._run
        if run.model is model and run.parts.optimizers:
            warn(
                f"{target.name} is {rate:.4g} now, but the training of this module has begun: fit "
                "goes on with its optimizers and their rates. Set those, or train with a new "
                "Trainer",
                UserWarning,
            )
        if self._shows_progress():
            print(f"{target.name}: {before!r} -> {rate:.4g} (the steepest descent of the loss)")


class _Trial:
    """A few steps with batches of one size."""

    def __init__(
        self,
        tuner: Tuner,
        model: Any,
        datamodule: Any,
        val: Any,
        target: TunedAttribute,
        data: Any,
        steps: int,
    ) -> None:
        self.trainer = tuner._trainer
        self.model = model
        self.datamodule = datamodule
        self.val = val
        self.target = target
        self.data = data
        self.steps = steps
        self.seen: list[tuple[int, int | None]] = []  # sizes, and those of the loader's batches

    def __call__(self, size: int) -> int | None:
        self.target.set(size)
        settings = self.trainer._settings
        run = search_run(
            self.trainer,
            self.data,
            max_steps=self.steps,
            max_epochs=max(settings.max_epochs, 1),
            limit_train_batches=1.0,
        )
        try:
            search(self.trainer, run, self.model, None, self.val, self.datamodule)
        finally:
            loader = run.loaders.train
        own = loader.batch_size if isinstance(loader, DataLoader) else None
        before = self.seen[-1] if self.seen else None
        self.seen.append((size, own))
        if before is not None and own is not None and own == before[1]:
            if len({batch for _, batch in self.seen}) > 1:
                return own  # the loader has a bound of its own
            raise MisconfigurationException(
                f"the loader has batches of {own} both with {self.target.name}={before[0]} and "
                f"with {size}: use self.{self.target.name} in train_dataloader()"
            )
        try:
            samples: Any = loader.dataset
            return len(samples)
        except (AttributeError, TypeError, NotImplementedError):
            return None


_FINDERS = {"auto_scale_batch_size": "batch size scaler", "auto_lr_find": "learning rate finder"}
_SEARCHES = ("auto_scale_batch_size", "auto_lr_find")


def _check_steps(steps: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise MisconfiguredType(f"steps_per_trial={steps!r} is no count: pass an int of 1 or more")
    if steps < 1:
        raise MisconfiguredValue(f"steps_per_trial={steps} is below 1: pass a count of 1 or more")


def _skipped(what: str) -> None:
    warn(
        f"Skipping {what} since fast_dev_run is enabled: leave fast_dev_run out to tune",
        UserWarning,
    )


def _told(scaler: BatchSizeScaler) -> str:
    fitted = [size for size, fits in scaler.tried if fits]
    failed = [size for size, fits in scaler.tried if not fits]
    words = [f"{max(fitted)} fits"]
    if failed:
        words.append(f"{min(failed)} does not")
    words.append(
        f"a margin of {scaler.margin:.0%} is taken off"
        if scaler.margin
        else "no margin is taken off"
    )
    return ", ".join(words)


def _titled(run: Run, title: str) -> list[Line]:
    plan = plan_of(run, run.settings)
    words = {"train": title, "validate": f"{title}: validation"}
    return [replace(line, engine=words.get(line.engine, line.engine)) for line in plan.lines]
