"""LightningDataModule: data with everything that is needed to load it."""

import functools
import inspect
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from inspect import getattr_static
from typing import Any, ClassVar, TypeVar

from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.hparams import HyperParameters
from leyden.module_hooks import DataHooks

__all__ = ["LightningDataModule"]

_STAGES = ("fit", "validate", "test", "predict")
_Made = TypeVar("_Made", bound="LightningDataModule")


class LightningDataModule(DataHooks, HyperParameters):
    """Download, split and load data, apart from the model that is trained on it.

    ``prepare_data`` and ``setup`` are noted however they are called: the Trainer does not repeat
    what was done by hand. An overridden ``teardown(stage)`` makes ``setup`` of it due again.

    Args:
        train_transforms: For the user's own use in ``setup``.
        val_transforms: As ``train_transforms``.
        test_transforms: As ``train_transforms``.
        dims: The shape of a sample.

    Attributes:
        trainer: The Trainer that uses it; None before. Left out of pickles and copies.
        name: A name for tables and folders.

    Example:
        >>> class Numbers(LightningDataModule):
        ...     def setup(self, stage=None):
        ...         self.numbers = list(range(4))
        ...     def train_dataloader(self):
        ...         return DataLoader(self.numbers, batch_size=2)
        >>> data = Numbers()
        >>> data.setup("fit")
        >>> data.has_setup_fit, data.has_setup_test
        (True, False)
    """

    name: ClassVar[str | None] = None
    trainer: Any = None
    # On the class, so that a subclass need not call super().__init__().
    _prepared: bool = False
    _ready: frozenset[str] = frozenset()
    _train_transforms: Any = None
    _val_transforms: Any = None
    _test_transforms: Any = None
    _dims: tuple[int, ...] | None = None

    def __init__(
        self,
        train_transforms: Any = None,
        val_transforms: Any = None,
        test_transforms: Any = None,
        dims: tuple[int, ...] | None = None,
    ) -> None:
        self._train_transforms = train_transforms
        self._val_transforms = val_transforms
        self._test_transforms = test_transforms
        self._dims = dims

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, note in _NOTES.items():
            found = getattr_static(cls, name)
            # Found by way of the MRO: it may come from a mixin that is no data module.
            if inspect.isfunction(found) and not hasattr(found, "_noted"):
                if found is not getattr_static(LightningDataModule, name):
                    setattr(cls, name, _noting(found, note))

    def prepare_data(self) -> None:
        """Download and write files. Runs in one process only, so assign nothing to ``self``."""
        _note_prepared(self)

    def setup(self, stage: str | None = None) -> None:
        """Build the datasets. Runs in every process, once for each stage.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``; None for all.
        """
        _note_setup(self, stage)

    @property
    def has_prepared_data(self) -> bool:
        """Whether ``prepare_data`` was called."""
        return self._prepared

    @property
    def has_setup_fit(self) -> bool:
        """Whether ``setup`` was called for ``"fit"``, or for all stages."""
        return "fit" in self._ready

    @property
    def has_setup_validate(self) -> bool:
        """Whether ``setup`` was called for ``"validate"``, or for all stages."""
        return "validate" in self._ready

    @property
    def has_setup_test(self) -> bool:
        """Whether ``setup`` was called for ``"test"``, or for all stages."""
        return "test" in self._ready

    @property
    def has_setup_predict(self) -> bool:
        """Whether ``setup`` was called for ``"predict"``, or for all stages."""
        return "predict" in self._ready

    @property
    def train_transforms(self) -> Any:
        """What the user gave for training data."""
        return self._train_transforms

    @train_transforms.setter
    def train_transforms(self, value: Any) -> None:
        self._train_transforms = value

    @property
    def val_transforms(self) -> Any:
        """What the user gave for validation data."""
        return self._val_transforms

    @val_transforms.setter
    def val_transforms(self, value: Any) -> None:
        self._val_transforms = value

    @property
    def test_transforms(self) -> Any:
        """What the user gave for test data."""
        return self._test_transforms

    @test_transforms.setter
    def test_transforms(self, value: Any) -> None:
        self._test_transforms = value

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of a sample; empty until it is set."""
        return () if self._dims is None else self._dims

    @dims.setter
    def dims(self, value: tuple[int, ...]) -> None:
        self._dims = value

    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        """Return the shape of a sample, or its length in one dimension.

        Args:
            dim: The dimension; None for the shape.
        """
        return self.dims if dim is None else self.dims[dim]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint shall keep of the data; plain values and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""

    @classmethod
    def from_datasets(
        cls: type[_Made],
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> _Made:
        """Make a data module of datasets; training data are shuffled.

        Args:
            train_dataset: A dataset, or a list or dict of datasets; None for no such loader.
            val_dataset: As ``train_dataset``.
            test_dataset: As ``train_dataset``.
            predict_dataset: As ``train_dataset``.
            batch_size: Samples in a batch.
            num_workers: Processes that load.
            kwargs: For the constructor of the class.
        """
        made = cls(**kwargs)
        options = {"batch_size": batch_size, "num_workers": num_workers}
        for hook, dataset, shuffle in (
            ("train_dataloader", train_dataset, True),
            ("val_dataloader", val_dataset, False),
            ("test_dataloader", test_dataset, False),
            ("predict_dataloader", predict_dataset, False),
        ):
            if dataset is not None:
                # Functions of the module, not closures: the data module can be pickled.
                setattr(made, hook, functools.partial(_loaders, dataset, shuffle, options))
        return made

    @classmethod
    def add_argparse_args(cls, parent_parser: ArgumentParser, **kwargs: Any) -> ArgumentParser:
        """Add an option for each argument of the constructor that the parser does not have yet."""
        from leyden.arguments import add_argparse_args

        known = [action.dest for action in parent_parser._actions]
        return add_argparse_args(cls, parent_parser, known=known, **kwargs)

    @classmethod
    def from_argparse_args(cls: type[_Made], args: Namespace, **kwargs: Any) -> _Made:
        """Make a data module of parsed options.

        Args:
            args: What the parser returned; options of others are passed over.
            kwargs: Arguments that win over the options.
        """
        from leyden.arguments import from_argparse_args

        return from_argparse_args(cls, args, **kwargs)

    @classmethod
    def parse_argparser(cls, arg_parser: ArgumentParser | Namespace) -> Namespace:
        """Parse the command line, or take what was parsed; a flag without a value is True."""
        from leyden.arguments import parse_argparser

        return parse_argparser(cls, arg_parser)

    @classmethod
    def match_env_arguments(cls) -> Namespace:
        """Give the arguments that the environment sets, such as ``PL_MYDATA_BATCH_SIZE=8``."""
        from leyden.arguments import match_env_arguments

        return match_env_arguments(cls)

    @classmethod
    def default_attributes(cls) -> dict[str, Any]:
        """Give every argument of the constructor that has a default, with it."""
        from leyden.arguments import default_attributes

        return default_attributes(cls)

    @classmethod
    def get_init_arguments_and_types(cls) -> list[tuple[str, tuple[type, ...], Any]]:
        """Give (name, types, default) of every argument of the constructor."""
        from leyden.arguments import get_init_arguments_and_types

        return get_init_arguments_and_types(cls)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("trainer", None)
        return state


def _loaders(dataset: Any, shuffle: bool, options: Mapping[str, Any]) -> Any:
    if isinstance(dataset, Mapping):
        return {key: _loaders(part, shuffle, options) for key, part in dataset.items()}
    if isinstance(dataset, (list, tuple)) and any(isinstance(part, Dataset) for part in dataset):
        return [_loaders(part, shuffle, options) for part in dataset]
    mixed = shuffle and not isinstance(dataset, IterableDataset)
    samples: Any = dataset  # a plain list of samples is a dataset itself
    return DataLoader(samples, shuffle=mixed, **options)


def _noting(hook: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    """Wrap a hook of a subclass so that ``note`` hears of each call that returns."""

    @functools.wraps(hook)
    def noted(self: LightningDataModule, *args: Any, **kwargs: Any) -> Any:
        before = self._prepared, self._ready
        try:
            result = hook(self, *args, **kwargs)
        except BaseException:
            # The default body may have run by super(): it counts only if the whole hook went well.
            self._prepared, self._ready = before
            raise
        note(self, *args, **kwargs)
        return result

    noted._noted = True  # type: ignore[attr-defined]
    return noted


def _note_prepared(data: LightningDataModule, *args: Any, **kwargs: Any) -> None:
    data._prepared = True


def _note_setup(data: LightningDataModule, *args: Any, **kwargs: Any) -> None:
    data._ready |= _stages(*args, **kwargs)


def _note_teardown(data: LightningDataModule, *args: Any, **kwargs: Any) -> None:
    data._ready -= _stages(*args, **kwargs)


def _stages(stage: Any = None, *args: Any, **kwargs: Any) -> frozenset[str]:
    """Name the stages a call is for. Lightning 1.1's "fit" includes validation."""
    if stage is None:
        return frozenset(_STAGES)
    return frozenset(("fit", "validate") if stage == "fit" else (str(stage),))


_NOTES: dict[str, Callable[..., None]] = {
    "prepare_data": _note_prepared,
    "setup": _note_setup,
    "teardown": _note_teardown,
}
