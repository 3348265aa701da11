"""Compile the steps of a module with ``torch.compile``, what logs among them left as it is."""

import difflib
import functools
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from leyden.backends.device_report import compiler
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue, NotBuilt

__all__ = ["Compilation", "compile_options", "unwrapped"]

#: What torch.compile takes beside the function.
_OPTIONS = ("backend", "disable", "dynamic", "fullgraph", "mode", "options")
_INDUCTOR = "inductor"
_NONE = object()


def compile_options(value: Any, name: str = "compile") -> dict[str, Any] | None:
    """Return the arguments of torch.compile that ``value`` stands for; None does not compile.

    Args:
        value: False, True, or a dict of arguments.
        name: for messages.

    Raises:
        MisconfigurationException: for anything else.
    """
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise MisconfiguredType(
            f"{name}={value!r} is a {type(value).__name__}: pass True, False, or a dict of "
            f"arguments of torch.compile ({', '.join(_OPTIONS)})"
        )
    for key in value:
        if key not in _OPTIONS:
            near = difflib.get_close_matches(str(key), _OPTIONS, n=1)
            raise MisconfiguredValue(
                f"{name} has the key {key!r}, which torch.compile does not take: "
                + (f"did you mean {near[0]!r}?" if near else f"pass {', '.join(_OPTIONS)}")
            )
    found = dict(value)
    backend = found.get("backend", _INDUCTOR)
    if isinstance(backend, str):
        torch_compiler: Any = torch.compiler
        known = torch_compiler.list_backends(None)
        if backend not in known:
            near = difflib.get_close_matches(backend, known, n=3)
            raise MisconfiguredValue(
                f"{name} names the backend {backend!r}, which torch does not know: "
                + (f"did you mean {' or '.join(map(repr, near))}?" if near else "")
                + f" 'inductor' is the usual one, 'aot_eager' needs no compiler ({len(known)} in "
                "all: torch.compiler.list_backends(None))"
            )
    return found


def why_not(options: Mapping[str, Any], device: torch.device | str) -> str:
    """Say what is missing here to compile so; empty where nothing is."""
    if options.get("backend", _INDUCTOR) != _INDUCTOR or options.get("disable"):
        return ""
    kind = torch.device(device).type
    if kind == "cpu" and compiler() is None:
        return (
            "torch's inductor calls a C++ compiler and finds none: install g++ or clang (or name "
            "one in CXX), or pass compile={'backend': 'aot_eager'}"
        )
    if kind == "cuda" and find_spec("triton") is None:
        return (
            "torch's inductor needs triton for a GPU: pip install triton, or pass "
            "compile={'backend': 'aot_eager'}"
        )
    return ""


def unwrapped(model: Any) -> tuple[Any, Callable[..., Any] | None]:
    """Take a module out of ``torch.compile(module)``.

    Returns:
        The module itself, and what compiles a function as the whole was to be compiled; None where
        nothing was.
    """
    within = getattr(model, "_orig_mod", None)
    if not isinstance(within, nn.Module) or not isinstance(model, nn.Module):
        return model, None
    context: Any = getattr(model, "dynamo_ctx", None)
    return within, context


class Compilation:
    """Compiles the steps of one run, and puts the module back as it was.

    ``self.log`` stays outside of the graph: within it values are put aside, and behind it they are
    logged. A step of manual optimization runs backward passes and optimizers, which are nothing to
    compile: there the module's ``forward`` is compiled, and the step calls ``self(x)``.

    Args:
        make: compiles a function.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._aside = _Aside()
        self._put: list[tuple[nn.Module, str]] = []

    @classmethod
    def with_options(
        cls, options: Mapping[str, Any], device: torch.device | str = "cpu"
    ) -> "Compilation":
        """Compile by ``torch.compile(function, **options)``.

        Raises:
            NotBuilt: where this machine has no compiler for it.
        """
        missing = why_not(options, device)
        if missing:
            raise NotBuilt(f"compile={dict(options) or True!r}: {missing}")
        return cls(lambda function: torch.compile(function, **options))

    def step(self, model: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a step of ``model`` as it is to run."""
        aside = self._aside
        put = aside.put  # one object, so that the compiler knows it again
        inside = self._make(_gathering(function, aside))

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            # In the class's place only while the graph runs: hooks around it log as ever.
            space = model.__dict__
            before = space.get("log", _NONE)
            space["log"] = put
            try:
                output = inside(*args, **kwargs)
            finally:
                if before is _NONE:
                    del space["log"]
                else:
                    space["log"] = before
            entries, aside.entries = aside.entries, []
            for logged, options in entries:
                model.log(*logged, **options)  # type: ignore[operator]
            return output

        return run

    def forward(self, model: nn.Module) -> None:
        """Compile what ``model(x)`` computes, until :meth:`release`.

        Raises:
            NotBuilt: where the module has no ``forward`` of its own.
        """
        if type(model).forward is nn.Module.forward:
            raise NotBuilt(
                f"{type(model).__name__} optimizes by hand, so not its training_step is compiled "
                "but its forward, and it has none: define forward and call self(x) in the step, "
                "or compile the parts in __init__, self.net = torch.compile(net)"
            )
        self._put.append((model, "forward"))
        model.__dict__["forward"] = self.step(model, model.forward)

    def release(self) -> None:
        """Put the module back as it was; what was compiled stays in torch's cache."""
        while self._put:
            module, name = self._put.pop()
            module.__dict__.pop(name, None)


class _Aside:
    """What a compiled step logs, until it is through."""

    def __init__(self) -> None:
        self.entries: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def put(self, *args: Any, **kwargs: Any) -> None:
        """Take the place of ``self.log``; the compiler sees a list that grows."""
        self.entries.append((args, kwargs))


def _gathering(function: Callable[..., Any], aside: _Aside) -> Callable[..., Any]:
    def inside(*args: Any, **kwargs: Any) -> Any:
        aside.entries = []
        return function(*args, **kwargs)

    return inside
