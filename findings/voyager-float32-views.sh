#!/usr/bin/env bash
# voyager 2.2.3: add_items and query take a float32 view (class tokens, truncated embeddings, every
# second row) for an array without gaps: other numbers are indexed. No error, no warning.
#
# Guess: like other libraries of neighbours, voyager copies a view row by row, or refuses it.
# Seen: it reads as many floats as the view has, one after the other, from where the view begins.
# Given hidden[:, 0], the class tokens of 400 images of 5 tokens, it stores as row i the token i % 5
# of image i // 5. The same view as float64 or float16 is right, since a conversion copies it.
# Who meets it: kNN evaluation of features that were cut out of a larger array, as the output of a ViT
# or Matryoshka embeddings are. Two classes that are far apart are told apart at chance by 1-NN;
# numpy.ascontiguousarray, of the base and of the queries, gives 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q voyager==2.2.3 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
import voyager

print("voyager", version("voyager"))
IMAGES, TOKENS, WIDTH = 400, 5, 16
generator = np.random.default_rng(0)
labels = np.arange(IMAGES) % 2
hidden = generator.standard_normal((IMAGES, TOKENS, WIDTH)).astype(np.float32)
hidden[:, 0, :4] += 10 * labels[:, None]
tokens = np.ascontiguousarray(hidden[:, 0])


def index_of(rows):
    """An index that has been given these rows."""
    index = voyager.Index(voyager.Space.Euclidean, rows.shape[1], random_seed=0)
    index.add_items(rows, num_threads=1)
    return index


def stored(rows):
    """What an index holds after these rows were added."""
    return index_of(rows).get_vectors(list(range(len(rows))))


views = {
    "class tokens": hidden[:, 0],
    "first 8 columns": tokens[:, :8],
    "every second row": tokens[::2],
    "copy": tokens,
    "class tokens, float64": hidden.astype(np.float64)[:, 0],
    "class tokens, float16": hidden.astype(np.float16)[:, 0],
}
for name, view in views.items():
    right = np.array_equal(stored(view), view.astype(np.float32))
    print(f"{name}: stored as given {right}")
    assert right == (name == "copy" or name.endswith(("64", "16"))), name
    assert np.array_equal(stored(np.ascontiguousarray(view)), view.astype(np.float32))
first = hidden.reshape(-1, WIDTH)[:IMAGES]
assert np.array_equal(stored(hidden[:, 0]), first)


def accuracy(base, queries):
    """1-NN accuracy: even images are of one class, odd ones of the other; halves do not overlap."""
    found, _ = index_of(base).query(queries, 1, num_threads=1)
    return float((labels[:200][found[:, 0]] == labels[200:]).mean())


view, copy = hidden[:, 0], tokens
results = {
    "views": accuracy(view[:200], view[200:]),
    "base copied": accuracy(copy[:200], view[200:]),
    "both copied": accuracy(copy[:200], copy[200:]),
}
print("1-NN accuracy:", results)
assert results["both copied"] == 1.0
assert all(0.35 < results[name] < 0.65 for name in ("views", "base copied"))
print("as described")
PY
