"""What surprises in lightly's losses (1.6.0), and does not in ours.

When one of these fails, it was repaired there: mend docs/agreement.md.
"""

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import EMPSSLLoss as LightlyEMPSSL
from lightly.loss import FroSSLLoss as LightlyFroSSL
from lightly.loss import KoLeoLoss, LeWMLoss
from lightly.loss import LeJEPALoss as LightlyLeJEPA
from lightly.loss import TiCoLoss as LightlyTiCo

from erssl.entropy import log_neighbour_distance
from erssl.loss import EMPSSLLoss, FroSSLLoss, LeJEPALoss, TiCoLoss

from .test_frontier_losses import D, N, draw, unit


def test_lightlys_emp_ssl_rewards_a_point():
    # It adds the coding rate; EMP-SSL's code subtracts it. When this fails, it was repaired.
    point, spread = [torch.ones(N, D)] * 2, [z.float() for z in draw(1)] * 2
    assert LightlyEMPSSL()([unit(z) for z in point]) < LightlyEMPSSL()([unit(z) for z in spread])
    assert EMPSSLLoss()(point) > EMPSSLLoss()(spread)


def test_lightlys_frossl_is_nan_at_zeros_and_ours_is_not():
    assert LightlyFroSSL()([torch.zeros(N, D)] * 2).isnan()
    assert FroSSLLoss()([torch.zeros(N, D)] * 2).isfinite()


def test_lightlys_tico_loses_its_covariance_with_the_run_and_rounds_it():
    theirs = LightlyTiCo()
    views = [z.float() for z in draw(2)]
    with torch.autocast("cpu", torch.bfloat16):
        theirs(*views)
        ours = TiCoLoss(D)
        ours(*(z.requires_grad_() for z in views))
    assert not theirs.state_dict()
    assert theirs.C.dtype == torch.bfloat16
    assert ours.state_dict()["covariance"].dtype == torch.float32


def test_lightlys_koleo_has_no_gradient_at_a_collapse():
    z = unit(torch.ones(N, D)).requires_grad_()
    KoLeoLoss()(z).backward()
    along = (z.grad * z).sum(dim=1, keepdim=True) * z  # which changes no direction
    assert (z.grad - along).abs().max() < 1e-6


def test_lightlys_lejepa_refuses_a_pair_of_views_and_ours_does_not():
    pair = torch.stack([z.float() for z in draw(2)])
    with pytest.raises(ValueError, match="local_proj must have at least one local view"):
        LightlyLeJEPA()(local_proj=pair[:0], global_proj=pair)
    assert LeJEPALoss()(*pair).isfinite()


def test_the_entropies_of_frossl_do_not_tell_opposite_views_from_equal_ones():
    z = unit(draw(1)[0])
    same, opposite = FroSSLLoss(invariance_weight=0.0)([z, z]), FroSSLLoss(0.0)([z, -z])
    torch.testing.assert_close(same, opposite)
    assert FroSSLLoss()([z, -z]) > FroSSLLoss()([z, z])


def test_lightlys_lewm_stops_the_gradient_that_its_docstring_says_it_needs_no_stop_of():
    predicted, target, frames = (torch.randn(4, 3, D).requires_grad_() for _ in range(3))
    LeWMLoss()(predicted=predicted, target=target, embeddings=frames).backward()
    assert target.grad is None or target.grad.abs().max() == 0
    assert predicted.grad.abs().max() > 0
    assert "LeWM needs no\n    stop-gradient" in LeWMLoss.__doc__


def test_koleo_at_exact_copies_has_no_gradient_and_near_them_one():
    z = torch.ones(4, 3).requires_grad_()
    log_neighbour_distance(F.normalize(z, dim=1)).mean().backward()
    assert z.grad.abs().max() == 0
    near = F.normalize(1 + 1e-3 * draw(1, 4, 3)[0], dim=1).requires_grad_()
    log_neighbour_distance(near).mean().backward()
    assert near.grad.norm() > 100
