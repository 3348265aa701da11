"""The table of a model's layers: types, parameters, sizes, and what a forward pass costs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leyden.engine.errors import MisconfiguredValue

__all__ = ["LayerSummary", "ModelSummary", "depth_of", "human_readable"]

UNKNOWN_SIZE = "?"
_UNITS = ("", "K", "M", "B", "T")


class LayerSummary:
    """One layer of the table.

    Attributes:
        in_size: The shape of its input, of a list of shapes for several; ``"?"`` until it has run.
        out_size: The shape of its output.
        flops: Floating point operations of its part of the forward pass; None where not counted.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.in_size: Any = UNKNOWN_SIZE
        self.out_size: Any = UNKNOWN_SIZE
        self.flops: int | None = None

    @property
    def layer_type(self) -> str:
        """The name of the layer's class."""
        return str(getattr(self._module, "original_name", type(self._module).__name__))

    @property
    def num_parameters(self) -> int:
        """How many numbers the layer has; those of lazy layers count once they have run."""
        return _count(self._module)

    def see(self, inputs: Any, output: Any) -> None:
        """Note the shapes of the first call; a layer that is used again keeps them."""
        if self.in_size == UNKNOWN_SIZE:
            # Of a number, or of nothing, there is no shape to show.
            self.in_size = _size(inputs[0] if len(inputs) == 1 else list(inputs)) or UNKNOWN_SIZE
            self.out_size = _size(output) or UNKNOWN_SIZE


class ModelSummary:
    """The layers of a model with their types, parameters and sizes.

    Sizes are known if the model has an ``example_input_array``: it is run once, in evaluation mode
    and without gradients, and leaves modes and random numbers as they were.

    Args:
        model: The model.
        mode: ``"top"`` for its direct children, ``"full"`` for all layers, None for no layers.
        max_depth: How deep to look instead: 0 for no layers, 1 is ``"top"``, -1 is ``"full"``.
        flops: Count the floating point operations of the forward pass, by layer.

    Raises:
        MisconfigurationException: An unknown mode, both ``mode`` and ``max_depth``, or ``flops``
            without an ``example_input_array``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> summary = ModelSummary(model, mode="top")
        >>> summary.layer_names, summary.param_nums, summary.total_parameters
        (['0', '1'], [9, 0], 9)
    """

    MODE_TOP = "top"
    MODE_FULL = "full"
    MODE_DEFAULT = MODE_TOP
    MODES = (MODE_TOP, MODE_FULL)

    def __init__(
        self,
        model: nn.Module,
        mode: str | None = MODE_TOP,
        *,
        max_depth: int | None = None,
        flops: bool = False,
    ) -> None:
        self._model = model
        if max_depth is not None and mode == self.MODE_TOP:
            mode = None  # Only the default; any other mode beside a depth is refused.
        self.max_depth = depth_of(mode, max_depth)
        self.mode = mode
        self.total_flops: int | None = None
        if flops and self._example is None:
            raise MisconfiguredValue(
                f"flops=True needs an input for {type(model).__name__}: set example_input_array"
            )
        self._layers = self.summarize(flops)

    @property
    def named_modules(self) -> list[tuple[str, nn.Module]]:
        """The layers of the table, in the order in which the model holds them."""
        found = [(name, module) for name, module in self._model.named_modules() if name]
        if self.max_depth < 0:
            return found
        return [(name, module) for name, module in found if name.count(".") < self.max_depth]

    @property
    def layer_names(self) -> list[str]:
        """The layers' names within the model."""
        return list(self._layers)

    @property
    def layer_types(self) -> list[str]:
        """The layers' classes."""
        return [layer.layer_type for layer in self._layers.values()]

    @property
    def param_nums(self) -> list[int]:
        """The layers' numbers of parameters."""
        return [layer.num_parameters for layer in self._layers.values()]

    @property
    def in_sizes(self) -> list[Any]:
        """The shapes of the layers' inputs."""
        return [layer.in_size for layer in self._layers.values()]

    @property
    def out_sizes(self) -> list[Any]:
        """The shapes of the layers' outputs."""
        return [layer.out_size for layer in self._layers.values()]

    @property
    def total_parameters(self) -> int:
        """All parameters of the model; one that several layers share counts once."""
        return _count(self._model)

    @property
    def trainable_parameters(self) -> int:
        """Those that require a gradient."""
        return sum(_numel(p) for p in self._model.parameters() if p.requires_grad)

    @property
    def model_size(self) -> float:
        """Parameters and buffers in MB (10**6 bytes), as the types they have take."""
        held = [*self._model.parameters(), *self._model.buffers()]
        return sum(_numel(tensor) * tensor.element_size() for tensor in held) / 1e6

    def summarize(self, flops: bool = False) -> dict[str, LayerSummary]:
        """Look at the model again and return its layers by name.

        Args:
            flops: Count floating point operations as well.
        """
        layers = {name: LayerSummary(module) for name, module in self.named_modules}
        if self._example is not None:
            with _hooked(dict(self.named_modules), layers), _undisturbed(self._model):
                self._run(layers, flops)
        return layers

    @property
    def _example(self) -> Any:
        return getattr(self._model, "example_input_array", None)

    def _run(self, layers: dict[str, LayerSummary], flops: bool) -> None:
        inputs = self._example
        move = getattr(self._model, "transfer_batch_to_device", None)
        if move is not None:
            inputs = move(inputs, self._model.device)
        if not flops:
            _call(self._model, inputs)
            return
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with counter:
            _call(self._model, inputs)
        self.total_flops = int(counter.get_total_flops())
        counts = counter.get_flop_counts()
        for name, layer in layers.items():
            found = counts.get(f"{type(self._model).__name__}.{name}", {})
            layer.flops = int(sum(found.values()))

    def __str__(self) -> str:
        rows = [
            [str(i), name, layer.layer_type, human_readable(layer.num_parameters)]
            for i, (name, layer) in enumerate(self._layers.items())
        ]
        titles = ["", "Name", "Type", "Params"]
        if self._example is not None:
            titles += ["In sizes", "Out sizes"]
            for row, layer in zip(rows, self._layers.values(), strict=True):
                row += [str(layer.in_size), str(layer.out_size)]
        if self.total_flops is not None:
            titles.append("FLOPs")
            for row, layer in zip(rows, self._layers.values(), strict=True):
                row.append(human_readable(layer.flops or 0))
        lines = _table(titles, rows) if rows else []
        return "\n".join(lines + self._totals())

    def __repr__(self) -> str:
        return str(self)

    def _totals(self) -> list[str]:
        total, trainable = self.total_parameters, self.trainable_parameters
        facts = [
            (human_readable(trainable), "Trainable params"),
            (human_readable(total - trainable), "Non-trainable params"),
            (human_readable(total), "Total params"),
            (f"{self.model_size:.3f}", "Total estimated model size (MB)"),
        ]
        if self.total_flops is not None:
            facts.append((human_readable(self.total_flops), "FLOPs of a forward pass"))
        return [f"{value:<10}{what}" for value, what in facts]


