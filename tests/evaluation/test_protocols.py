import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erssl.evaluation import Features, extract_features, knn_accuracy, linear_accuracy


def blobs(n, seed, classes=5, dim=16, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=generator)
    return Features(centers[labels] + spread * torch.randn(n, dim, generator=generator), labels)


def brute_force_knn(train, val, k, temperature):
    correct = 0
    for query, label in zip(val.features.double(), val.labels, strict=True):
        cosine = nn.functional.cosine_similarity(query[None], train.features.double())
        nearest = cosine.argsort(descending=True)[:k]
        votes = torch.zeros(5, dtype=torch.float64)
        for index in nearest:
            votes[train.labels[index]] += torch.exp(cosine[index] / temperature)
        correct += int(votes.argmax() == label)
    return correct / len(val.labels)


def test_knn_equals_a_loop_over_the_definition():
    train, val = blobs(300, 0), blobs(101, 1)
    expected = brute_force_knn(train, val, 20, 0.1)
    assert 0.3 < expected < 0.95
    assert knn_accuracy(train, val, 5, k=20, temperature=0.1) == expected


def test_knn_asks_no_more_neighbours_than_there_are():
    train, val = blobs(12, 0), blobs(50, 1)
    assert knn_accuracy(train, val, 5, k=200) == brute_force_knn(train, val, 12, 0.1)


def test_linear_equals_scikit_learn():
    train, val = blobs(400, 2), blobs(200, 3)
    reference = LogisticRegression(C=100.0, max_iter=1000)
    reference.fit(normalize(train.features.numpy()), train.labels.numpy())
    expected = reference.score(normalize(val.features.numpy()), val.labels.numpy())
    assert abs(linear_accuracy(train, val) - expected) <= 0.005  # one image of 200


def test_extraction_is_frozen_and_in_order():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6)).train()
    images, labels = torch.randn(10, 3, 2, 2), torch.arange(10)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    result = extract_features(backbone, DataLoader(TensorDataset(images, labels), batch_size=4))
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert backbone.training
    with torch.no_grad():
        torch.testing.assert_close(result.features, backbone.eval()(images))
    assert result.labels.tolist() == list(range(10))
