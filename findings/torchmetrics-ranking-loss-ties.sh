#!/usr/bin/env bash
# torchmetrics 1.9.0: the multilabel ranking loss of equal scores is anything from 0 (perfect) to 1
# (worst), by the order of the label columns. scikit-learn 1.9.1 gives 1 for each.
#
# Guess: a scorer that gives every label the same score cannot be perfect, and the order of the
# columns does not count. Seen: the loss is computed from the positions of a sort, so among equal
# scores the later column counts as ranked higher. Four equal scores with the true label in the
# last column: 0.0; in the first: 1.0; in the second and the last: 0.25. Coverage error and
# ranking average precision of the same scores do not depend on the order, and agree.
# Who meets it: a linear probe on multilabel data evaluated under autocast. A sigmoid in bfloat16 is
# 1.0 from a logit of about 6 on: 500 rows that are ranked perfectly in float32 get 0.76 from
# scikit-learn in bfloat16; torchmetrics gives 0.0, and 0.76 once the columns are reversed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchmetrics==1.9.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import numpy as np
import sklearn
import torch
import torchmetrics
from sklearn import metrics
from torchmetrics.functional import classification

print("torchmetrics", torchmetrics.__version__, "scikit-learn", sklearn.__version__)


def losses(scores, truth):
    """Ranking loss by torchmetrics and by scikit-learn."""
    here = classification.multilabel_ranking_loss(scores, truth, num_labels=scores.shape[1])
    return float(here), float(metrics.label_ranking_loss(truth.numpy(), scores.numpy()))


def others(scores, truth):
    """Differences of the two libraries in coverage error and in ranking average precision."""
    options = {"num_labels": scores.shape[1]}
    coverage = classification.multilabel_coverage_error(scores, truth, **options)
    precision = classification.multilabel_ranking_average_precision(scores, truth, **options)
    arrays = truth.numpy(), scores.numpy()
    return (float(coverage) - metrics.coverage_error(*arrays),
            float(precision) - metrics.label_ranking_average_precision_score(*arrays))


equal = torch.full((1, 4), 0.5)
for labels, loss in (([1, 0, 0, 0], 1.0), ([0, 1, 0, 1], 0.25), ([0, 0, 0, 1], 0.0)):
    truth = torch.tensor([labels])
    found = losses(equal, truth)
    print(f"equal scores, labels {labels}: torchmetrics {found[0]}, scikit-learn {found[1]}")
    assert found == (loss, 1.0)
    assert np.allclose(others(equal, truth), 0, atol=1e-6)

generator = torch.Generator().manual_seed(0)
truth = torch.tensor([0, 0, 0, 1]).repeat(500, 1)
logits = 6 + torch.rand(500, 4, generator=generator) + 1.5 * truth
for dtype in (torch.float32, torch.bfloat16):
    scores = logits.to(dtype).sigmoid().float()
    last, first = losses(scores, truth), losses(scores.flip(1), truth.flip(1))
    print(f"{dtype}: (torchmetrics, scikit-learn) {last}, columns reversed {first}")
    if dtype == torch.float32:
        assert last == first == (0.0, 0.0)
    else:
        assert last[0] == 0.0 and np.allclose([last[1], *first], 0.762, atol=0.03)
print("as described")
PY