def depth_of(mode: str | None, max_depth: int | None) -> int:
    """Return how many levels a mode, or a depth, shows; -1 for all.

    Raises:
        MisconfigurationException: There is no such mode or depth, or both were given.
    """
    if max_depth is not None:
        if mode is not None:
            raise MisconfiguredValue(
                f"both mode={mode!r} and max_depth={max_depth} were given: pass one of them"
            )
        if isinstance(max_depth, bool) or not isinstance(max_depth, int) or max_depth < -1:
            raise MisconfiguredValue(
                f"max_depth={max_depth!r} is no depth: pass -1 for all, 0 for none, 1 or more"
            )
        return max_depth
    depths = {None: 0, ModelSummary.MODE_TOP: 1, ModelSummary.MODE_FULL: -1}
    if not (mode is None or isinstance(mode, str)) or mode not in depths:
        raise MisconfiguredValue(
            f"mode={mode!r} is unknown: `mode` can be None, 'top' or 'full', got {mode}"
        )
    return depths[mode]


def _call(model: nn.Module, inputs: Any) -> None:
    if isinstance(inputs, dict):
        model(**inputs)
    elif isinstance(inputs, (list, tuple)):
        model(*inputs)
    else:
        model(inputs)


@contextmanager
def _hooked(modules: dict[str, nn.Module], layers: dict[str, LayerSummary]) -> Iterator[None]:
    """Have each layer note its sizes."""
    handles = []
    for name, module in modules.items():
        # A scripted module takes no hooks: its sizes stay unknown.
        if not isinstance(module, torch.jit.ScriptModule):
            layer = layers[name]
            handles.append(
                module.register_forward_hook(lambda _, i, o, layer=layer: layer.see(i, o))
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode; give modes and random numbers back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    used = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=list(used)), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _numel(tensor: Tensor) -> int:
    # A lazy layer's parameter has no shape before its first call.
    return 0 if nn.parameter.is_lazy(tensor) else tensor.numel()


def _count(module: nn.Module) -> int:
    return sum(_numel(parameter) for parameter in module.parameters())


def _size(data: Any) -> Any:
    """Return the shape of a tensor, of each part of a collection, ``"?"`` for anything else."""
    if isinstance(data, Tensor):
        return list(data.shape)
    if isinstance(data, (list, tuple)):
        return [_size(part) for part in data]
    if isinstance(data, dict):
        return {key: _size(part) for key, part in data.items()}
    return UNKNOWN_SIZE


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]

    def line(cells: list[str]) -> str:
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
        return " | ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 3 * (len(widths) - 1))
    return [line(titles), rule, *(line(row) for row in rows), rule]


def human_readable(number: int) -> str:
    """Shorten a number: at most three digits and a unit.

    Example:
        >>> [human_readable(n) for n in (123, 1234, 9_990_000)]
        ['123', '1.2 K', '10.0 M']
    """
    if number < 0:
        raise ValueError(f"{number} is negative: pass a count")
    value, unit = float(number), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    if unit == 0:
        return str(number)
    return f"{value:.1f} {_UNITS[unit]}" if value < 99.95 else f"{value:,.0f} {_UNITS[unit]}"
