"""LightningDataModule."""

import pickle
from argparse import ArgumentParser
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.datamodule import LightningDataModule
from leyden.module import LightningModule
from leyden.overrides import overrides


class Data(LightningDataModule):
    def __init__(self, width: int = 2, fail: bool = False) -> None:
        super().__init__()
        self.width = width
        self.fail = fail
        self.calls: list[Any] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare")

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.calls.append(stage)
        if self.fail:
            raise LookupError("no data")


def flags(data: LightningDataModule) -> list[bool]:
    return [
        data.has_prepared_data,
        data.has_setup_fit,
        data.has_setup_validate,
        data.has_setup_test,
        data.has_setup_predict,
    ]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda d: None, [False] * 5),
        (lambda d: d.prepare_data(), [True, False, False, False, False]),
        (lambda d: d.setup("fit"), [False, True, True, False, False]),
        (lambda d: d.setup(stage="validate"), [False, False, True, False, False]),
        (lambda d: d.setup(stage="test"), [False, False, False, True, False]),
        (lambda d: d.setup("predict"), [False, False, False, False, True]),
        (lambda d: d.setup(), [False, True, True, True, True]),
        (lambda d: d.setup(None), [False, True, True, True, True]),
        (lambda d: Data.setup(d, "test"), [False, False, False, True, False]),
    ],
)
def test_calls_are_noted(call: Any, expected: list[bool]) -> None:
    data = Data()
    call(data)
    assert flags(data) == expected


class Grandchild(Data):
    def setup(self, stage: str | None = None) -> None:
        super().setup("fit" if stage is None else stage)


class Mixin:
    def setup(self, stage: Any = None) -> None:
        self.mixed = stage


class Mixed(Mixin, LightningDataModule):
    pass


class Careless(LightningDataModule):
    def __init__(self) -> None:
        pass

    def setup(self) -> None:  # type: ignore[override]
        pass


def test_calls_are_noted_in_every_kind_of_class() -> None:
    default, grandchild, mixed, careless = LightningDataModule(), Grandchild(), Mixed(), Careless()
    default.setup("test")
    default.prepare_data()
    assert flags(default) == [True, False, False, True, False]
    grandchild.setup()
    assert flags(grandchild)[1:] == [True] * 4 and grandchild.calls == ["fit"]
    mixed.setup("fit")
    assert mixed.mixed == "fit" and mixed.has_setup_fit and not mixed.has_setup_test
    careless.setup()
    assert careless.has_setup_fit


def test_a_setup_that_fails_is_not_done() -> None:
    data = Data(fail=True)
    data.prepare_data()
    with pytest.raises(LookupError):
        data.setup("fit")
    assert flags(data) == [True, False, False, False, False]


def test_an_overridden_teardown_makes_setup_due_again() -> None:
    class Tears(Data):
        def teardown(self, stage: str | None = None) -> None:
            self.calls.append("teardown")

    plain, tears = Data(), Tears()
    for data in (plain, tears):
        data.setup()
        data.teardown("fit")
    assert plain.has_setup_fit
    assert not tears.has_setup_fit and tears.has_setup_test


def test_noting_hides_no_override() -> None:
    assert overrides(Data(), "setup", LightningDataModule)
    assert not overrides(Data(), "teardown", LightningDataModule)
    assert not overrides(LightningDataModule(), "setup", LightningDataModule)
    assert Data.setup.__name__ == "setup"


def test_transforms_and_dims() -> None:
    data = LightningDataModule(train_transforms="t", val_transforms="v", test_transforms="x")
    assert [data.train_transforms, data.val_transforms, data.test_transforms] == ["t", "v", "x"]
    assert data.dims == data.size() == ()
    data.dims = (1, 28, 28)
    assert data.size() == (1, 28, 28) and data.size(1) == 28
    data.train_transforms, data.val_transforms, data.test_transforms = "a", "b", "c"
    assert [data.train_transforms, data.val_transforms, data.test_transforms] == ["a", "b", "c"]
    assert data.trainer is None


