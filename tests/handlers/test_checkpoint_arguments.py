"""What ModelCheckpoint is given: bad arguments are refused with their values."""

from datetime import timedelta
from typing import Any

import pytest

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.model_checkpoint import ModelCheckpoint


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"save_top_k": -2, "monitor": "x"}, "save_top_k=-2"),
        ({"save_top_k": 2}, "save_top_k=2.*no monitor"),
        ({"save_top_k": 1.5, "monitor": "x"}, "save_top_k=1.5"),
        ({"filepath": "a", "dirpath": "b"}, "dirpath='b'.* says twice"),
        ({"filepath": "a", "filename": "b"}, "filename='b'.* says twice"),
        ({"monitor": 3}, "monitor=3"),
        ({"dirpath": 3}, "dirpath=3"),
        ({"period": 1, "every_n_epochs": 2}, "same twice"),
        ({"period": 1.5}, "period=1.5"),
        ({"every_n_train_steps": -1}, "every_n_train_steps=-1"),
        ({"train_time_interval": 30}, "train_time_interval=30"),
        ({"train_time_interval": timedelta(0)}, "not above 0"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(MisconfigurationException, match=text) as caught:
        ModelCheckpoint(**arguments)
    assert type(caught.value).__name__ == "MisconfigurationException"
