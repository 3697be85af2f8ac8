#!/usr/bin/env bash
# dcor 0.7: distance correlation, energy distance and their tests of uint8 rows (images, codes of a
# quantiser) come from squared differences modulo 256, silently; as int32, uint16, float32 they are right.
#
# Guess: rows of integers go through SciPy's cdist, which computes in double, so the type of pixels
# does not count (an overflow of long integer columns was reported, and mended, in 2023).
# Seen: SciPy is used for floats and signed integers; of unsigned ones differences and squares are
# taken in their own type. With uint8 everything beyond a difference of 15 wraps. For 200 rows of
# 48 pixels and a noisy copy of them the bias-corrected squared correlation is -0.006, not 0.62,
# and the permutation test does not find the dependence; nor does the energy test find that images
# were darkened by half. Plain distance correlation stays between 0 and 1, so nothing looks wrong.
# Who meets it: comparing raw pixels or 8-bit codes with features, or two sets of images for a shift.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q dcor==0.7 numpy==2.4.6 scipy==1.17.1
"$folder/env/bin/python" -W error - <<'PY'
from importlib.metadata import version

import dcor
import numpy as np

print("dcor", version("dcor"))
generator = np.random.default_rng(0)
images = generator.integers(0, 256, (200, 48))
noisy = np.minimum(images // 2 + generator.integers(0, 100, images.shape), 255)
others = generator.integers(0, 256, images.shape)
options = {"num_resamples": 99, "random_state": 0}


def readings(dtype, divisor=1):
    """Statistics of the images as this type, their values divided first."""
    first, copy, second, dark = (
        (rows // divisor).astype(dtype) for rows in (images, noisy, others, images // 2)
    )
    return {
        "correlation with the copy": dcor.distance_correlation(first, copy),
        "with other images": dcor.distance_correlation(first, second),
        "bias-corrected, squared, copy": dcor.u_distance_correlation_sqr(first, copy),
        "p of independence of the copy": dcor.independence.distance_covariance_test(
            first, copy, **options
        ).pvalue,
        "energy distance to darkened": dcor.energy_distance(first, dark),
        "p of equal distributions": dcor.homogeneity.energy_test(first, dark, **options).pvalue,
    }


found = {}
for dtype in (np.float64, np.float32, np.int32, np.uint16, np.uint8):
    found[dtype] = values = readings(dtype)
    print(np.dtype(dtype).name, {name: round(float(value), 4) for name, value in values.items()})
    if dtype != np.uint8:
        assert np.allclose(list(values.values()), list(found[np.float64].values()), rtol=1e-3)
right, wrong = (list(found[dtype].values()) for dtype in (np.float64, np.uint8))
assert np.allclose(right, [0.898, 0.700, 0.624, 0.01, 362.9, 0.01], rtol=2e-3), right
assert 0.8 < wrong[0] < wrong[1] < 0.82, "the copy looks less dependent than other images"
assert abs(wrong[2]) < 0.02 and wrong[3] > 0.2
assert 0.6 < wrong[4] < 0.8 and wrong[5] > 0.2

assert np.allclose(list(readings(np.uint8, 16).values()), list(readings(float, 16).values()))
print("values of 0 to 15: uint8 as float64")
print("as described")
PY
