#!/usr/bin/env bash
# faiss-cpu 1.15.1: whitening ("PCAW", PCAMatrix with eigen_power -0.5) gives the training rows the
# standard deviation 1 / sqrt(n), not 1; scikit-learn 1.9.1's PCA(whiten=True) gives 1.
#
# Guess: whitened components have unit variance. Seen: the eigenvalues that faiss divides by are
# those of the scatter matrix, a sum over the n rows, so the output shrinks with the size of the
# training set: 0.0447 for 500 rows, 0.0224 for 2000, 0.0112 for 8000. Times sqrt(n) it is 1.
# Who meets it: a distance threshold (near-duplicates, range_search), a mixture of two indexes
# trained on different amounts, a temperature or a float16 index after PCAW: the squared distances
# of the same embeddings are 16 times smaller when 16 times as many rows were used for training.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q faiss-cpu==1.15.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import faiss
import numpy as np
import sklearn
from sklearn.decomposition import PCA

print("faiss", faiss.__version__, "scikit-learn", sklearn.__version__)
generator = np.random.default_rng(0)
rows = (generator.standard_normal((8000, 8)) * np.arange(1, 9)).astype(np.float32)

for number in (500, 2000, 8000):
    whitening = faiss.PCAMatrix(8, 4, -0.5)
    whitening.train(rows[:number])
    ours = float(whitening.apply(rows[:number]).std())
    other = float(PCA(4, whiten=True).fit_transform(rows[:number]).std())
    print(f"{number} rows: standard deviation {ours:.4f} (faiss), {other:.4f} (scikit-learn)")
    assert np.isclose(ours * np.sqrt(number), 1, atol=1e-3)
    assert np.isclose(other, 1, atol=2e-3)


def hits(number):
    """Rows of the first 500 within squared distance 0.0005, in an index trained on number rows."""
    index = faiss.index_factory(8, "PCAW4,Flat")
    index.train(rows[:number])
    index.add(rows[:500])
    return len(index.range_search(rows[:500], 0.0005)[1])


few, many = hits(500), hits(8000)
print(f"pairs within 0.0005: {few} of 250000 (trained on 500), {many} (trained on 8000)")
assert few < 1_500 and many > 50_000
print("as described")
PY
