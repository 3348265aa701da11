"""The arithmetic of the classification metrics of ``pytorch_lightning`` 1.1, as plain functions."""

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "METRIC_EPS",
    "accuracy",
    "auc",
    "confusion",
    "confusion_matrix",
    "counted",
    "f1",
    "fbeta",
    "fraction",
    "get_num_classes",
    "labels",
    "precision",
    "precision_recall",
    "precision_recall_f",
    "recall",
    "to_categorical",
    "to_onehot",
]

#: what 1.1 added to a divisor; nothing here divides by nought.
METRIC_EPS = 1e-6


def labels(preds: Tensor, target: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Labels of what was predicted, and of what is there.

    Args:
        preds: Labels, probabilities of one class or of several labels, or, with one more dimension
            than ``target``, scores of all classes in dimension 1.
        target: Labels.
        threshold: From which probability on a label counts as predicted.
    """
    if preds.ndim == target.ndim + 1:
        return preds.argmax(1), target
    if preds.ndim != target.ndim:
        raise ValueError(
            f"preds of shape {tuple(preds.shape)} and target of shape {tuple(target.shape)}: they "
            "must have as many dimensions, or preds one more, for the scores of all classes"
        )
    return ((preds >= threshold).long() if preds.is_floating_point() else preds), target


def fraction(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, 0 where there is nothing."""
    whole = whole.to(torch.get_default_dtype())
    return torch.where(whole > 0, part / whole.clamp(min=1e-12), torch.zeros_like(whole))


def counted(
    preds: Tensor, target: Tensor, num_classes: int, threshold: float, multilabel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class: how often it was right, predicted, and there."""
    predicted, expected = labels(preds, target, threshold)
    if num_classes > 1 and not multilabel:
        predicted = to_onehot(predicted.reshape(-1), num_classes)
        expected = to_onehot(expected.reshape(-1), num_classes)
    elif multilabel:
        predicted = predicted.movedim(1, -1).reshape(-1, num_classes)
        expected = expected.movedim(1, -1).reshape(-1, num_classes)
    else:
        predicted, expected = predicted.reshape(-1, 1), expected.reshape(-1, 1)
        largest = int(torch.maximum(predicted.max(), expected.max())) if expected.numel() else 0
        if largest > 1:
            raise ValueError(
                f"num_classes=1 is for two classes, 0 and 1, and there is a label {largest}: pass "
                "the number of classes"
            )
    right = (predicted * expected).sum(0)
    return right.float(), predicted.sum(0).float(), expected.sum(0).float()


def precision_recall_f(
    kind: str,
    right: Tensor,
    predicted: Tensor,
    actual: Tensor,
    *,
    beta: float = 1.0,
    average: str | None = "micro",
) -> Tensor:
    """Precision, recall or F-beta (``kind``) of counts per class, averaged."""
    if average == "micro":
        right, predicted, actual = right.sum(), predicted.sum(), actual.sum()
    found, complete = fraction(right, predicted), fraction(right, actual)
    if kind == "f":
        score = fraction((1 + beta**2) * found * complete, beta**2 * found + complete)
    else:
        score = found if kind == "precision" else complete
    return score.mean() if average == "macro" else score


def confusion(
    preds: Tensor,
    target: Tensor | None,
    num_classes: int,
    normalize: str | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """The confusion matrix of a batch, or (without ``target``) a matrix of counts, normalized."""
    if normalize not in (None, "none", "true", "pred", "all"):
        raise ValueError(f"normalize={normalize!r} is unknown: pass 'true', 'pred', 'all' or None")
    if target is None:
        matrix = preds
    else:
        predicted, expected = labels(preds, target, threshold)
        places = (expected * num_classes + predicted).reshape(-1).long()
        matrix = torch.bincount(places, minlength=num_classes**2).float()
        matrix = matrix.reshape(num_classes, num_classes)
    if normalize == "true":
        return fraction(matrix, matrix.sum(1, keepdim=True).expand_as(matrix))
    if normalize == "pred":
        return fraction(matrix, matrix.sum(0, keepdim=True).expand_as(matrix))
    return fraction(matrix, matrix.sum().expand_as(matrix)) if normalize == "all" else matrix


# ---------------------------------------------------------------- metrics.functional


def to_onehot(tensor: Tensor, num_classes: int | None = None) -> Tensor:
    """Labels of shape ``(N, ...)`` as ones and zeros of shape ``(N, classes, ...)``."""
    classes = int(tensor.max()) + 1 if num_classes is None else num_classes
    return torch.nn.functional.one_hot(tensor.long(), classes).movedim(-1, 1)


def to_categorical(tensor: Tensor, argmax_dim: int = 1) -> Tensor:
    """The label with the highest score."""
    return tensor.argmax(argmax_dim)


def get_num_classes(pred: Tensor, target: Tensor, num_classes: int | None = None) -> int:
    """The number given, else one more than the highest label."""
    return num_classes or int(torch.maximum(pred.max(), target.max())) + 1


def _averaged(kind: str, pred: Tensor, target: Tensor, classes: int | None, average: Any) -> Tensor:
    if average not in ("micro", "macro", "none", None):
        raise ValueError(f"class_reduction={average!r} is unknown: pass 'micro', 'macro' or 'none'")
    predicted, expected = labels(pred, target)
    number = max(get_num_classes(predicted, expected, classes), 2)
    return precision_recall_f(
        kind, *counted(predicted, expected, number, 0.5, False), average=average
    )


def accuracy(
    pred: Tensor, target: Tensor, num_classes: int | None = None, class_reduction: str = "micro"
) -> Tensor:
    """The share of labels that are right, over all or as a mean over classes."""
    # Of each class the share of its members that were found, which is what recall is.
    return _averaged("recall", pred, target, num_classes, class_reduction)


def precision(
    pred: Tensor, target: Tensor, num_classes: int | None = None, class_reduction: str = "micro"
) -> Tensor:
    """How many of those that were found are right."""
    return _averaged("precision", pred, target, num_classes, class_reduction)


def recall(
    pred: Tensor, target: Tensor, num_classes: int | None = None, class_reduction: str = "micro"
) -> Tensor:
    """How many of those that are there were found."""
    return _averaged("recall", pred, target, num_classes, class_reduction)


def precision_recall(
    pred: Tensor, target: Tensor, num_classes: int | None = None, class_reduction: str = "micro"
) -> tuple[Tensor, Tensor]:
    """Both :func:`precision` and :func:`recall`."""
    given = (pred, target, num_classes, class_reduction)
    return precision(*given), recall(*given)


def auc(x: Tensor, y: Tensor) -> Tensor:
    """The area under a curve whose ``x`` only grows, or only falls."""
    steps = x.diff()
    if (steps < 0).any() and (steps > 0).any():
        raise ValueError("x grows and falls: sort the points of the curve by x")
    return torch.trapezoid(y, x).abs() if (steps < 0).any() else torch.trapezoid(y, x)


def fbeta(
    preds: Tensor,
    target: Tensor,
    num_classes: int,
    beta: float = 1.0,
    threshold: float = 0.5,
    average: str | None = "micro",
    multilabel: bool = False,
) -> Tensor:
    """The weighted harmonic mean of precision and recall."""
    counts = counted(preds, target, num_classes, threshold, multilabel)
    return precision_recall_f("f", *counts, beta=beta, average=average)


def f1(
    preds: Tensor,
    target: Tensor,
    num_classes: int,
    threshold: float = 0.5,
    average: str | None = "micro",
    multilabel: bool = False,
) -> Tensor:
    """The harmonic mean of precision and recall."""
    return fbeta(preds, target, num_classes, 1.0, threshold, average, multilabel)


def confusion_matrix(
    preds: Tensor, target: Tensor, normalize: str | None = None, threshold: float = 0.5
) -> Tensor:
    """How often each class was taken for each other: ``[actual, predicted]``."""
    predicted, expected = labels(preds, target, threshold)
    number = max(get_num_classes(predicted, expected), 2)
    return confusion(predicted, expected, number, normalize)
