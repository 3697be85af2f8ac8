import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import KNNClassifier, knn_predict
from pytorch_lightning import Trainer
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader, TensorDataset

from erssl.errors import ConfigError, DataError
from erssl.evaluation import Features, knn_accuracy, knn_scores
from erssl.evaluation.knn import _top
from erssl.models import build_backbone

CUT = 1300  # digits that vote; the other 497 are classified


@pytest.fixture(scope="module")
def pixels():
    scans = load_digits()
    return torch.from_numpy(scans.data).float(), torch.from_numpy(scans.target)


@pytest.fixture(scope="module")
def resnet(pixels):
    torch.manual_seed(0)
    images = F.interpolate(pixels[0].view(-1, 1, 8, 8) / 16, 32).expand(-1, 3, -1, -1)
    backbone = build_backbone("resnet18").eval()
    with torch.no_grad():
        return torch.cat([backbone(part) for part in images.split(256)]), pixels[1]


@pytest.fixture(params=["pixels", "resnet"])
def splits(request):
    features, labels = request.getfixturevalue(request.param)
    return Features(features[:CUT], labels[:CUT]), Features(features[CUT:], labels[CUT:])


def lightly(train, val, k, temperature):
    bank, queries = F.normalize(train.features, dim=1).T, F.normalize(val.features, dim=1)
    return knn_predict(queries, bank, train.labels, 10, k, temperature)[:, 0]


@pytest.mark.parametrize(("k", "temperature"), [(200, 0.1), (20, 0.07), (1, 0.1)])
def test_predictions_are_lightlys(splits, k, temperature):
    train, val = splits
    predicted = knn_scores(train, val, 10, k, temperature).argmax(dim=1)
    assert torch.equal(predicted, lightly(train, val, k, temperature))
    accuracy = knn_accuracy(train, val, 10, k, temperature)
    assert accuracy == (predicted == val.labels).double().mean()
    assert 0.3 < accuracy < 1


def test_accuracy_is_that_of_lightlys_classifier(splits, tmp_path):
    train, val = splits
    classifier = KNNClassifier(None, 10, 200, 0.1, 0, 1, topk=(1,))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    loaders = [DataLoader(TensorDataset(*split), batch_size=256) for split in (train, val)]
    (_, logged) = trainer.validate(classifier, loaders, verbose=False)
    (expected,) = logged.values()
    assert knn_accuracy(train, val, 10) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [5, 200])
def test_scores_and_predictions_are_scikit_learns(splits, k):
    train, val = splits
    reference = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.1)
    ).fit(train.features.double().numpy(), train.labels.numpy())
    queries = val.features.double().numpy()
    scores = knn_scores(train, val, 10, k)
    expected = torch.from_numpy(reference.predict_proba(queries)).float()
    torch.testing.assert_close(scores / scores.sum(1, keepdim=True), expected, rtol=0, atol=2e-4)
    assert scores.argmax(dim=1).tolist() == reference.predict(queries).tolist()


def test_chunks_change_nothing(splits, monkeypatch):
    train, val = splits
    whole = knn_scores(train, val, 10, k=3)
    monkeypatch.setattr("erssl.evaluation.knn._QUERIES", 100)
    monkeypatch.setattr("erssl.evaluation.knn._BLOCK", 177)
    blocks = knn_scores(train, val, 10, k=3)  # 64 * 3 images a block, the last one shorter
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-6)
    assert knn_accuracy(train, val, 10, k=3) == (whole.argmax(1) == val.labels).double().mean()


@pytest.mark.parametrize("columns", [64, 640, 4096, 4099])
def test_folded_top_k_is_torchs(columns):
    values = torch.randn(50, columns, generator=torch.Generator().manual_seed(columns))
    values[:, ::3] = values[:, 1:2]  # ties
    actual, where = _top(values, 4)
    assert torch.equal(actual.sort(dim=1, descending=True).values, values.topk(4).values)
    assert torch.equal(values.gather(1, where), actual)
    assert all(len(set(row)) == 4 for row in where.tolist())


def test_every_image_votes_where_k_is_larger(splits, monkeypatch):
    train, val = splits
    monkeypatch.setattr("erssl.evaluation.knn._BLOCK", 100)
    few = Features(train.features[:50], train.labels[:50])
    predicted = knn_scores(few, val, 10, k=1000).argmax(dim=1)
    assert torch.equal(predicted, lightly(few, val, 50, 0.1))


def test_half_precision_is_computed_in_single(splits):
    train, val = (Features(s.features.half(), s.labels) for s in splits)
    wide = [Features(s.features.float(), s.labels) for s in (train, val)]
    scores = knn_scores(train, val, 10)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, knn_scores(*wide, 10))


def test_cold_votes_do_not_overflow(splits):
    train, val = splits
    scores = knn_scores(train, val, 10, k=20, temperature=0.001)  # exp(1000) is no float
    assert scores.isfinite().all()
    nearest = knn_scores(train, val, 10, k=1, temperature=0.001).argmax(dim=1)
    assert (scores.argmax(dim=1) == nearest).double().mean() > 0.9


