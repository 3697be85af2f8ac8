#!/usr/bin/env bash
# vendi-score 0.0.3: score_X has an argument q that changes nothing; with q below 1 score_K is far
# above the rank; and of a sparse kernel it sees six eigenvalues, so 50 different samples score 1.6.
#
# Guess: score_X, score_K and score_dual are three ways to one number for every order q, sparse or
# not. Seen: at q = 1 they agree. For q = 2 and 0.5 score_X still gives the number of q = 1. Zero
# eigenvalues come out of float64 as some +-1e-17; those above 0 are kept, and to a power q below 1
# they count: 100 equal samples score 2.2 at q = 0.1 in place of 1, and 500 rows of rank 32 score
# 37 (195 at q = 0.01). score_dual, with no more eigenvalues than columns, is right: 30.5. The branch
# for scipy.sparse.csr_matrix calls eigsh, whose default is the six largest eigenvalues.
# Who meets it: small orders are the ones that weigh rare samples, so diversity of features or of
# generated images; a score above the rank, or the same for every q, still looks like a result.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q vendi-score==0.0.3 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from scipy import sparse
from vendi_score import vendi

print("vendi-score", version("vendi-score"))
generator = np.random.default_rng(0)


def by_hand(kernel, order):
    """The exponential of Renyi's entropy, of the eigenvalues that are no rounding."""
    values = np.linalg.eigvalsh(kernel / len(kernel))
    values = values[values > 1e-12]
    if order == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    return float((values**order).sum() ** (1 / (1 - order)))


def unit(rows, columns):
    """Random rows of length 1."""
    drawn = generator.standard_normal((rows, columns)) * np.linspace(0.2, 1.8, columns)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


rows = unit(40, 64)
for order in (1, 2, 0.5):
    true = by_hand(rows @ rows.T, order)
    of_rows, dual = vendi.score_X(rows, q=order), vendi.score_dual(rows, q=order)
    print(f"q = {order}: score_X {of_rows:.2f}, by hand {true:.2f}")
    assert np.isclose(of_rows, by_hand(rows @ rows.T, 1))
    assert np.isclose(of_rows, true) == (order == 1)

same = float(vendi.score_K(np.ones((100, 100)), q=0.1))
print(f"100 equal samples, q = 0.1: {same:.2f}")
assert 1.5 < same

rows = unit(500, 32)
for order in (1, 0.1, 0.01):
    kernel, dual = (float(score) for score in (vendi.score_K(rows @ rows.T, q=order),
                                               vendi.score_dual(rows, q=order)))
    print(f"500 rows of rank 32, q = {order}: score_K {kernel:.1f}, score_dual {dual:.1f}")
    assert np.isclose(dual, by_hand(rows @ rows.T, order)) and dual < 32
    assert (kernel > 32) == (order < 1)

dense, thin = vendi.score_K(np.eye(50)), vendi.score_K(sparse.csr_matrix(np.eye(50)))
print(f"50 different samples: {dense:.2f}, as a csr_matrix {thin:.2f}")
assert np.isclose(dense, 50)
assert np.isclose(thin, 50 ** (6 / 50))  # six of fifty eigenvalues, each 1 / 50
PY
