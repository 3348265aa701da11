"""Code written for Lightning 1.x, run through leyden.compat."""

import importlib
import json
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

import leyden
from leyden import arguments, compat, legacy, legacy_parts
from leyden.compat_gone import REFUSED
from leyden.compat_names import MODULES, REPLACEABLE
from leyden.module import LightningModule


@pytest.fixture
def pl() -> Iterator[Any]:
    compat.install(force=True)
    yield importlib.import_module("pytorch_lightning")
    compat.uninstall()


def test_the_package_is_leyden(pl: Any) -> None:
    assert pl.Trainer is leyden.Trainer
    assert pl.LightningModule is leyden.LightningModule
    assert pl.__version__ == "1.1.8"
    assert "pytorch_lightning" in sys.modules
    compat.install(force=True)  # a second time changes nothing
    assert sys.modules["pytorch_lightning"] is pl


@pytest.mark.parametrize(
    ("place", "name"),
    [("wandb", "wandb"), ("mlflow", "MlflowClient"), ("tensorboard", "SummaryWriter")],
)
def test_a_mock_of_a_loggers_package_is_what_the_logger_uses(
    pl: Any, place: str, name: str
) -> None:
    home = importlib.import_module(f"leyden.handlers.loggers.{place}")
    before = getattr(home, name)
    with mock.patch(f"pytorch_lightning.loggers.{place}.{name}") as put:
        assert getattr(home, name) is put
        assert getattr(sys.modules[f"pytorch_lightning.loggers.{place}"], name) is put
    assert getattr(home, name) is before and name not in vars(home)


#: The public names of every module of pytorch-lightning 1.1.8, read off its wheel.
NAMES = json.loads(
    (Path(__file__).parents[1] / "data" / "lightning118_names.json").read_text(encoding="utf-8")
)


@pytest.mark.filterwarnings("ignore:Importing .* from `torchmetrics:FutureWarning")
@pytest.mark.parametrize("below", NAMES)
def test_every_public_name_is_there_or_says_what_replaced_it(pl: Any, below: str) -> None:
    pytest.importorskip("torchmetrics")
    module = importlib.import_module(f"pytorch_lightning.{below}".rstrip("."))
    for name in NAMES[below]:
        try:
            getattr(module, name)
        except ImportError as error:
            said = str(error)
            assert name in said and len(said.split(": ", 1)[1]) > 10


@pytest.mark.parametrize("below", [name for name in MODULES if name])
def test_every_module_and_name_of_the_table_is_there(pl: Any, below: str) -> None:
    for start, package in (("metrics", "torchmetrics"), ("cli", "jsonargparse")):
        if below.split(".")[-1] == start or below.startswith(f"{start}."):
            pytest.importorskip(package)
    module = importlib.import_module(f"pytorch_lightning.{below}")
    for name in MODULES[below]:
        # None stands for a package that is not installed, as in Lightning 1.1.
        assert getattr(module, name) is not None or name in REPLACEABLE
    assert set(module.__all__) <= set(dir(module))


def test_a_part_of_lightning_can_be_named_but_not_used(pl: Any) -> None:
    from pytorch_lightning.accelerators import Accelerator
    from pytorch_lightning.plugins.ddp_plugin import DDPPlugin

    assert not isinstance(3, DDPPlugin)
    with pytest.raises(ImportError, match="DDPPlugin is not there in leyden: precision"):
        DDPPlugin(find_unused_parameters=True)
    with pytest.raises(ImportError, match="Mine derives from .*Accelerator.*leyden.backends"):
        type("Mine", (Accelerator,), {})
    with pytest.raises(AttributeError, match="Accelerator.barrier: .*leyden.backends"):
        Accelerator.barrier  # noqa: B018


