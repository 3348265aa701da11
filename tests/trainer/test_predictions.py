"""Files of predictions."""

from pathlib import Path

import pytest
import torch

from leyden.predictions import Predictions


def test_a_file_holds_a_dict_for_each_sample(tmp_path: Path) -> None:
    predictions = Predictions()
    for batch in range(2):
        predictions.add(str(tmp_path / "a" / "x.pt"), {"n": [batch, batch]})
        predictions.add(str(tmp_path / "a" / "x.pt"), {"x": torch.tensor([0.5, batch])})
    assert predictions.write() == [tmp_path / "a" / "x.pt"]
    rows = torch.load(tmp_path / "a" / "x.pt", weights_only=True)
    assert rows == [
        {"n": b, "x": torch.tensor(x)} for b, x in ((0, 0.5), (0, 0.0), (1, 0.5), (1, 1.0))
    ]
    assert predictions.write() == []


def test_samples_of_several_numbers_and_single_ones(tmp_path: Path) -> None:
    predictions = Predictions()
    predictions.add(str(tmp_path / "x.pt"), {"x": torch.ones(2, 3, requires_grad=True)})
    predictions.add(str(tmp_path / "y.pt"), {"y": torch.tensor(3.0)})
    predictions.write()
    rows = torch.load(tmp_path / "x.pt", weights_only=True)
    assert [row["x"].shape for row in rows] == [(3,), (3,)]
    # Not views: the file would hold the whole batch for each of them.
    assert rows[0]["x"].untyped_storage().nbytes() == 12
    assert torch.load(tmp_path / "y.pt", weights_only=True) == [{"y": torch.tensor(3.0)}]


def test_ranks_have_files_of_their_own(tmp_path: Path) -> None:
    predictions = Predictions()
    predictions.add(str(tmp_path / "x.pt"), {"x": [1]})
    assert predictions.write(rank=1, world_size=2) == [tmp_path / "x_rank_1.pt"]


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    predictions = Predictions()
    predictions.add(str(tmp_path / "x.pt"), {"x": [1, 2], "y": [1]})
    with pytest.raises(ValueError, match=r"'x': 2, 'y': 1"):
        predictions.write()
    assert not list(tmp_path.iterdir())


def test_a_single_number_is_refused() -> None:
    with pytest.raises(TypeError, match="'x' is of type int"):
        Predictions().add("x.pt", {"x": 3})
