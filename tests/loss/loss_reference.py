"""The papers' losses in float64 NumPy, one sample at a time.

Written from the formulas, and differentiated by central differences, so that nothing is shared
with the code under test. Embeddings are raw: their rows are normalised here.
"""

import functools
import math

import mpmath
import numpy as np
import torch


@functools.cache
def log_normalizer(dim, kappa):
    with mpmath.workdps(30):
        order = mpmath.mpf(dim) / 2 - 1
        value = order * mpmath.log(kappa) - mpmath.mpf(dim) / 2 * mpmath.log(2 * mpmath.pi)
        return float(value - mpmath.log(mpmath.besseli(order, kappa)))


def unit(z):
    return z / np.sqrt((z**2).sum(axis=1, keepdims=True))


def paired(online, target):
    """Each online view with what it has to match (MVEB, multi-crop)."""
    local = (target[0] + target[1]) / 2
    return list(zip(online, [target[1], target[0]] + [local] * (len(online) - 2), strict=True))


def kde_entropy(z, keys, kappa, estimator, leave_one_out):
    """``keys`` begins with the rows of ``z`` themselves."""
    scale = math.exp(log_normalizer(z.shape[1], kappa))
    densities = []
    for i in range(len(z)):
        others = [j for j in range(len(keys)) if not (leave_one_out and j == i)]
        kernels = [math.exp(kappa * float(z[i] @ keys[j])) for j in others]
        densities.append(scale * math.fsum(kernels) / len(others))
    if estimator == "joe":
        return -math.fsum(map(math.log, densities)) / len(z)
    total = math.fsum(densities)
    return -math.fsum(p / total * math.log(p) for p in densities)


def er_loss(online, target, kappa=10.0, estimator="joe", leave_one_out=True, memory=None):
    """Minus (H + E log q), averaged over views, and the two terms."""
    online, target = [unit(z) for z in online], [unit(t) for t in target]
    entropies, reconstructions = [], []
    for z, t in paired(online, target):
        keys = z if memory is None else np.concatenate([z, memory])
        entropies.append(kde_entropy(z, keys, kappa, estimator, leave_one_out))
        cosines = [float(z[i] @ t[i]) for i in range(len(z))]
        reconstructions.append(kappa * np.mean(cosines) + log_normalizer(z.shape[1], kappa))
    return -(np.mean(entropies) + np.mean(reconstructions)), {
        "entropy": np.mean(entropies),
        "reconstruction": np.mean(reconstructions),
        "alignment": (np.mean(reconstructions) - log_normalizer(z.shape[1], kappa)) / kappa,
    }


def softmax(row):
    powers = [math.exp(x - max(row)) for x in row]
    return [p / math.fsum(powers) for p in powers]


def discrete_er_loss(online, target, temperature=0.1, target_temperature=0.04, center=0.0):
    """Minus (H(mean p) + mean s·log p), averaged over views, and the two terms."""
    probs = [np.array([softmax(row / temperature) for row in z]) for z in online]
    target_probs = [
        np.array([softmax(row) for row in (t - center) / target_temperature]) for t in target
    ]
    entropies, reconstructions = [], []
    for p, s in paired(probs, target_probs):
        mean = p.mean(axis=0)
        entropies.append(-math.fsum(q * math.log(q) for q in mean))
        reconstructions.append(math.fsum((s * np.log(p)).ravel()) / len(p))
    return -(np.mean(entropies) + np.mean(reconstructions)), {
        "entropy": np.mean(entropies),
        "reconstruction": np.mean(reconstructions),
    }


def stein_score(z, eta, geometry, bandwidth=None):
    """MVEB's estimate, dense, on the un-normalised kernel."""
    count, dim = z.shape
    if bandwidth is None:
        distances = sorted(float(1 - z[i] @ z[j]) for i in range(count) for j in range(count))
        bandwidth = max(0.1, distances[(len(distances) - 1) // 2])
    kernel = np.exp(z @ z.T / bandwidth)
    right_side = np.zeros_like(z)
    for i in range(count):
        for m in range(count):
            if geometry == "euclidean":
                right_side[i] += kernel[i, m] * z[i] / bandwidth
            else:
                tangential = (z[i] - (z[i] @ z[m]) * z[m]) / bandwidth
                right_side[i] += kernel[i, m] * (tangential - (dim - 1) * z[m])
    return -np.linalg.solve(kernel + eta * np.eye(count), right_side)


def mveb_scores(online, eta=0.01, geometry="euclidean", bandwidth=None):
    return [stein_score(unit(z), eta, geometry, bandwidth) for z in online]


def mveb_loss(online, target, scores, beta=0.01, normalize_local_target=False):
    """Minus (alignment + beta H), H by the surrogate -mean S·z with the scores held fixed."""
    online, target = [unit(z) for z in online], [unit(t) for t in target]
    alignments, surrogates = [], []
    for v, ((z, t), score) in enumerate(zip(paired(online, target), scores, strict=True)):
        if v >= 2 and normalize_local_target:
            t = unit(t)
        alignments.append(np.mean([z[i] @ t[i] for i in range(len(z))]))
        surrogates.append(-np.mean([score[i] @ z[i] for i in range(len(z))]))
    return -(np.mean(alignments) + beta * np.mean(surrogates)), {
        "alignment": np.mean(alignments),
        "entropy_surrogate": np.mean(surrogates),
    }


def numerical_gradients(function, arrays, step=1e-6):
    """Central differences of ``function(arrays)`` with respect to every entry of every array."""
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(*array.shape):
            kept = array[index]
            array[index] = kept + step
            above = function(arrays)
            array[index] = kept - step
            below = function(arrays)
            array[index] = kept
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def views(number, count, dim, seed=0, scale=1.0):
    """Float64 tensors (count, dim), related to each other as views of the same samples are."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(number, count, dim, generator=generator, dtype=torch.float64)
    return [scale * (sample + 0.7 * n) for n in noise]


def check_loss(loss_fn, online, target, reference, rtol=1e-9, gradient_atol=2e-8):
    """Value, terms and gradient against ``reference(online, target) -> (value, terms)``.

    Two tensors (shared branches) when ``target`` is None, else two lists. In float64 a value of
    a few dozen additions agrees to 1e-9 with margin; central differences with step h = 1e-6 have
    the error h^2 f''' + eps |f| / h = 1e-10 to 1e-9 times |f| of about 10.
    """
    leaves = [z.clone().requires_grad_() for z in [*online, *(target or [])]]
    count = len(online)
    loss = loss_fn(*leaves) if target is None else loss_fn(leaves[:count], leaves[count:])
    computed = torch.autograd.grad(loss, leaves)

    arrays = [z.detach().numpy().copy() for z in leaves]

    def value(arrays):
        return reference(arrays[:count], arrays[count:] if target else arrays)[0]

    expected, terms = reference(arrays[:count], arrays[count:] if target else arrays)
    np.testing.assert_allclose(loss.item(), expected, rtol=rtol)
    assert sorted(loss_fn.terms) == sorted(terms)
    for name, term in terms.items():
        assert not loss_fn.terms[name].requires_grad
        np.testing.assert_allclose(loss_fn.terms[name].item(), term, rtol=rtol)
    for gradient, numerical in zip(computed, numerical_gradients(value, arrays), strict=True):
        np.testing.assert_allclose(gradient.numpy(), numerical, rtol=1e-6, atol=gradient_atol)
