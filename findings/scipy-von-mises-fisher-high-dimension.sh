#!/usr/bin/env bash
# SciPy 1.17.1: from about 70 dimensions on, scipy.stats.vonmises_fisher.fit gives the concentration
# 1e-8 (a uniform distribution) for tightly bundled vectors; logpdf is inf and entropy nan where the
# dimension is large beside the concentration.
#
# Guess: the scaled Bessel function keeps all three finite at the dimensions of embeddings.
# Seen: fit searches for the root between 1e-8 and 1e9, and at 1e-8 both Bessel functions underflow:
# 0 / 0 is nan, and the search ends at its lower bound with a RuntimeWarning about a division. For
# samples drawn with concentration 500 it gives 500 in 64 dimensions and 1e-8 in 70, 128 and 512.
# logpdf itself is right in 512 dimensions at concentration 50, but +inf at 10 (true: 877.9).
# Who meets it: whoever measures how concentrated normalised embeddings (128 to 2048 dimensions) are,
# or adds the likelihoods of a mixture; the closed estimate r (d - r^2) / (1 - r^2) works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q scipy==1.17.1 numpy==2.4.6 mpmath==1.3.0
"$folder/env/bin/python" -W ignore - <<'PY'
import mpmath
import numpy as np
import scipy
from scipy.stats import vonmises_fisher

mpmath.mp.dps = 30
print("SciPy", scipy.__version__)


def pole(dimension):
    """First unit vector."""
    return np.eye(dimension)[0]


def true_logpdf(dimension, concentration):
    """Log density at the mean direction, in 30 digits."""
    order = mpmath.mpf(dimension) / 2 - 1
    bessel = mpmath.log(mpmath.besseli(order, concentration))
    sphere = mpmath.mpf(dimension) / 2 * mpmath.log(2 * mpmath.pi)
    return float(order * mpmath.log(concentration) - sphere - bessel + concentration)


for dimension in (64, 70, 128, 512):
    sample = vonmises_fisher(pole(dimension), 500).rvs(500, random_state=1)
    fitted = vonmises_fisher.fit(sample)[1]
    length = np.linalg.norm(sample.mean(0))
    closed = length * (dimension - length**2) / (1 - length**2)
    print(f"{dimension} dimensions, drawn with 500: fit {fitted:.4g}, closed estimate {closed:.1f}")
    assert 490 < closed < 510
    assert 490 < fitted < 510 if dimension == 64 else fitted < 1e-7

for dimension, concentration, finite in ((128, 10, True), (512, 50, True), (512, 10, False),
                                         (1024, 100, False), (2048, 100, False)):
    distribution = vonmises_fisher(pole(dimension), concentration)
    value, entropy = distribution.logpdf(pole(dimension)), distribution.entropy()
    true = true_logpdf(dimension, concentration)
    print(f"{dimension} dimensions, concentration {concentration}: logpdf {value:.1f} (true {true:.1f}),",
          f"entropy {entropy:.1f}")
    if finite:
        assert np.isclose(value, true) and np.isfinite(entropy)
    else:
        assert value == np.inf and np.isnan(entropy) and np.isfinite(true)
print("as described")
PY