def test_features_of_nan_count_as_wrong(splits):
    train, val = splits
    broken = val.features.clone()
    broken[:7] = torch.nan
    scores = knn_scores(train, Features(broken, val.labels), 10)
    assert scores[:7].isnan().all()
    assert scores[7:].isfinite().all()
    rest = Features(val.features[7:], val.labels[7:])
    expected = knn_accuracy(train, rest, 10) * len(rest.labels) / len(val.labels)
    assert knn_accuracy(train, Features(broken, val.labels), 10) == pytest.approx(expected)
    nothing = Features(torch.full_like(train.features, torch.nan), train.labels)
    assert knn_accuracy(nothing, val, 10) == 0


def test_wrong_inputs_are_named(splits):
    train, val = splits
    with pytest.raises(ConfigError, match="k=0"):
        knn_scores(train, val, 10, k=0)
    with pytest.raises(ConfigError, match="temperature=0"):
        knn_accuracy(train, val, 10, temperature=0)
    with pytest.raises(DataError, match="labels from 0 to 9 and num_classes=9"):
        knn_scores(train, val, 9)
    with pytest.raises(DataError, match="dimensions"):
        knn_scores(train, Features(val.features[:, 1:], val.labels), 10)
    with pytest.raises(DataError, match="0 labels"):
        knn_accuracy(train, Features(val.features[:0], val.labels[:0]), 10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_device_votes_as_the_cpu(splits):
    on_cpu = knn_scores(*splits, 10)
    on_gpu = knn_scores(*(Features(s.features.cuda(), s.labels.cuda()) for s in splits), 10)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.argmax(dim=1).cpu(), on_cpu.argmax(dim=1))


def copies():
    """Training images that come up to six times, under other labels, and images near them."""
    generator = torch.Generator().manual_seed(3)
    distinct = torch.randn(60, 12, generator=generator)
    rows = torch.randint(60, (400,), generator=generator)
    labels = torch.randint(5, (400,), generator=generator)
    queries = torch.randn(80, 12, generator=generator)
    return Features(distinct[rows], labels), Features(queries, torch.zeros(80, dtype=torch.long))


def shared_votes(train, val, k, temperature, classes=5):
    """The definition in float64: images as near as the k-th share the votes that are left."""
    actual = torch.zeros(len(val.features), classes, dtype=torch.float64)
    units = F.normalize(train.features.double(), dim=1)
    for row, query in enumerate(F.normalize(val.features.double(), dim=1)):
        cosines = units @ query
        last = cosines.sort(descending=True).values[k - 1]
        nearer, tied = cosines > last + 1e-9, (cosines - last).abs() <= 1e-9
        weights = ((cosines - cosines.max()) / temperature).exp()
        weights *= nearer + tied * (k - nearer.sum()) / tied.sum()
        actual[row].index_add_(0, train.labels, weights)
    return actual


@pytest.mark.parametrize("spare", [1, 16])  # with 1 most have more equals than are looked at
@pytest.mark.parametrize("k", [1, 7, 50, 399, 400])
def test_images_that_are_equally_near_share_the_votes_that_are_left(k, spare, monkeypatch):
    monkeypatch.setattr("erssl.evaluation.knn._SPARE", spare)
    train, val = copies()
    expected = shared_votes(train, val, k, 0.1)
    torch.testing.assert_close(
        knn_scores(train, val, 5, k).double(), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("k", [7, 50])
def test_no_order_of_the_images_counts(k, monkeypatch):
    train, val = copies()
    whole = knn_scores(train, val, 5, k)
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(4))
    turned = Features(train.features[order], train.labels[order])
    torch.testing.assert_close(knn_scores(turned, val, 5, k), whole, rtol=1e-5, atol=1e-7)
    assert torch.equal(knn_scores(turned, val, 5, k).argmax(1), whole.argmax(1))
    monkeypatch.setattr("erssl.evaluation.knn._QUERIES", 9)
    alone = knn_scores(train, val, 5, k)
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-7)


def test_a_collapsed_backbone_predicts_the_largest_class():
    labels = torch.tensor([0] * 30 + [1] * 50 + [2] * 20)
    train = Features(torch.ones(100, 8), labels[torch.randperm(100)])
    scores = knn_scores(train, Features(torch.ones(4, 8), torch.zeros(4).long()), 3, k=10)
    torch.testing.assert_close(scores, torch.tensor([[3.0, 5.0, 2.0]]).expand(4, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_type_of_features_changes_their_values_only(dtype):
    train, val = copies()
    narrow = [Features(f.features.to(dtype), f.labels) for f in (train, val)]
    wide = [Features(f.features.float(), f.labels) for f in narrow]
    assert torch.equal(knn_scores(*narrow, 5, 20), knn_scores(*wide, 5, 20))
