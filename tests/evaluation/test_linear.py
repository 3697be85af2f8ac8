"""The linear layer on features taken once, against scikit-learn's logistic regression."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightly.utils.scheduler import cosine_schedule
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torch import nn

from erssl.evaluation import Features
from erssl.evaluation.classifier import ClassifierOptions
from erssl.evaluation.linear_on_features import train_linear

DECAY = 0.01


def pixels(rows, dtype=torch.float32):
    scans = load_digits()
    features = torch.from_numpy(scans.data[rows] / 16)
    return Features(features.to(dtype), torch.from_numpy(scans.target[rows]).long())


TRAIN, VAL = pixels(slice(0, 400)), pixels(slice(400, 700))


def options(**changes):
    plain = {"epochs": 3, "batch_size": 64, "head_lr": 0.2, "optimizer": "sgd"}
    return ClassifierOptions(**(plain | {"lr_per_256": False} | changes))


def test_trained_to_its_end_it_is_scikit_learns_logistic_regression():
    # The mean cross-entropy with decay d has the minimum of C = 1 / (d N). The bias decays too, so
    # that in scikit-learn it is the weight of a column of ones.
    converged = options(epochs=1500, batch_size=10_000, weight_decay=DECAY)
    ours = train_linear(TRAIN, VAL, 10, converged)
    reference = LogisticRegression(
        C=1 / (DECAY * len(TRAIN.labels)), fit_intercept=False, max_iter=5000, tol=1e-8
    )
    with_ones = [
        np.hstack([split.features.double().numpy(), np.ones((len(split.labels), 1))])
        for split in (TRAIN, VAL)
    ]
    reference.fit(with_ones[0], TRAIN.labels.numpy())
    logits = reference.decision_function(with_ones[1])
    predicted = ours.scores.argmax(dim=1).numpy()
    assert (predicted == reference.predict(with_ones[1])).mean() >= 0.99
    np.testing.assert_allclose(ours.scores.numpy(), logits, atol=2e-3)


def test_its_coefficients_are_scikit_learns():
    # Scores of unit vectors and of zero are the coefficients.
    probe = Features(torch.cat([torch.eye(64), torch.zeros(1, 64)]), torch.zeros(65).long())
    converged = options(epochs=1500, batch_size=10_000, weight_decay=DECAY)
    scores = train_linear(TRAIN, probe, 10, converged).scores.double()
    ones = np.hstack([TRAIN.features.double().numpy(), np.ones((len(TRAIN.labels), 1))])
    reference = LogisticRegression(
        C=1 / (DECAY * len(TRAIN.labels)), fit_intercept=False, max_iter=5000, tol=1e-8
    ).fit(ones, TRAIN.labels.numpy())
    np.testing.assert_allclose(scores[:64] - scores[64], reference.coef_[:, :64].T, atol=1e-3)
    np.testing.assert_allclose(scores[64], reference.coef_[:, 64], atol=1e-3)


def test_steps_are_those_of_a_loop_written_out():
    chosen = options(schedule="step", final_lr=0.001, head_init="torch", batch_size=150)
    result = train_linear(TRAIN, VAL, 10, chosen, seed=3)
    torch.manual_seed(3)
    layer = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    order, step = torch.Generator().manual_seed(3), 0
    for _ in range(3):
        for rows in torch.randperm(400, generator=order).split(150):  # 150, 150 and 100
            optimizer.param_groups[0]["lr"] = cosine_schedule(step, 9, 0.2, 0.0002)
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(TRAIN.features[rows]), TRAIN.labels[rows]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(result.scores, layer(VAL.features).detach())


def test_history_is_scikit_learns_accuracy_of_each_epoch():
    result = train_linear(TRAIN, VAL, 10, options())
    last = result.history[-1]
    assert [row["epoch"] for row in result.history] == [0, 1, 2]
    truth, scores = VAL.labels.numpy(), result.scores.numpy()
    assert last["top1"] == pytest.approx(accuracy_score(truth, scores.argmax(1)))
    assert last["top5"] == pytest.approx(top_k_accuracy_score(truth, scores, k=5))


def test_each_epoch_is_told_as_it_ends():
    told = []
    result = train_linear(TRAIN, VAL, 10, options(), on_epoch=told.append)
    assert told == result.history


def test_a_batch_larger_than_the_data_is_the_data_and_so_are_the_rates():
    larger = train_linear(TRAIN, VAL, 10, options(batch_size=4096, lr_per_256=True)).scores
    exact = train_linear(TRAIN, VAL, 10, options(batch_size=400, lr_per_256=True)).scores
    absolute = train_linear(TRAIN, VAL, 10, options(batch_size=400, head_lr=0.2 * 400 / 256))
    assert torch.equal(larger, exact)
    torch.testing.assert_close(exact, absolute.scores)


def test_features_in_half_precision_are_computed_with_in_single():
    half = [pixels(rows, torch.float16) for rows in (slice(0, 400), slice(400, 700))]
    single = [Features(f.features.float(), f.labels) for f in half]
    scores = train_linear(*half, 10, options()).scores
    assert scores.dtype == torch.float32
    assert torch.equal(scores, train_linear(*single, 10, options()).scores)


def test_same_seed_gives_the_same_scores_and_another_does_not():
    first, again, other = (train_linear(TRAIN, VAL, 10, options(), s).scores for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(5)
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    train_linear(TRAIN, VAL, 10, options())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


GROWTH = """
import torch
from erssl.evaluation import Features
from erssl.evaluation.classifier import ClassifierOptions
from erssl.evaluation.linear_on_features import train_linear

def held():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

torch.set_num_threads(1)
rows = Features(torch.randn(40 * 1024, 8), torch.arange(40 * 1024) % 1000)
few = Features(rows.features[:1024], rows.labels[:1024])
options = ClassifierOptions(epochs=1, batch_size=1024)
train_linear(few, few, 1000, options)
before = held()
train_linear(rows, few, 1000, options)
print((held() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_memory_does_not_grow_with_the_batches():
    """By the peak, where glibc gives back every large block that is freed."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    logits = 4 * 1024 * 1000  # bytes of a batch, of which there are 40
    assert int(done.stdout) < 4 * logits
