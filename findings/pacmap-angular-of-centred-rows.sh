#!/usr/bin/env bash
# PaCMAP 0.9.1 with distance="angular" takes angles around the mean of all rows: rows multiplied by
# positive numbers, which changes no angle, get other neighbours.
#
# Guess: angular neighbours do not depend on the lengths of rows, as cosines do not. Seen: before it
# looks for neighbours of any distance but hamming, it subtracts the smallest value and the mean of
# the columns, with apply_pca=False too. Of features that point one way (a mean beside which they
# vary, as behind a ReLU), half of each row's ten pairs are among the ten of the largest cosines;
# after the rows are given other lengths about one in six is, while the cosines' ten stay the same.
# Rows of length 1 keep their pairs, though those too are of centred rows.
# Who meets it: a map of features beside kNN by cosine, whose neighbourhoods it is taken to show; the
# documentation calls it the distance in the high-dimensional space.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q pacmap==0.9.1 numpy==2.4.6 scikit-learn==1.9.1 faiss-cpu==1.15.1
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pacmap

print("pacmap", version("pacmap"))
generator = np.random.default_rng(0)
COUNT, WIDTH, NEIGHBOURS = 1500, 30, 10


def of_largest_cosine(rows):
    """The ten other rows at the smallest angle, by brute force."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]


def of_pacmap(rows):
    """The other row of each pair of near rows."""
    options = {"apply_pca": False, "n_neighbors": NEIGHBOURS, "random_state": 0}
    fitted = pacmap.PaCMAP(distance="angular", num_iters=(1, 1, 1), **options).fit(rows.copy())
    return fitted.pair_neighbors[:, 1].reshape(COUNT, NEIGHBOURS)


def shared(first, second):
    """Share of neighbours that two choices have in common."""
    return float(np.mean([len({*a} & {*b}) for a, b in zip(first, second)]) / NEIGHBOURS)


rows = generator.standard_normal((COUNT, WIDTH)).astype(np.float32) + 1.5
lengths = np.exp(generator.standard_normal((COUNT, 1))).astype(np.float32)
near = of_largest_cosine(rows)
assert shared(near, of_largest_cosine(rows * lengths)) > 0.999

before, after = of_pacmap(rows), of_pacmap(rows * lengths)
print(f"of the largest cosines: {shared(before, near):.2f}, other lengths {shared(after, near):.2f}")
print(f"the same before and after: {shared(before, after):.2f}")
assert 0.4 < shared(before, near) < 0.7
assert shared(after, near) < 0.3
assert shared(before, after) < 0.3

unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
again = rows * lengths / np.linalg.norm(rows * lengths, axis=1, keepdims=True)
print(f"of rows of length 1: {shared(of_pacmap(unit), of_pacmap(again)):.2f}")
assert shared(of_pacmap(unit), of_pacmap(again)) > 0.95
PY
