"""The loaders of a run: where they come from, how many batches of each are used."""

import os
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from leyden.datamodule import LightningDataModule
from leyden.engine.errors import MisconfigurationException, MisconfiguredValue
from leyden.engine.notice import warn
from leyden.overrides import overrides
from leyden.seed import WORKERS_VARIABLE, seed_worker

__all__ = ["Loaders", "batches_of", "datamodule_of", "limited", "unshuffled", "without_batches"]

INFINITE = float("inf")
#: The name of the loaders of each evaluation.
LOADERS = {"validate": "val_dataloader", "test": "test_dataloader", "predict": "predict_dataloader"}


class Loaders:
    """The loaders of one Trainer, asked for when a loop first needs them.

    Args:
        share: gives what this process reads of a loader, ``share(loader, train=True)``.
        processes: how many train together.

    Attributes:
        train: the training loader; None before it was asked for.
        evaluation: ``{stage: loaders}``.
        num_training_batches: in an epoch, after the limit; infinity where nobody knows.
        num_batches: ``{stage: batches of each loader}``.
        told: called with a name and the loaders, each time that some were asked for.
    """

    def __init__(
        self,
        share: Callable[..., Any] = lambda loader, *, train: loader,
        *,
        processes: int = 1,
    ) -> None:
        self.share = share
        self.processes = processes
        self.given: dict[str, Any] = {}
        self.model: Any = None
        self.datamodule: Any = None
        self.train: Any = None
        self.evaluation: dict[str, list[Any]] = {}
        self.num_training_batches: float = 0
        self.num_batches: dict[str, list[float]] = {}
        self.told: Callable[[str, list[Any]], Any] | None = None

    def provide(self, model: Any, datamodule: Any, **given: Any) -> None:
        """Say where the loaders come from: those given, else the data module's, else the model's.

        Raises:
            MisconfigurationException: when both loaders and a data module are given.
        """
        if datamodule is not None:
            both = [name for name, loader in given.items() if loader is not None]
            if both:
                raise MisconfiguredValue(
                    f"datamodule={type(datamodule).__name__} and loaders ({', '.join(both)}) are "
                    "both given: pass one of them, the data module brings its own loaders"
                )
        self.model, self.datamodule = model, datamodule
        self.given = {name: loader for name, loader in given.items() if loader is not None}

    def source(self, name: str, base: type) -> Any:
        """What makes the loader ``name`` (``train_dataloader`` ...): a loader, method or None."""
        if name in self.given:
            return self.given[name]
        for owner in (self.datamodule, self.model):
            if owner is not None and callable(getattr(owner, name, None)):
                if owner is self.model and not overrides(owner, name, base):
                    continue
                if owner is self.datamodule and not _defined(owner, name):
                    continue
                return getattr(owner, name)
        return None

    def _ask(self, name: str, base: type) -> Any:
        source = self.source(name, base)
        return source() if callable(source) and name not in self.given else source

    def request_train(self, base: type, settings: Any) -> None:
        """Ask for the training loader and count its batches."""
        if self.source("train_dataloader", base) is None:
            raise MisconfigurationException(
                "no training data: pass train_dataloader= to fit, or define train_dataloader() on "
                "the module or the data module"
            )
        loader = self._ask("train_dataloader", base)
        if loader is None or not hasattr(loader, "__iter__"):
            raise MisconfigurationException(
                f"the training loader is {loader!r} ({type(loader).__name__}): it must be a "
                "DataLoader or another iterable of batches"
            )
        if isinstance(loader, (dict, list, tuple)) and any(
            isinstance(one, DataLoader)
            for one in (loader.values() if isinstance(loader, dict) else loader)
        ):
            raise MisconfigurationException(
                f"the training loader is a {type(loader).__name__} of loaders, which came after "
                "Lightning 1.1: pass one, such as a DataLoader over a dataset whose items hold a "
                "sample of each (torch.utils.data.StackDataset)"
            )
        if settings.overfit_batches:
            loader = unshuffled(loader)
        if self.told is not None:
            self.told("train_dataloader", [loader])
        _seed_workers(loader)
        self._refuse_empty(loader, "the training loader")
        self.train = loader = self.share(loader, train=True)
        self.num_training_batches = limited(
            batches_of(loader), settings.limit_train_batches, "limit_train_batches", floor=0
        )

    def request_evaluation(self, stage: str, base: type, settings: Any) -> None:
        """Ask for the loaders of ``stage`` (validate, test, predict) and count their batches."""
        name = LOADERS[stage]
        limit_name = f"limit_{name.split('_')[0]}_batches"
        loaders = self._ask(name, base)
        if loaders is None:
            found: list[Any] = []
        elif isinstance(loaders, (list, tuple)):
            found = list(loaders)
        else:
            found = [loaders]
        if any(loader is None for loader in found):
            raise MisconfigurationException(f"{name} holds None: give loaders only, or none at all")
        if settings.overfit_batches and stage != "predict" and found:
            train = self._ask("train_dataloader", base)
            if train is not None:
                found = [unshuffled(train) for _ in found]
        if self.told is not None:
            self.told(name, found)
        if stage != "predict" and not settings.overfit_batches:
            for loader in found:
                if _shuffles(loader):
                    warn(
                        f"a loader of {name} shuffles: its results do not depend on the order, "
                        "and last batches may differ from run to run; pass shuffle=False",
                        UserWarning,
                    )
        limit = getattr(settings, limit_name)
        for loader in found:
            _seed_workers(loader)
            if stage != "predict" and limit != 0:
                self._refuse_empty(loader, f"a loader of {name}")
        # Predictions are put together again, in the order of the batches.
        whole = {"batches": True} if stage == "predict" else {}
        found = [self.share(loader, train=False, **whole) for loader in found]
        self.evaluation[stage] = found
        self.num_batches[stage] = [
            limited(batches_of(loader), limit, limit_name, floor=1) for loader in found
        ]

    def _refuse_empty(self, loader: Any, what: str) -> None:
        """Refuse a loader of no batches, and warn of a length that may be wrong.

        Source: Lightning 1.1. Of several processes one alone may have none, and the others wait for
        it: they find out together, when they compare their numbers of batches.
        """
        count = batches_of(loader)
        if count == 0:
            if self.processes == 1:
                raise MisconfiguredValue(without_batches(what))
            warn(without_batches(what))
        if count != INFINITE and isinstance(getattr(loader, "dataset", None), IterableDataset):
            warn(
                "Your `IterableDataset` has `__len__` defined. With several workers each of them "
                "gives all samples unless the dataset deals them out, and the length no longer fits"
            )

    def val_check_batch(self, interval: float) -> float:
        """After how many batches to validate; infinity: at the end of data of unknown length."""
        count = self.num_training_batches
        if isinstance(interval, int):
            if count and interval > count:
                raise MisconfiguredValue(
                    f"val_check_interval={interval} is longer than the epoch, which has "
                    f"{int(count)} batches: validation would never run; use at most that, or a "
                    "share of the epoch such as 0.5"
                )
            return interval
        if count == INFINITE:
            if interval == 1.0:
                return INFINITE
            raise MisconfiguredValue(
                f"val_check_interval={interval} is a share of the training epoch, whose length is "
                "unknown (as it is when using an IterableDataset): use 1.0 for its end, or an int "
                "for a number of batches"
            )
        return max(1, int(count * interval))


