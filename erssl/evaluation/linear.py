"""Linear classification on cached features, without augmentation."""

from __future__ import annotations

import warnings

import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from erssl.evaluation.features import Features


def linear_accuracy(train: Features, val: Features, c: float = 100.0, max_iter: int = 300) -> float:
    """Top-1 accuracy of scikit-learn's logistic regression on ℓ2-normalised features.

    A quick reading for the end of a pretraining run: minutes on a CPU for tens of thousands of
    pictures. It is not the SimSiam protocol with augmentation that papers report on ImageNet.

    Args:
        train: Features that the classifier is fitted to.
        val: Features that are classified.
        c: Inverse of the ℓ2 penalty; 100 suits features of unit norm.
        max_iter: L-BFGS iterations at the most; on these scales accuracy settles long before.

    Returns:
        Share of ``val`` that is classified right, in [0, 1].
    """
    classifier = LogisticRegression(C=c, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(F.normalize(train.features, dim=1).numpy(), train.labels.numpy())
    return float(classifier.score(F.normalize(val.features, dim=1).numpy(), val.labels.numpy()))
