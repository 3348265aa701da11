"""Play forward and backward pass back from a CUDA graph, captured once.

What a training step launches, hundreds of kernels, is then one launch: small models, whose kernels
are shorter than the time to launch them, gain most. The price: Python runs once. Shapes, the
batch's number and every branch are those of the captured batch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from leyden.engine.errors import NotBuilt

__all__ = ["GraphedStep"]

#: Steps that run as usual before the capture: libraries choose and load their kernels in them.
WARM = 3
_cuda: Any = torch.cuda  # whose types differ from one torch to the next


class Cuda:
    """What is asked of ``torch.cuda``; tests bring their own."""

    def side(self, device: torch.device) -> Any:
        """Make a stream."""
        return _cuda.Stream(device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Launch on a stream, which first waits for the current one, and the current for it."""
        return _On(stream)

    def capture(self, stream: Any, function: Callable[[], Sequence[Tensor]]) -> Callable[[], None]:
        """Capture what ``function`` launches; return what plays it back into the same tensors."""
        graph = _cuda.CUDAGraph()
        # Only this thread is held to what may be captured: a loader's goes on pinning memory.
        with _cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()
        replay: Callable[[], None] = graph.replay
        return replay


class _On:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._within = _cuda.stream(stream)

    def __enter__(self) -> None:
        self._stream.wait_stream(_cuda.current_stream())
        self._within.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._within.__exit__(*raised)
        _cuda.current_stream().wait_stream(self._stream)


class GraphedStep:
    """Forward and backward pass of an automatic training step with one optimizer.

    The first steps run as usual. Then one is captured, and from there on batches of its shape are
    copied into the captured one's place and played back; batches of another shape (the last of an
    epoch) run as usual. What ``self.log`` was given is logged after each playing back.

    Args:
        model: its parameters get the gradients.
        step: ``step(batch, ...)`` returns the loss, or a dict with it.
        device: a CUDA device.
        each: ``each(data, function)`` returns ``data`` with ``function`` of its tensors.
        cuda: stands in for ``torch.cuda``.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Callable[..., Any],
        device: torch.device,
        each: Callable[[Any, Callable[[Tensor], Any]], Any],
        *,
        cuda: Any = None,
    ) -> None:
        self.model = model
        self.step = step
        self.device = torch.device(device)
        self._each = each
        self._cuda = Cuda() if cuda is None else cuda
        self._stream: Any = None
        self._steps = 0
        self._replay: Callable[[], None] | None = None
        self._shape: Any = None
        self._places: list[Tensor] = []
        self._output: Any = None
        self._gradients: list[tuple[Any, Tensor]] = []
        self._logged: list[tuple[str, Tensor, tuple[Any, ...], dict[str, Any]]] = []

    @property
    def captured(self) -> bool:
        """Whether there is a graph already."""
        return self._replay is not None

    def forward(self, batch: Any, *rest: Any) -> Any:
        """Take the place of the step."""
        tensors = self._tensors(batch)
        shape = [(t.shape, t.dtype, t.device) for t in tensors]
        if self._replay is None:
            self._steps += 1
            if self._steps <= WARM:
                with self._side():
                    return self.step(batch, *rest)
            self._capture(batch, shape, *rest)
        elif shape != self._shape:
            return self.step(batch, *rest)
        assert self._replay is not None
        for place, tensor in zip(self._places, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        self._replay()
        for name, value, more, options in self._logged:
            self.model.log(name, value.clone(), *more, **options)  # type: ignore[operator]
        return self._each(self._output, lambda tensor: tensor.detach().clone())

    def backward(self, loss: Tensor, optimizer: Any, index: int, *args: Any, **kwargs: Any) -> None:
        """Take the place of ``loss.backward()``."""
        if loss.grad_fn is None and self.captured:
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
        elif self.captured:
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]
        else:
            with self._side():
                loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _side(self) -> AbstractContextManager[Any]:
        # All of it on the stream that will capture: what autograd keeps of a parameter belongs to
        # the stream that used it first.
        if self._stream is None:
            self._stream = self._cuda.side(self.device)
        within: AbstractContextManager[Any] = self._cuda.on(self._stream)
        return within

    def _tensors(self, batch: Any) -> list[Tensor]:
        found: list[Tensor] = []
        self._each(batch, found.append)
        return found

    def _capture(self, batch: Any, shape: Any, *rest: Any) -> None:
        held = self._each(batch, lambda tensor: tensor.detach().clone())
        self._places, self._shape = self._tensors(held), shape
        parameters = [p for p in self.model.parameters() if p.requires_grad]

        def function() -> list[Tensor]:
            for parameter in parameters:
                parameter.grad = None  # made anew, in the graph's memory
            self._logged = []
            self._output = self.step(held, *rest)
            loss = self._output["loss"] if isinstance(self._output, dict) else self._output
            if not isinstance(loss, Tensor):
                raise NotBuilt(
                    f"cuda_graph=True: training_step returned {loss!r} in the step that was to be "
                    "captured: every step must have a loss"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            self._gradients = [(p, p.grad) for p in parameters if p.grad is not None]
            made = [gradient for _, gradient in self._gradients]
            return [*self._tensors(self._output), *made, *(entry[1] for entry in self._logged)]

        name, space = type(self.model).__name__, self.model.__dict__
        before = space.get("log")
        space["log"] = self._note
        try:
            self._replay = self._cuda.capture(self._stream, function)
        except NotBuilt:
            raise
        except RuntimeError as error:
            raise NotBuilt(
                f"cuda_graph=True: the training_step of {name} cannot be captured ({error}). "
                "Nothing in it may wait for the device (.item(), print(tensor), .cpu(), if on a "
                "tensor) or depend on values in its shapes; leave cuda_graph out otherwise"
            ) from error
        finally:
            if before is None:
                space.pop("log", None)
            else:
                space["log"] = before

    def _note(self, name: str, value: Any, *more: Any, **options: Any) -> None:
        if not isinstance(value, Tensor):
            raise NotBuilt(
                f"cuda_graph=True: training_step logs {name!r} as {type(value).__name__}, which "
                "would stay as it was when the step was captured: log a tensor, or log it in "
                "on_train_batch_end"
            )
        self._logged.append((name, value.detach(), more, options))