def batches_of(loader: Any) -> float:
    """How many batches ``loader`` has; infinity where it does not say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return INFINITE


def without_batches(what: str) -> str:
    """Say that a loader has no batches."""
    return (
        f"{what} has no batches, its length is 0: look at the length of its dataset, batch_size "
        "and drop_last, or pass limit_..._batches=0 where the loop is to be off"
    )


def limited(count: float, limit: float, name: str, *, floor: int) -> float:
    """``count`` after ``limit``: an int is a number of batches, a float a share of them.

    Raises:
        MisconfigurationException: for a share of an unknown number, or one below ``floor`` batches.
    """
    if limit == 0:
        return 0
    if isinstance(limit, int):
        return min(count, limit)
    if count == INFINITE:
        if limit == 1.0:
            return count
        raise MisconfiguredValue(
            f"{name}={limit} is a share of a loader whose length is unknown (as it is when using "
            "an IterableDataset): use an int for a number of batches"
        )
    batches = int(count * limit)
    if batches < floor and count:
        raise MisconfiguredValue(
            f"{name}={limit} of {int(count)} batches is less than one batch: use at least "
            f"{1 / count:.4g}, an int for a number of batches, or 0 to switch the loop off"
        )
    return batches


def unshuffled(loader: Any) -> Any:
    """The loader with its samples in order; a warning says so where it shuffled."""
    if not isinstance(loader, DataLoader) or not _shuffles(loader):
        return loader
    if not isinstance(loader.sampler, RandomSampler):
        raise MisconfiguredValue(
            f"overfit_batches needs the same batches every epoch, but the loader draws them with "
            f"{type(loader.sampler).__name__}: pass a loader without a sampler of its own"
        )
    warn(
        "overfit_batches uses the same batches in every epoch: shuffling "
        "of the training loader is off",
        UserWarning,
    )
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=SequentialSampler(loader.dataset),  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        persistent_workers=loader.persistent_workers,
    )


def _seed_workers(loader: Any) -> None:
    """Seed the workers' NumPy and Python streams too, where ``workers=True`` asked for it."""
    wanted = os.environ.get(WORKERS_VARIABLE) == "1"
    if wanted and isinstance(loader, DataLoader) and loader.worker_init_fn is None:
        loader.worker_init_fn = seed_worker


def _shuffles(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler)


def _defined(datamodule: Any, name: str) -> bool:
    return overrides(datamodule, name, LightningDataModule)


def datamodule_of(model: Any, given: Any) -> Any:
    """The data module of a run: the one given, else the one the module brings."""
    found = given if given is not None else getattr(model, "datamodule", None)
    if found is not None and not isinstance(found, LightningDataModule):
        raise MisconfigurationException(
            f"datamodule={found!r} is a {type(found).__module__}.{type(found).__name__}: derive it "
            "from leyden.LightningDataModule, or pass loaders by name"
        )
    return found
