"""``pytorch_lightning.metrics`` of 1.1 over torchmetrics, which took them over and changed them.

The names of 1.1 with its arguments: ``Accuracy()`` needs no task, ``compute_on_step`` is known, and
what is predicted may be labels, probabilities or logits with one more dimension. Classes are made
when they are first asked for, since torchmetrics is an extra.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from leyden.legacy_scores import confusion, counted, fraction, labels, precision_recall_f

__all__ = ["BINARY", "CLASSES", "make", "psnr", "ssim"]

#: name of 1.1 -> name in torchmetrics, where arguments are the same but for ``compute_on_step``.
RENAMED = {
    "ExplainedVariance": "ExplainedVariance",
    "MeanAbsoluteError": "MeanAbsoluteError",
    "MeanSquaredError": "MeanSquaredError",
    "MeanSquaredLogError": "MeanSquaredLogError",
    "PSNR": "PeakSignalNoiseRatio",
    "SSIM": "StructuralSimilarityIndexMeasure",
}
#: name of 1.1 -> name in torchmetrics, where a task has to be said today.
CURVES = {"ROC": "ROC", "PrecisionRecallCurve": "PrecisionRecallCurve", "AveragePrecision": ""}
BINARY = ("auroc", "average_precision", "precision_recall_curve", "roc")
CLASSES = (
    "Accuracy",
    "AveragePrecision",
    "ConfusionMatrix",
    "ExplainedVariance",
    "F1",
    "FBeta",
    "Fbeta",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MeanSquaredLogError",
    "Metric",
    "PSNR",
    "Precision",
    "PrecisionRecallCurve",
    "ROC",
    "Recall",
    "SSIM",
)


def make(name: str) -> Any:
    """The class ``name`` of ``pytorch_lightning.metrics``."""
    return _classes()[name]


def _binary(name: str) -> Callable[..., Any]:
    today = getattr(import_module("torchmetrics.functional.classification"), f"binary_{name}")

    def function(pred: Tensor, target: Tensor, **kwargs: Any) -> Any:
        if kwargs.pop("pos_label", 1) not in (None, 1) or kwargs.pop("sample_weight", None):
            raise ValueError(
                f"{name} is there without pos_label and sample_weight: let the positive class be "
                "1, and leave both out"
            )
        return today(pred, target.long(), **kwargs)

    function.__name__, function.__doc__ = name, f"{name} of Lightning 1.1, for two classes."
    return function


def psnr(pred: Tensor, target: Tensor, data_range: float | None = None, **kwargs: Any) -> Tensor:
    """The peak signal-to-noise ratio; ``data_range`` is that of the target unless it is given."""
    found: Tensor = import_module("torchmetrics.functional.image").peak_signal_noise_ratio(
        pred,
        target,
        float(target.max() - target.min()) if data_range is None else data_range,
        **kwargs,
    )
    return found


def ssim(pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The structural similarity of images."""
    image = import_module("torchmetrics.functional.image")
    found: Tensor = image.structural_similarity_index_measure(pred, target, *args, **kwargs)
    return found


def __getattr__(name: str) -> Any:
    if name in BINARY:
        return _binary(name)
    if name not in CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return make(name)


@functools.lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    torchmetrics = import_module("torchmetrics")
    found = {
        **_own(torchmetrics.Metric),
        **{name: _renamed(_found(torchmetrics, today)) for name, today in RENAMED.items()},
        **{name: _curve(torchmetrics, name) for name in CURVES},
    }
    for name, made in found.items():
        # Found again by pickle, through __getattr__.
        made.__module__, made.__qualname__ = __name__, name
    return {**found, "Fbeta": found["FBeta"]}


def _found(torchmetrics: Any, name: str) -> Any:
    # At its own place: from the package itself those of images warn.
    image = import_module("torchmetrics.image")
    return getattr(image, name, None) or getattr(torchmetrics, name)


def _older(today: Any) -> Any:
    class Older(today):  # type: ignore[misc]
        """Forgets what it was computed of, and keeps ``compute_on_step``, as in Lightning 1.1."""

        compute_on_step = True
        _of_batch = False
        _computed: Any

        def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
            inner = super()._wrap_compute(compute)

            @functools.wraps(compute)
            def once(*args: Any, **kwargs: Any) -> Any:
                if self._of_batch:  # torchmetrics puts back, or adds, what came before
                    return inner(*args, **kwargs)
                if self._computed is None:
                    value = inner(*args, **kwargs)
                    self.reset()
                    self._computed = value
                return self._computed

            return once

        def reset(self) -> None:
            """Put the states back, a list that ``compute`` made one tensor of as well."""
            for name, default in self._defaults.items():
                if isinstance(default, list) and not isinstance(getattr(self, name), list):
                    setattr(self, name, [])
            super().reset()

        @torch.jit.unused  # what is exported may hold metrics
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            """Update, and give the value of this batch unless ``compute_on_step`` is False."""
            if not self.compute_on_step:
                self.update(*args, **kwargs)
                return None
            self._of_batch = True
            try:
                return super().forward(*args, **kwargs)
            finally:
                self._of_batch = False

    return Older


