"""Export a module to TorchScript and ONNX."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leyden.exceptions import MisconfiguredValue

__all__ = ["to_onnx", "to_torchscript"]


def to_torchscript(
    self: Any,
    file_path: str | Path | None = None,
    method: str | None = "script",
    example_inputs: Any = None,
    **kwargs: Any,
) -> Any:
    """Compile ``forward`` to TorchScript, in evaluation mode and without the run.

    Args:
        self: The module.
        file_path: Where to save it as well; None for nowhere.
        method: ``"script"`` or ``"trace"``.
        example_inputs: The input to trace with; None: ``example_input_array``.
        kwargs: For ``torch.jit.script`` or ``torch.jit.trace``.

    Returns:
        The compiled module.

    Raises:
        ValueError: An unknown method, or nothing to trace with.
    """
    if method not in ("script", "trace"):
        raise MisconfiguredValue(
            f"method={method!r} is unknown: to_torchscript only supports 'script' or 'trace'"
        )
    with as_deployed(self):
        if method == "script":
            compiled: Any = torch.jit.script(self, **kwargs)
        else:
            inputs = _example(
                self,
                example_inputs,
                "to_torchscript(method='trace') requires either `example_inputs` or "
                "`model.example_input_array` to run forward with: pass example_inputs",
            )
            compiled = torch.jit.trace(  # type: ignore[no-untyped-call]
                func=self, example_inputs=inputs, **kwargs
            )
    if file_path is not None:
        torch.jit.save(compiled, str(file_path))
    return compiled


def to_onnx(self: Any, file_path: str | Path, input_sample: Any = None, **kwargs: Any) -> None:
    """Write ``forward`` to an ONNX file, in evaluation mode and without the run.

    Args:
        self: The module.
        file_path: Where to write.
        input_sample: An input of ``forward``; None: ``example_input_array``.
        kwargs: For ``torch.onnx.export``.

    Raises:
        ImportError: A package that the export needs is not installed.
        ValueError: There is no input.
    """
    with as_deployed(self):
        inputs = _example(
            self,
            input_sample,
            "Could not export to ONNX since neither `input_sample` nor `model.example_input_array` "
            "attribute is set, and forward needs an input: pass input_sample",
        )
        if isinstance(inputs, dict):
            kwargs.setdefault("kwargs", inputs)
            inputs = ()
        elif not isinstance(inputs, tuple):
            inputs = (inputs,)
        try:
            torch.onnx.export(self, inputs, str(file_path), **kwargs)
        except ImportError as error:  # torch.onnx.OnnxExporterError hides it on some versions.
            raise ImportError(_onnx_missing(error)) from error
        except Exception as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, ImportError):
                raise ImportError(_onnx_missing(cause)) from error
            raise


def _onnx_missing(error: ImportError) -> str:
    name = error.name or "onnx"
    return f"to_onnx needs the package {name!r}, which is not installed: pip install 'leyden[onnx]'"


def _example(module: Any, given: Any, missing: str) -> Any:
    inputs = module.example_input_array if given is None else given
    if inputs is None:
        raise MisconfiguredValue(
            f"{missing}, or set example_input_array on {type(module).__name__}"
        )
    return module.transfer_batch_to_device(inputs, module.device)


@contextmanager
def as_deployed(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients and without its run, for a while.

    The mode of each submodule comes back: one that was in evaluation mode alone stays so.
    """
    modes = [(part, part.training) for part in module.modules()]
    hidden: dict[nn.Module, dict[str, Any]] = {
        part: {
            name: part.__dict__.pop(name)
            for name in ("trainer", "datamodule", "_recorder")
            if name in part.__dict__
        }
        for part in module.modules()
    }
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
        for part, attributes in hidden.items():
            part.__dict__.update(attributes)
