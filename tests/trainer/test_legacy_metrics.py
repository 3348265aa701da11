"""The metrics of Lightning 1.1, over torchmetrics."""

import pickle
from typing import Any

import pytest
import torch

import leyden
from leyden import legacy_metrics, legacy_scores

pytest.importorskip("torchmetrics", reason="the extra 'metrics' is not installed")
from torchmetrics.functional import classification as today  # noqa: E402


def make(name: str, *args: Any, **kwargs: Any) -> Any:
    return legacy_metrics.make(name)(*args, **kwargs)


def batch(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(40, classes, generator=generator).softmax(1)
    return scores, torch.randint(0, classes, (40,), generator=generator)


def test_accuracy_needs_no_task_and_counts_over_batches() -> None:
    scores, target = batch()
    metric = make("Accuracy")
    first = metric(scores[:10], target[:10])
    metric(scores[10:], target[10:])
    assert first == today.multiclass_accuracy(scores[:10], target[:10], 4, average="micro")
    assert metric.compute() == today.multiclass_accuracy(scores, target, 4, average="micro")
    metric.reset()
    assert metric(torch.tensor([0.2, 0.9, 0.7]), torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    assert make("Accuracy", 0.8)(torch.tensor([0.7]), torch.tensor([0])) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("Accuracy", ()), ("ConfusionMatrix", (2,)), ("MeanSquaredError", ())],
)
def test_what_was_computed_is_forgotten_and_told_again(name: str, arguments: Any) -> None:
    preds, target = torch.tensor([0.2, 0.9, 0.7, 0.4]), torch.tensor([0, 1, 0, 1])
    once = make(name, *arguments)
    once.update(preds, target)
    expected = once.compute()
    metric = make(name, *arguments)
    for _ in range(2):  # two epochs, without a reset between them
        metric(preds[:2], target[:2])
        metric(preds[2:], target[2:])
        torch.testing.assert_close(metric.compute(), expected)
        torch.testing.assert_close(metric.compute(), expected)
    copied = pickle.loads(pickle.dumps(metric))
    copied.update(preds, target)
    torch.testing.assert_close(copied.compute(), expected)


@pytest.mark.parametrize("average", ["micro", "macro", None])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("Precision", today.multiclass_precision),
        ("Recall", today.multiclass_recall),
        ("F1", today.multiclass_f1_score),
    ],
)
def test_scores_are_those_of_torchmetrics(name: str, function: Any, average: str | None) -> None:
    scores, target = batch()
    found = make(name, num_classes=4, average=average)(scores, target)
    torch.testing.assert_close(found, function(scores, target, 4, average=average))


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_the_confusion_matrix(normalize: Any) -> None:
    scores, target = batch()
    found = make("ConfusionMatrix", 4, normalize=normalize)(scores, target)
    expected = today.multiclass_confusion_matrix(scores, target, 4, normalize=normalize)
    torch.testing.assert_close(found, expected.float())
    function = legacy_scores.confusion_matrix(scores, target, normalize=normalize)
    torch.testing.assert_close(function, expected.float())


def test_fbeta_of_several_labels() -> None:
    preds = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6]])
    target = torch.tensor([[1, 0], [0, 1], [0, 0]])
    found = make("FBeta", 2, beta=2.0, average=None, multilabel=True)(preds, target)
    expected = today.multilabel_fbeta_score(preds, target, 2.0, 2, average=None)
    torch.testing.assert_close(found, expected)


def test_two_classes_of_more_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="a label 3: pass the number of classes"):
        make("Precision")(torch.tensor([0, 3]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="average='all' is unknown"):
        make("F1", 3, average="all")
    with pytest.raises(ValueError, match=r"shape \(3,\) and target of shape \(3, 2, 2\)"):
        make("Accuracy")(torch.zeros(3), torch.zeros(3, 2, 2))


def test_compute_on_step_false_gives_nothing_on_a_step() -> None:
    for metric in (make("MeanSquaredError", compute_on_step=False), make("Accuracy", 0.5, False)):
        assert metric(torch.tensor([1.0]), torch.tensor([1.0])) is None
        assert metric.compute() in (0.0, 1.0)


def test_a_metric_of_the_users_own_keeps_its_constructor() -> None:
    class Total(legacy_metrics.make("Metric")):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(compute_on_step=True, dist_sync_on_step=False)
            self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")

        def update(self, value: torch.Tensor) -> None:
            self.total += value.sum()

        def compute(self) -> torch.Tensor:
            return self.total  # type: ignore[no-any-return]

    metric = Total()
    assert metric(torch.ones(2)) == 2
    metric(torch.ones(3))
    assert metric.compute() == 5


def test_curves_and_their_tasks() -> None:
    scores, target = batch()
    several = make("ROC", num_classes=4)(scores, target)
    assert len(several) == 3 and len(several[0]) == 4
    two = make("PrecisionRecallCurve")(torch.tensor([0.1, 0.8]), torch.tensor([0, 1]))
    assert len(two) == 3
    with pytest.raises(ValueError, match="let the positive class be 1"):
        make("ROC", pos_label=0)


def test_functions() -> None:
    scores, target = batch()
    assert legacy_scores.accuracy(scores, target) == make("Accuracy")(scores, target)
    both = legacy_scores.precision_recall(scores, target, 4, "macro")
    torch.testing.assert_close(both[0], make("Precision", 4, average="macro")(scores, target))
    torch.testing.assert_close(both[1], make("Recall", 4, average="macro")(scores, target))
    assert legacy_metrics.auroc(torch.tensor([0.1, 0.8]), torch.tensor([0, 1])) == 1
    with pytest.raises(ValueError, match="leave both out"):
        legacy_metrics.roc(torch.tensor([0.1]), torch.tensor([0]), pos_label=0)
    assert legacy_scores.auc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])) == 1
    assert legacy_scores.auc(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])) == 1
    with pytest.raises(ValueError, match="grows and falls"):
        legacy_scores.auc(torch.tensor([0.0, 1.0, 0.5]), torch.ones(3))
    image = torch.rand(1, 1, 12, 12)
    assert legacy_metrics.psnr(image + 0.1, image) > 10
    assert legacy_metrics.ssim(image, image) == pytest.approx(1)


def test_a_metric_can_be_pickled() -> None:
    metric = make("Accuracy")
    metric(*batch())
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute() == metric.compute() and type(again) is legacy_metrics.make("Accuracy")


class Joined(legacy_metrics.make("Metric")):  # type: ignore[misc]
    """Keeps a list, and makes one tensor of it."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", default=[], dist_reduce_fx="cat")

    def update(self, value: torch.Tensor) -> None:
        self.seen.append(value)

    def compute(self) -> torch.Tensor:
        self.seen = torch.cat(self.seen)
        return self.seen.sum()


def test_a_list_that_became_a_tensor_is_put_back() -> None:
    metric = Joined()
    metric.seen = torch.ones(2)
    metric.reset()
    assert metric.seen == []
    assert metric(torch.ones(3)) == 3
    assert metric.compute() == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This property will be removed:DeprecationWarning")
def test_a_module_with_metrics_can_be_exported() -> None:
    class Scored(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(2, 1)
            self.score = make("Accuracy")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.net(x)
            return found

    module = Scored()
    x = torch.ones(1, 2)
    assert torch.equal(module.to_torchscript()(x), module(x))
