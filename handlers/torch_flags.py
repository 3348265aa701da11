"""Switches of torch that a run asks for, put back as they were when it ends."""

import os
from typing import Any

import torch

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue
from leyden.handlers.base import Handler

__all__ = ["TorchFlags"]

# cuBLAS is deterministic only with one of two workspace sizes; torch refuses to run without it.
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


class TorchFlags(Handler):
    """Sets torch's switches for reproducible or for measured algorithms, for the length of a run.

    Args:
        deterministic: True: torch and cuDNN use deterministic algorithms, and an operation that has
            none raises an error; ``"warn"``: it warns; False: the switches stay as they are.
        benchmark: cuDNN measures which algorithm is fastest for each shape. What it finds depends
            on the moment, so ``deterministic`` wins where both are given, as cuDNN itself has it.

    Runs on: FIT_STARTED, before everything else, and FIT_COMPLETED, after everything else; STARTED
    and the engine's ends where it has no such events. After an exception outside the engine call
    :meth:`release`.

    State: none; a run that is resumed sets them again.

    Source: ``deterministic`` and ``benchmark`` of Lightning 1.1, which leaves them set for the
        whole process.

    Example:
        >>> engine = Engine(lambda engine, batch: torch.are_deterministic_algorithms_enabled())
        >>> TorchFlags(deterministic=True).attach(engine)
        >>> engine.run([0]).output, torch.are_deterministic_algorithms_enabled()
        (True, False)
    """

    order = 1.0
    order_reason = "before everything that computes; put back (99) after everything"

    def __init__(self, *, deterministic: bool | str = False, benchmark: bool = False) -> None:
        super().__init__()
        if isinstance(deterministic, str) and deterministic != "warn":
            raise MisconfiguredValue(
                f"deterministic={deterministic!r} is unknown: pass True, False or 'warn'"
            )
        for name, value in (("deterministic", deterministic), ("benchmark", benchmark)):
            if not isinstance(value, (bool, str)) or (
                name == "benchmark" and value not in (True, False)
            ):
                raise MisconfiguredType(
                    f"{name}={value!r} is a {type(value).__name__}: pass True or False"
                )
        self.deterministic = deterministic
        self.benchmark = benchmark
        self._before: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        # An engine may know these events and never fire them: a Trainer's does.
        if getattr(engine.state, "trainer", None) is not None:
            self.listen(engine, TrainerEvents.FIT_STARTED, self.set)
            self.listen(engine, TrainerEvents.FIT_COMPLETED, self.restore, order=99)
            return
        self.listen(engine, Events.STARTED, self.set)
        for event in (Events.COMPLETED, Events.INTERRUPT, Events.TERMINATE):
            self.listen(engine, event, self.restore, order=99)
        # Listening here would hide the exception from the caller of a bare engine: raise it again.
        self._handles().append(
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._restore_and_raise)
        )

    def set(self, engine: Engine | None = None) -> None:
        """Set the switches; a second call changes nothing."""
        if self._before is not None:
            return
        cudnn = torch.backends.cudnn
        self._before = {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "cudnn.deterministic": cudnn.deterministic,
            "cudnn.benchmark": cudnn.benchmark,
            "workspace": os.environ.get(_WORKSPACE),
        }
        if self.benchmark:
            cudnn.benchmark = True
        if self.deterministic:
            cudnn.deterministic, cudnn.benchmark = True, False
            os.environ.setdefault(_WORKSPACE, ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=self.deterministic == "warn")

    def restore(self, engine: Engine | None = None) -> None:
        """Put every switch back; without a run nothing happens."""
        before, self._before = self._before, None
        if before is None:
            return
        cudnn = torch.backends.cudnn
        cudnn.deterministic, cudnn.benchmark = (
            before["cudnn.deterministic"],
            before["cudnn.benchmark"],
        )
        torch.use_deterministic_algorithms(before["algorithms"], warn_only=before["warn_only"])
        if before["workspace"] is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = before["workspace"]

    def release(self) -> None:
        """Put every switch back, however the run ended."""
        self.restore()

    def detach(self) -> None:
        """Stop listening; what is set is put back."""
        super().detach()
        self.restore()

    def _restore_and_raise(self, engine: Engine, error: BaseException) -> None:
        self.restore()
        raise error
