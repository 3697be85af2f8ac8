#!/usr/bin/env bash
# faiss-cpu 1.15.1: among equal inner products the first neighbour depends on k. search(query, k)
# returns the first k equal rows in reverse order, so its first column is row k - 1 of them.
#
# Guess: the first column of search(query, 5) is the result of search(query, 1), ties or not.
# Seen: for eight equal rows IndexFlatL2 gives 0; 0, 1; 0, 1, 2; ... IndexFlatIP gives 0; 1, 0;
# 2, 1, 0; ... and so do the inner-product forms of IVF, of the scalar quantizers and faiss.knn. On
# normalised vectors, where both metrics rank alike, one search has two answers for the "nearest".
# Who meets it: evaluation by cosine on data with exact duplicates (web crawls, repeated frames):
# here the top-1 accuracy read off a search for 1 and for 5 neighbours is 0.75 and 0.25.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q faiss-cpu==1.15.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import faiss
import numpy as np

print("faiss", faiss.__version__)
ROWS, WIDTH = 8, 16
generator = np.random.default_rng(0)
query = generator.standard_normal((1, WIDTH)).astype(np.float32)
faiss.normalize_L2(query)
base = np.repeat(query, ROWS, 0)


def neighbours(name, metric):
    """Ids found for 1, 2 and 3 neighbours in an index of equal rows."""
    index = faiss.index_factory(WIDTH, name, metric)
    if not index.is_trained:
        index.train(generator.standard_normal((300, WIDTH)).astype(np.float32))
    index.add(base)
    return [index.search(query, k)[1][0].tolist() for k in (1, 2, 3)]


for name in ("Flat", "IVF1,Flat", "SQ8", "SQfp16"):
    distance = neighbours(name, faiss.METRIC_L2)
    product = neighbours(name, faiss.METRIC_INNER_PRODUCT)
    print(f"{name}: L2 {distance}, inner product {product}")
    assert distance == [[0], [0, 1], [0, 1, 2]]
    assert product == [[0], [1, 0], [2, 1, 0]]
direct = faiss.knn(query, base, 3, metric=faiss.METRIC_INNER_PRODUCT)[1][0].tolist()
assert direct == [2, 1, 0], direct

# Twelve directions, each in the base five times; the first copy has the true label in three of
# four cases, the fifth copy in one of four.
directions = generator.standard_normal((12, WIDTH)).astype(np.float32)
faiss.normalize_L2(directions)
right = np.ones((12, 5), dtype=bool)
right[::4, 0] = False
right[np.arange(12) % 4 != 0, 4] = False
index = faiss.IndexFlatIP(WIDTH)
index.add(np.repeat(directions, 5, 0))
accuracy = {k: float(right.ravel()[index.search(directions, k)[1][:, 0]].mean()) for k in (1, 5)}
print("top-1 accuracy by the number of neighbours searched:", accuracy)
assert accuracy == {1: 0.75, 5: 0.25}
print("as described")
PY