def test_loggers_whose_package_is_missing_can_be_named(pl: Any) -> None:
    # As in 1.1.8, where the constructor is what needs the package.
    from pytorch_lightning.loggers import TensorBoardLogger, TestTubeLogger

    assert not isinstance(TensorBoardLogger("logs"), TestTubeLogger)
    with pytest.raises(ImportError, match="use TensorBoardLogger or CSVLogger"):
        TestTubeLogger("logs")


def test_what_is_known_of_packages_is_found_out_each_time(
    pl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leyden import legacy_flags

    assert pl.utilities.NATIVE_AMP_AVAILABLE is True
    assert pl.utilities.FAIRSCALE_PIPE_AVAILABLE is False
    monkeypatch.setattr(legacy_flags, "module_available", lambda name: name == "apex.amp")
    assert pl.utilities.APEX_AVAILABLE and not pl.utilities.HYDRA_AVAILABLE
    monkeypatch.setattr(legacy_flags, "module_available", lambda name: False)
    assert not pl.utilities.APEX_AVAILABLE


def test_submodules_are_reached_as_attributes(pl: Any) -> None:
    assert pl.callbacks.ModelCheckpoint is leyden.callbacks.ModelCheckpoint
    assert pl.utilities.exceptions.MisconfigurationException.__name__ == "MisconfigurationException"


def test_an_unknown_name_gets_the_nearest(pl: Any) -> None:
    with pytest.raises(AttributeError, match="did you mean ModelCheckpoint"):
        pl.callbacks.ModelCheckpoints  # noqa: B018
    with pytest.raises(ImportError, match="Trainers"):
        exec("from pytorch_lightning import Trainers", {})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_gone_says_what_to_use(pl: Any, name: str) -> None:
    with pytest.raises(ImportError, match=f"{name} is not there in leyden: .{{10}}"):
        exec(f"from pytorch_lightning import {name}", {})


def test_an_unknown_module_names_those_there_are(pl: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match="pytorch_lightning.callbacks.early_stopping"):
        importlib.import_module("pytorch_lightning.callbacks.nothing")


def test_an_installed_package_is_not_shadowed_unless_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", sys)
    with pytest.raises(ImportError, match="force=True"):
        compat.install()


SCRIPT = """
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        assert issubclass(pl.Trainer, object) and pl.__version__.startswith("1.1")
        return torch.ones(1) * index


def ask(rank, names):
    import leyden

    assert pl.Trainer is leyden.Trainer and issubclass(Callback, leyden.Callback)
    names.put(pl.__name__)


if __name__ == "__main__":
    loader = DataLoader(Numbers(), num_workers=1, multiprocessing_context="spawn")
    print("sum", sum(batch.item() for batch in loader))
    names = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(ask, (names,))
    print("child", names.get())
"""


@pytest.mark.slow
def test_children_that_are_not_forked_find_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "leyden", "run", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["sum", "6.0", "child", "pytorch_lightning"], done.stderr


def test_its_path_comes_and_goes() -> None:
    before = list(sys.path)
    compat.install()
    assert sys.path == [*before, compat.STAND_IN]
    compat.install()
    compat.uninstall()
    assert sys.path == before


SUITE = """
import pytorch_lightning as pl

def test_it() -> None:
    import leyden
    assert pl.Trainer is leyden.Trainer
"""


@pytest.mark.slow
def test_pytest_takes_it_as_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "leyden.compat",
        "-p",
        "no:cacheprovider",
        "test_suite.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_helpers_do_what_their_names_say() -> None:
    nested = {"a": [1, 2.0], "b": (3,)}
    assert legacy.apply_to_collection(nested, int, lambda value: value + 1) == {
        "a": [2, 2.0],
        "b": (4,),
    }
    assert legacy.flatten_dict({"a": {"b": 1}, "c": 2}) == {"b": 1, "c": 2}
    assert legacy.str_to_bool("Yes") is True and legacy.str_to_bool_or_str("maybe") == "maybe"
    with pytest.raises(ValueError, match="maybe"):
        legacy.str_to_bool("maybe")
    assert (
        legacy.DeviceType.GPU == "gpu"
        and legacy.AMPType.from_str("Native") is legacy.AMPType.NATIVE
    )
    assert not legacy.is_picklable(lambda: None)
    assert legacy.is_oom_error(RuntimeError("CUDA out of memory"))
    with pytest.raises(ValueError, match="the list has a length of 0 batches: look at"):
        legacy.has_len([])


def test_a_stream_that_names_a_length_has_one() -> None:
    class Named(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(3))

        def __len__(self) -> int:
            return 3

    with pytest.warns(UserWarning, match="Named is a stream with a length"):
        assert legacy.has_len(torch.utils.data.DataLoader(Named()))


def test_data_are_moved_as_the_module_says() -> None:
    calls: list[Any] = []

    class Moves(LightningModule):
        @legacy.auto_move_data
        def forward(self, x: Any, y: Any = None) -> Any:
            return x, y

        def transfer_batch_to_device(self, batch: Any, device: Any) -> Any:
            calls.append(type(batch))
            return batch

    assert Moves()(1, y=2) == (1, 2) and calls == [tuple, dict]

    class Other(torch.nn.Module):
        @legacy.auto_move_data
        def forward(self, x: Any) -> Any:
            return x

    assert Other()(3) == 3


def test_holders_of_an_attribute() -> None:
    module = LightningModule()
    assert legacy_parts.lightning_get_all_attr_holders(module, "rate") == []
    assert legacy_parts.lightning_get_first_attr_holder(module, "rate") is None
    module.rate = 1  # type: ignore[assignment]
    assert legacy_parts.lightning_get_all_attr_holders(module, "rate") == [module]


def test_an_attribute_is_that_of_the_data_module_first() -> None:
    class Model:
        trainer = SimpleNamespace(datamodule=SimpleNamespace(rate=3))
        hparams = SimpleNamespace(rate=2, width=5)
        rate = 1

    model = Model()
    assert legacy.lightning_getattr(model, "rate") == 3
    assert (
        legacy.lightning_hasattr(model, "width") and legacy.lightning_getattr(model, "width") == 5
    )
    legacy.lightning_setattr(model, "rate", 4)
    assert (model.rate, model.hparams.rate, model.trainer.datamodule.rate) == (4, 4, 4)
    assert not legacy.lightning_hasattr(model, "depth")
    with pytest.raises(ValueError, match="Model has no 'depth'"):
        legacy.lightning_getattr(model, "depth")


def test_variables_are_read_by_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        def __init__(self, width: int = 1, name: str = "") -> None: ...

    monkeypatch.setenv("X_MADE__WIDTH", "3")
    monkeypatch.setenv("PL_MADE_NAME", "n")
    found = arguments.parse_env_variables(Made, template="X_%(cls_name)s__%(cls_argument)s")
    assert vars(found) == {"width": 3}
    assert vars(arguments.parse_env_variables(Made)) == {"name": "n"}


def test_code_of_1_2_to_1_9_finds_what_changed_its_place(pl: Any) -> None:
    from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.profilers import PyTorchProfiler
    from pytorch_lightning.strategies import DDPStrategy
    from pytorch_lightning.utilities.rank_zero import rank_zero_info
    from pytorch_lightning.utilities.types import STEP_OUTPUT, TRAIN_DATALOADERS

    assert TQDMProgressBar(refresh_rate=5).refresh_rate == 5
    assert Logger is leyden.loggers.LightningLoggerBase
    assert RichProgressBar is leyden.callbacks.RichProgressBar
    assert PyTorchProfiler is leyden.profiler.PyTorchProfiler and callable(rank_zero_info)
    assert torch.Tensor in typing.get_args(STEP_OUTPUT) and typing.get_args(TRAIN_DATALOADERS)
    with pytest.raises(ImportError, match="strategy='ddp'"):
        DDPStrategy(find_unused_parameters=False)
