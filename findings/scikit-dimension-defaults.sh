#!/usr/bin/env bash
# scikit-dimension 0.5.0 with its defaults: MiND_ML says at most 10, KNN looks at 18 rows of the data,
# however many there are; and one duplicated row makes MiND_ML 1.0 and MLE 0.0.
#
# Guess: estimators of intrinsic dimension agree roughly on Gaussian data, get better with more rows,
# and one duplicate among 2000 rows is skipped, or gives nan. Seen: MiND_ML has a limit D=10 that its
# documentation does not name; data of 20 and of 30 dimensions are both 10.0. KNN draws samples of 3,
# 4, 5 and 6 rows: all other rows can be replaced by zeros without a change, and data of 3 dimensions
# in 20 columns are given anything from 1 to 20 by its seed (sizes from 100 rows on give 3).
# A duplicate's distance 0 enters a logarithm: MLE's mean of 1 / estimate turns infinite, so
# the dimension is 0.0 with a RuntimeWarning; MLE by the median, TwoNN and GRIDE hardly change.
# Who meets it: tables of the intrinsic dimension of features (10 to 30, mostly), on data sets with
# duplicates (web crawls, repeated frames): a 10.0 looks like a result, and a 0.0 like a collapse.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q scikit-dimension==0.5.0 numpy==2.4.6 scikit-learn==1.9.1
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from skdim import id as estimators

print("scikit-dimension", version("scikit-dimension"))
generator = np.random.default_rng(0)


def gaussian(dimension, columns, rows=2000):
    """Rows of a Gaussian of this dimension in more columns."""
    mixing = generator.standard_normal((dimension, columns))
    return generator.standard_normal((rows, dimension)) @ mixing


def estimate(name, rows, **options):
    """Dimension by this estimator."""
    return float(getattr(estimators, name)(**options).fit(rows).dimension_)


for dimension in (5, 20, 30):
    rows = gaussian(dimension, 64)
    limited, free = estimate("MiND_ML", rows), estimate("MiND_ML", rows, D=64)
    others = {name: round(estimate(name, rows), 1) for name in ("MLE", "TwoNN", "GRIDE")}
    print(f"{dimension} dimensions: MiND_ML {limited:.2f}, with D=64 {free:.2f}, others {others}")
    assert limited == 10 if dimension > 5 else np.isclose(limited, free)
    assert 0.5 * dimension < free < 1.1 * dimension
    assert all(0.5 * dimension < value < 1.1 * dimension for value in others.values())
assert "D:" not in estimators.MiND_ML.__doc__

rows = gaussian(3, 20, 1000)
found = []
for seed in range(30):
    draws = np.random.RandomState(seed)
    drawn = np.concatenate([draws.randint(0, len(rows), size) for size in (3, 4, 5, 6)])
    assert len(drawn) == 18
    few = np.zeros_like(rows)
    few[drawn] = rows[drawn]
    full, part = (estimators.KNN(random_state=seed).fit(values) for values in (rows, few))
    assert (full.dimension_, full.residual_) == (part.dimension_, part.residual_)
    found.append(int(full.dimension_))
large = [estimate("KNN", rows, k=5, ps=np.arange(100, 901, 100), M=5, random_state=seed)
         for seed in range(3)]
print("3 dimensions by KNN, 30 seeds:", sorted(found), "with larger samples:", large)
assert min(found) == 1 and max(found) == 20 and found.count(3) < 15 and large == [3, 3, 3]

rows = gaussian(5, 12)
doubled = np.vstack([rows, rows[:1]])
for name in ("MLE", "MiND_ML", "TwoNN", "GRIDE"):
    before, after = estimate(name, rows), estimate(name, doubled)
    print(f"{name}: {before:.2f}, with one row twice {after:.2f}")
    assert after == {"MLE": 0, "MiND_ML": 1}.get(name, after)
    assert name in ("MLE", "MiND_ML") or abs(after - before) < 0.1
median = estimators.MLE().fit(doubled, comb="median").dimension_
print(f"MLE by the median, with one row twice {median:.2f}")
assert 4.5 < median < 5.5
print("as described")
PY