def _own(base: Any) -> dict[str, Any]:
    class Metric(_older(base)):  # type: ignore[misc]
        """A metric with the constructor of Lightning 1.1; states are added as in torchmetrics."""

        full_state_update = True

        def __init__(
            self,
            compute_on_step: bool = True,
            dist_sync_on_step: bool = False,
            process_group: Any = None,
            dist_sync_fn: Callable[..., Any] | None = None,
        ) -> None:
            super().__init__(
                dist_sync_on_step=dist_sync_on_step,
                process_group=process_group,
                dist_sync_fn=dist_sync_fn,
            )
            self.compute_on_step = compute_on_step

    class Accuracy(Metric):
        """The share of labels that are right."""

        full_state_update = False

        def __init__(self, threshold: float = 0.5, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_state("correct", default=torch.tensor(0), dist_reduce_fx="sum")
            self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")
            self.threshold = threshold

        def update(self, preds: Tensor, target: Tensor) -> None:
            """Count one batch."""
            predicted, expected = labels(preds, target, self.threshold)
            self.correct += (predicted == expected).sum()
            self.total += expected.numel()

        def compute(self) -> Tensor:
            """The share so far."""
            return fraction(self.correct, self.total)

    class FBeta(Metric):
        """The weighted harmonic mean of precision and recall."""

        full_state_update = False
        kind = "f"

        def __init__(
            self,
            num_classes: int,
            beta: float = 1.0,
            threshold: float = 0.5,
            average: str | None = "micro",
            multilabel: bool = False,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            super().__init__(*args, **kwargs)
            if average not in ("micro", "macro", "none", None):
                raise ValueError(f"average={average!r} is unknown: pass 'micro', 'macro' or None")
            self.num_classes, self.threshold = num_classes, threshold
            self.average, self.multilabel, self.beta = average, multilabel, beta
            for name in ("true_positives", "predicted_positives", "actual_positives"):
                self.add_state(name, default=torch.zeros(num_classes), dist_reduce_fx="sum")

        def update(self, preds: Tensor, target: Tensor) -> None:
            """Count one batch."""
            counts = counted(preds, target, self.num_classes, self.threshold, self.multilabel)
            self.true_positives += counts[0]
            self.predicted_positives += counts[1]
            self.actual_positives += counts[2]

        def compute(self) -> Tensor:
            """The score so far."""
            counts = (self.true_positives, self.predicted_positives, self.actual_positives)
            return precision_recall_f(self.kind, *counts, beta=self.beta, average=self.average)

    class F1(FBeta):
        """The harmonic mean of precision and recall."""

        def __init__(self, num_classes: int, threshold: float = 0.5, *args: Any, **kw: Any) -> None:
            super().__init__(num_classes, 1.0, threshold, *args, **kw)

    class Precision(FBeta):
        """How many of those that were found are right."""

        kind = "precision"

        def __init__(self, num_classes: int = 1, threshold: float = 0.5, *a: Any, **k: Any) -> None:
            super().__init__(num_classes, 1.0, threshold, *a, **k)

    class Recall(Precision):
        """How many of those that are there were found."""

        kind = "recall"

    class ConfusionMatrix(Metric):
        """How often each class was taken for each other: ``[actual, predicted]``."""

        full_state_update = False

        def __init__(
            self,
            num_classes: int,
            normalize: str | None = None,
            threshold: float = 0.5,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            super().__init__(*args, **kwargs)
            self.num_classes, self.normalize, self.threshold = num_classes, normalize, threshold
            size = (num_classes, num_classes)
            self.add_state("confmat", default=torch.zeros(size), dist_reduce_fx="sum")

        def update(self, preds: Tensor, target: Tensor) -> None:
            """Count one batch."""
            self.confmat += confusion(preds, target, self.num_classes, None, self.threshold)

        def compute(self) -> Tensor:
            """The matrix so far."""
            return confusion(self.confmat, None, self.num_classes, self.normalize)

    made = (Metric, Accuracy, FBeta, F1, Precision, Recall, ConfusionMatrix)
    return {kind.__name__: kind for kind in made}


def _renamed(today: Any) -> Any:
    class Renamed(_older(today)):  # type: ignore[misc]
        __doc__ = today.__doc__

        def __init__(self, *args: Any, compute_on_step: bool = True, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.compute_on_step = compute_on_step

    Renamed.__name__ = today.__name__
    return Renamed


def _curve(torchmetrics: Any, name: str) -> Any:
    def curve(
        num_classes: int | None = None,
        pos_label: int | None = None,
        compute_on_step: bool = True,
        **kwargs: Any,
    ) -> Any:
        if pos_label not in (None, 1):
            raise ValueError(
                f"{name}(pos_label={pos_label}) is not there in torchmetrics: let the positive "
                "class be 1"
            )
        several = num_classes is not None and num_classes > 1
        kind = f"{'Multiclass' if several else 'Binary'}{name}"
        if several:
            kwargs["num_classes"] = num_classes
            if name == "AveragePrecision":
                kwargs["average"] = None
        made = _renamed(getattr(torchmetrics.classification, kind))
        return made(compute_on_step=compute_on_step, **kwargs)

    curve.__doc__ = f"{name} of Lightning 1.1: for two classes, or ``num_classes``."
    curve.__name__ = name
    return curve
