"""The table of layers."""

from typing import Any

import pytest
import torch
from torch import nn

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.summary import LayerSummary, ModelSummary, human_readable


class Deep(nn.Module):
    def __init__(self, example: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        for parameter in self.body[0].parameters():
            parameter.requires_grad = False
        self.example_input_array = example

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x) + self.body(x)


def test_top_and_full_layers() -> None:
    top, full = ModelSummary(Deep(), "top"), ModelSummary(Deep(), "full")
    assert top.layer_names == ["layer", "body"]
    assert top.layer_types == ["Linear", "Sequential"]
    assert top.param_nums == [3, 13]
    assert full.layer_names == ["layer", "body", "body.0", "body.1", "body.2"]
    assert full.param_nums == [3, 13, 9, 0, 4]
    assert top.total_parameters == full.total_parameters == 16
    assert top.trainable_parameters == 7
    assert top.model_size == pytest.approx(64e-6)  # 16 numbers of 4 bytes.


@pytest.mark.parametrize(("depth", "count"), [(0, 0), (1, 2), (2, 5), (-1, 5)])
def test_depth_instead_of_a_mode(depth: int, count: int) -> None:
    assert len(ModelSummary(Deep(), max_depth=depth).layer_names) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "half"}, "mode='half' is unknown"),
        ({"mode": 1}, "mode=1 is unknown"),
        ({"mode": ["top"]}, "is unknown"),
        ({"mode": "full", "max_depth": 1}, "both"),
        ({"max_depth": -2}, "max_depth=-2"),
        ({"max_depth": True}, "max_depth=True"),
        ({"mode": "top", "flops": True}, "example_input_array"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        ModelSummary(Deep(), **arguments)


def test_sizes_come_from_the_example() -> None:
    summary = ModelSummary(Deep(torch.zeros(5, 2)), "full")
    assert summary.in_sizes == [[5, 2], [5, 2], [5, 2], [5, 3], [5, 3]]
    assert summary.out_sizes == [[5, 1], [5, 1], [5, 3], [5, 3], [5, 1]]
    assert ModelSummary(Deep(), "top").in_sizes == ["?", "?"]


class Odd(nn.Module):
    """Takes several inputs, and hands odd things to its layer."""

    class Inner(nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return {"x": x["a"], "rest": [y, "text"]}

    def __init__(self, example: Any) -> None:
        super().__init__()
        self.inner = self.Inner()
        self.example_input_array = example

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.inner({"a": x}, y)


@pytest.mark.parametrize("pack", [tuple, list, lambda xy: dict(zip("xy", xy, strict=True))])
def test_several_inputs_and_nested_sizes(pack: Any) -> None:
    example = pack((torch.zeros(1, 2), torch.zeros(3)))
    summary = ModelSummary(Odd(example), "top")
    assert summary.in_sizes == [[{"a": [1, 2]}, [3]]]
    assert summary.out_sizes == [{"x": [1, 2], "rest": [[3], "?"]}]


def test_it_leaves_modes_random_numbers_and_hooks_as_they_were() -> None:
    class Draws(Deep):
        def forward(self, x: torch.Tensor) -> Any:
            torch.rand(3)
            return super().forward(x)

    model = Draws(torch.zeros(5, 2))
    model.train()
    model.body[1].eval()
    before = torch.get_rng_state()
    ModelSummary(model, "full")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and not model.body[1].training
    assert not model.layer._forward_hooks
    assert model.layer.weight.grad is None


def test_modes_come_back_after_a_failing_forward() -> None:
    model = Deep(torch.zeros(5, 7))
    with pytest.raises(RuntimeError):
        ModelSummary(model, "top")
    assert model.training and not model.layer._forward_hooks


def test_lazy_and_shared_parameters() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3))
    assert ModelSummary(lazy, "top").param_nums == [0]
    lazy(torch.zeros(1, 2))
    assert ModelSummary(lazy, "top").param_nums == [9]
    layer = nn.Linear(2, 2)
    shared = nn.ModuleDict({"a": layer, "b": nn.Linear(2, 2)})
    shared["b"].weight = layer.weight
    summary = ModelSummary(shared, "top")
    assert summary.param_nums == [6, 6]
    assert summary.total_parameters == 8


def test_flops_by_layer() -> None:
    summary = ModelSummary(Deep(torch.zeros(5, 2)), "full", flops=True)
    counts = [layer.flops for layer in summary.summarize(flops=True).values()]
    # Two operations for each weight and sample.
    assert counts == [5 * 2 * 2, 5 * 2 * 9, 5 * 2 * 6, 0, 5 * 2 * 3]
    assert summary.total_flops == 5 * 2 * 11
    assert "FLOPs" in str(summary)


def test_the_text() -> None:
    text = str(ModelSummary(Deep(torch.zeros(5, 2)), "top"))
    assert text.splitlines() == [
        "  | Name  | Type       | Params | In sizes | Out sizes",
        "-" * 54,
        "0 | layer | Linear     | 3      | [5, 2]   | [5, 1]",
        "1 | body  | Sequential | 13     | [5, 2]   | [5, 1]",
        "-" * 54,
        "7         Trainable params",
        "9         Non-trainable params",
        "16        Total params",
        "0.000     Total estimated model size (MB)",
    ]
    assert str(ModelSummary(Deep(), None)).startswith("7         Trainable")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 K"),
        (999_499, "999 K"),
        (999_500, "1.0 M"),
        (12_345_678, "12.3 M"),
        (10**15, "1,000 T"),
        (5 * 10**17, "500,000 T"),
    ],
)
def test_numbers_for_people(number: int, text: str) -> None:
    assert human_readable(number) == text


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        human_readable(-1)


def test_a_layer_keeps_the_sizes_of_its_first_call() -> None:
    layer = LayerSummary(nn.Linear(2, 1))
    layer.see((torch.zeros(1, 2),), torch.zeros(1, 1))
    layer.see((torch.zeros(9, 2),), torch.zeros(9, 1))
    assert (layer.in_size, layer.out_size) == ([1, 2], [1, 1])


def test_without_a_mode_it_shows_the_layers_at_the_top() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.ReLU())
    assert ModelSummary(model).layer_names == ["0", "1"]
    assert ModelSummary(model, max_depth=2).layer_names == ["0", "0.0", "1"]
    assert ModelSummary(model, mode=None).layer_names == []