def test_state_and_hooks_do_nothing_by_default() -> None:
    data = LightningDataModule()
    assert data.state_dict() == {}
    data.load_state_dict({})
    assert data.train_dataloader() is data.predict_dataloader() is None
    batch = [torch.ones(1)]
    assert (
        data.on_before_batch_transfer(batch, 0) is data.on_after_batch_transfer(batch, 0) is batch
    )
    assert data.transfer_batch_to_device(batch, torch.device("meta"))[0].device.type == "meta"


class Numbers(Dataset[int]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        return i


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def order(loader: Any) -> list[int]:
    return [int(i) for batch in loader for i in batch]


def test_from_datasets() -> None:
    data = Data.from_datasets(Numbers(50), [Numbers(2), Numbers(3)], batch_size=4, width=5)
    assert data.width == 5
    torch.manual_seed(0)
    train = order(data.train_dataloader())
    assert sorted(train) == list(range(50)) and train != list(range(50))
    loaders: list[DataLoader[int]] = data.val_dataloader()
    assert [order(loader) for loader in loaders] == [[0, 1], [0, 1, 2]]
    assert loaders[0].batch_size == 4
    assert data.test_dataloader() is None
    assert overrides(data, "train_dataloader", LightningDataModule)
    assert not overrides(data, "test_dataloader", LightningDataModule)


def test_from_datasets_of_other_kinds() -> None:
    data = LightningDataModule.from_datasets(
        Stream(), predict_dataset={"a": Numbers(2)}, test_dataset=[7, 8]
    )
    assert order(data.train_dataloader()) == [0, 1, 2]
    assert order(data.test_dataloader()) == [7, 8]  # A list of samples is a dataset.
    assert list(data.predict_dataloader()) == ["a"]
    again = pickle.loads(pickle.dumps(data))
    assert order(again.train_dataloader()) == [0, 1, 2]


def test_a_copy_leaves_the_trainer_behind() -> None:
    data = Data(width=3)
    data.trainer = lambda: "cannot be pickled"
    data.setup("fit")
    again = pickle.loads(pickle.dumps(data))
    assert again.trainer is None and again.width == 3 and again.has_setup_fit


def test_command_line() -> None:
    parser = Data.add_argparse_args(ArgumentParser())
    data = Data.from_argparse_args(parser.parse_args(["--width", "7"]), fail=True)
    assert (data.width, data.fail) == (7, True)


def test_command_lines_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pictures(LightningDataModule):
        """Pictures in a folder.

        Args:
            root: where they are.
            batch_size: pictures in a batch.
            shuffle: whether training mixes them.
        """

        def __init__(self, root: str, batch_size: int = 32, shuffle: bool = True) -> None:
            super().__init__()
            self.given = (root, batch_size, shuffle)

    parser = Pictures.add_argparse_args(ArgumentParser())
    line = ["--root", "here", "--shuffle", "false"]
    assert Pictures.from_argparse_args(parser.parse_args(line)).given == ("here", 32, False)
    bare = Pictures.parse_argparser(parser.parse_args(["--root", "here", "--shuffle"]))
    assert bare.shuffle is True
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "where they are. (str, required)" in told
    assert "pictures in a batch. (int, default: 32)" in told
    assert "whether training mixes them. (bool, default: True)" in told
    assert Pictures.default_attributes() == {"batch_size": 32, "shuffle": True}
    names = [name for name, _, _ in Pictures.get_init_arguments_and_types()]
    assert names == ["root", "batch_size", "shuffle"]
    monkeypatch.setenv("PL_PICTURES_BATCH_SIZE", "8")
    assert vars(Pictures.match_env_arguments()) == {"batch_size": 8}


def test_an_option_that_the_parser_has_is_not_added_again() -> None:
    parser = ArgumentParser()
    parser.add_argument("--width", type=int, default=9)
    parsed = Data.add_argparse_args(parser).parse_args(["--fail"])
    assert (parsed.width, parsed.fail) == (9, True)
    assert Data.from_argparse_args(parsed).width == 9


def test_a_batch_goes_to_the_owners_device_when_none_is_named() -> None:
    batch = [torch.ones(2)]
    assert Data().transfer_batch_to_device(batch) is batch
    assert LightningModule().transfer_batch_to_device(batch)[0] is batch[0]
