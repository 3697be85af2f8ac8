import pytest
import torch
from sklearn import metrics as sk

from erssl.errors import DataError
from erssl.evaluation import classification_metrics, confusion_matrix


def scored(n, classes, held=None):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(held or classes, (n,), generator=generator)
    scores = torch.randn(n, classes, generator=generator)
    return scores.scatter_add_(1, labels[:, None], torch.full((n, 1), 1.0)), labels


@pytest.mark.parametrize("classes", [6, 10, 37])
def test_values_are_scikit_learns(classes):
    scores, labels = scored(500, classes)
    metrics = classification_metrics(scores, labels)
    predicted = scores.argmax(dim=1)
    top5 = sk.top_k_accuracy_score(labels, scores.numpy(), k=5, labels=range(classes))
    expected = {
        "top1": sk.accuracy_score(labels, predicted),
        "top5": top5,
        "mean_per_class": sk.balanced_accuracy_score(labels, predicted),
    }
    assert metrics == pytest.approx(expected)
    assert metrics["mean_per_class"] != pytest.approx(metrics["top1"], abs=1e-4)
    expected_counts = sk.confusion_matrix(labels, predicted, labels=range(classes))
    assert confusion_matrix(scores, labels, classes).tolist() == expected_counts.tolist()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes_without_images_are_left_out():
    scores, labels = scored(300, 10, held=7)
    expected = sk.balanced_accuracy_score(labels, scores.argmax(dim=1))
    named = classification_metrics(scores, labels, [f"c{i}" for i in range(10)])
    assert named["mean_per_class"] == pytest.approx(expected)
    recalls = sk.recall_score(labels, scores.argmax(dim=1), labels=range(7), average=None)
    assert [named[f"recall/c{i}"] for i in range(7)] == pytest.approx(list(recalls))
    assert "recall/c7" not in named


def test_top5_needs_more_than_five_classes():
    assert set(classification_metrics(*scored(20, 5))) == {"top1", "mean_per_class"}


def test_of_equal_scores_the_first_counts():
    scores = torch.zeros(10, 10)
    metrics = classification_metrics(scores, torch.arange(10))
    assert metrics == pytest.approx({"top1": 0.1, "top5": 0.5, "mean_per_class": 0.1})


def test_log_probabilities_of_zero_are_scores():
    scores = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert classification_metrics(scores, torch.tensor([0, 1]))["top1"] == 1


def test_nan_is_no_class():
    scores, labels = scored(20, 6)
    scores[3, 2] = scores[5] = torch.nan
    with pytest.raises(DataError, match="2 of 20 images are NaN"):
        classification_metrics(scores, labels)
    with pytest.raises(DataError, match="2 of 20 images are NaN"):
        confusion_matrix(scores, labels, 6)


def test_wrong_inputs_are_named():
    scores, labels = scored(20, 6)
    with pytest.raises(DataError, match=r"\(20, 6\) and labels \(19,\)"):
        classification_metrics(scores, labels[1:])
    with pytest.raises(DataError, match="at least one image"):
        classification_metrics(scores[:0], labels[:0])
    with pytest.raises(DataError, match="from 0 to 5 but scores have 4 classes"):
        classification_metrics(scores[:, :4], labels)
    with pytest.raises(DataError, match="2 class names"):
        classification_metrics(scores, labels, ["a", "b"])
    with pytest.raises(DataError, match="6 columns for num_classes=7"):
        confusion_matrix(scores, labels, 7)
