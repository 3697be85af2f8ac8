"""The ER family and its neighbours: each step is the paper's formula on the right branches."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from scipy.stats import entropy as scipy_entropy
from torch import nn

from erssl.errors import ConfigError
from erssl.loss import DiscreteERLoss, ERLoss, MVIBLoss
from erssl.methods import get_method
from erssl.models import Prototypes

from .test_methods import TinyBackbone

SMALL = {"projection_hidden_dim": 16, "projection_dim": 8}


def build(name, **options):
    torch.manual_seed(0)
    method = get_method(name)(6, 2, backbone=TinyBackbone(), **SMALL, **options)
    return apart(method).eval()  # eval: batch statistics would depend on grouping


def apart(method):
    """Move the target away from the online branch, else a step that confuses them would pass."""
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.startswith("target_"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def views(local=0):
    generator = torch.Generator().manual_seed(1)
    sizes = [8, 8, *[5] * local]
    return [torch.randn(6, 3, s, s, generator=generator) for s in sizes]


def target_of(method, images):
    return method.target_projection_head(method.target_backbone(images))


@pytest.mark.parametrize("options", [{}, {"leave_one_out": False, "estimator": "plugin"}])
def test_simclr_er_is_the_bound_on_shared_branches(options):
    method = build("simclr_er", **options)
    z0, z1 = (method.embed(v) for v in views())
    step = method.multi_view_step(views())
    expected = ERLoss(10.0, **options)(z0, z1)
    torch.testing.assert_close(step.loss, expected)
    assert step.target.requires_grad


def test_simclr_ers_local_views_meet_the_mean_of_both_global_ones():
    """Each view's entropy, and each view's cosine with what it meets, by a double sum."""
    method = build("simclr_er")
    images = views(local=3)
    step = method.multi_view_step(images)
    z = [F.normalize(method.embed(v).double(), dim=1) for v in images]
    kappa, n = 10.0, len(z[0])
    entropies, reconstructions = [], []
    for v, rows in enumerate(z):
        density = (kappa * rows @ rows.T).exp().fill_diagonal_(0).sum(dim=1) / (n - 1)
        entropies.append(-density.log().mean())
        met = z[1 - v] if v < 2 else (z[0] + z[1]) / 2
        reconstructions.append(kappa * (rows * met).sum(dim=1).mean())
    expected = -(torch.stack(entropies).mean() + torch.stack(reconstructions).mean())
    torch.testing.assert_close(step.loss.double(), expected, rtol=1e-5, atol=1e-5)


def test_byol_is_the_papers_squared_distance_of_predictions_and_crossed_targets():
    method = build("byol", prediction_hidden_dim=16)
    images = views()
    p0, p1 = (method.prediction_head(method.embed(v)) for v in images)
    t0, t1 = (target_of(method, v) for v in images)
    unit = [F.normalize(x, dim=1) for x in (p0, t1, p1, t0)]
    distances = [(a - b).square().sum(1).mean() for a, b in (unit[:2], unit[2:])]
    step = method.multi_view_step(images)
    torch.testing.assert_close(step.loss + 4, sum(distances))  # a constant has no gradient
    cosines = F.cosine_similarity(p0, t1).mean() + F.cosine_similarity(p1, t0).mean()
    lightlys = build("byol", prediction_hidden_dim=16, loss_scale=1.0)
    lightlys.load_state_dict(method.state_dict())
    torch.testing.assert_close(lightlys.multi_view_step(images).loss, -cosines / 2)
    assert not step.target.requires_grad
    assert {"prediction_head", "projection_head", "backbone"} <= {
        name for name, module in method.named_children() if module in method.trained_modules()
    }


@pytest.mark.parametrize("entropy_of", ["projection", "prediction"])
def test_byol_er_predicts_the_mean_of_q_and_keeps_the_entropy_it_names(entropy_of):
    method = build("byol_er", prediction_hidden_dim=16, entropy_of=entropy_of, kappa=4.0)
    images = views()
    z = [method.embed(v) for v in images]
    p = [method.prediction_head(x) for x in z]
    t = [target_of(method, v) for v in images]
    step = method.multi_view_step(images)
    entropy_only, all_of_it = ERLoss(4.0), ERLoss(4.0)
    spread = z if entropy_of == "projection" else p
    entropy_only(*spread)
    all_of_it(p, t)
    expected = entropy_only.terms["entropy"] + all_of_it.terms["reconstruction"]
    torch.testing.assert_close(step.loss, -expected.float())
    with pytest.raises(ConfigError, match="choose projection or prediction"):
        build("byol_er", entropy_of="target")


def test_dino_is_lightlys_loss_with_every_view_against_the_other_globals():
    method = build("dino", num_prototypes=5)
    images = views(local=2)
    student = [method.prototypes(method.embed(v)) for v in images]
    teacher = [method.target_prototypes(target_of(method, v)) for v in images[:2]]
    expected = DINOLoss(5)(teacher, student)
    torch.testing.assert_close(method.multi_view_step(images).loss, expected)


@pytest.mark.parametrize("center", [True, False])
def test_dinos_centre_moves_or_stays_at_zero(center):
    method = build("dino", num_prototypes=5, center=center)
    method.multi_view_step(views())
    assert bool(method.criterion.center.any()) is center


def test_dinos_head_has_batch_normalisation_where_it_is_asked_for():
    for head_norm in (True, False):
        head = build("dino", num_prototypes=5, head_norm=head_norm).projection_head
        assert any(isinstance(m, torch.nn.BatchNorm1d) for m in head.modules()) is head_norm


def test_dinos_last_layer_rests_in_its_first_epochs():
    method = build("dino", num_prototypes=5, freeze_prototypes_epochs=1)
    method.multi_view_step(views()).loss.backward()
    assert method.prototypes.layer.weight.grad is not None
    method.on_after_backward()  # epoch 0
    assert method.prototypes.layer.weight.grad is None
    assert method.backbone.conv.weight.grad is not None


@pytest.mark.parametrize("center", [True, False])
def test_dino_er_is_the_discrete_bound_on_dinos_branches(center):
    method = build("dino_er", num_prototypes=5, center=center)
    images = views(local=1)
    student = [method.prototypes(method.embed(v)) for v in images]
    teacher = [method.target_prototypes(target_of(method, v)) for v in images[:2]]
    # DINO's loop: every target meets every other view; the centre is 0 at the first step
    targets = [(t / 0.04).softmax(1) for t in teacher]
    terms = []
    for i, target in enumerate(targets):
        for j, logits in enumerate(student):
            if i != j:
                mean = (logits / 0.1).softmax(1).mean(0)
                cross = (target * (logits / 0.1).log_softmax(1)).sum(1).mean()
                terms.append(-(mean * mean.log()).sum() + cross)
    torch.testing.assert_close(method.multi_view_step(images).loss, -sum(terms) / len(terms))
    alike = build("dino_er", num_prototypes=5, center=center, local_view_weight=1.0)
    alike.load_state_dict(build("dino_er", num_prototypes=5, center=center).state_dict())
    expected = DiscreteERLoss(0.1, 0.04)(student, teacher)
    torch.testing.assert_close(alike.multi_view_step(images).loss, expected)
    assert (method.criterion.center is not None) is center


def test_swav_er_is_the_bound_with_soft_codes_and_their_entropy():
    method = build("swav_er", num_prototypes=5)
    images = views(local=1)
    scores = [method.prototypes(method.embed(v)) for v in images]
    codes = [(s / 0.05).softmax(dim=1) for s in scores]
    pairs = [(i, j) for i in (0, 1) for j in range(3) if i != j]  # a code, a view that predicts it
    entropy = sum(-(codes[j].mean(0) * codes[j].mean(0).log()).sum() for _, j in pairs) / 4
    predictions = [(s / 0.1).log_softmax(1) for s in scores]
    reconstruction = sum((codes[i] * predictions[j]).sum(1).mean() for i, j in pairs) / 4
    expected = -(entropy + reconstruction)
    step = method.multi_view_step(images)
    torch.testing.assert_close(step.loss, expected)
    torch.testing.assert_close(method.logits(method.embed(images[0])), scores[0] / 0.1)


def deepcluster(name, **options):
    return build(name, num_prototypes=3, num_clusterings=2, memory_bank_size=32, **options)


def test_deepclusters_loss_is_cross_entropy_with_the_other_views_nearest_centroid():
    method = deepcluster("deepclusterv2")
    images = views(local=1)
    z = [F.normalize(method.embed(v), dim=1) for v in images]
    losses = []
    for prototypes in method.prototypes:
        for view, other in ((0, 1), (1, 0), (2, 0)):
            for i in range(6):
                cluster = max(range(3), key=lambda k: float(z[other][i].detach() @ prototypes[k]))
                logits = z[view][i] @ prototypes.T / 0.1
                losses.append(logits.logsumexp(0) - logits[cluster])
    step = method.multi_view_step(images)
    torch.testing.assert_close(step.loss, torch.stack(losses).mean())


def test_deepcluster_er_adds_the_entropy_of_the_mean_prediction():
    method = deepcluster("deepcluster_er")
    plain = deepcluster("deepclusterv2")
    plain.load_state_dict(method.state_dict())
    images = views()
    z = [F.normalize(method.embed(v), dim=1) for v in images]
    entropies = []
    for prototypes in method.prototypes:
        for v in z:
            p = (v @ prototypes.T / 0.1).softmax(dim=1).mean(dim=0)
            entropies.append(float(scipy_entropy(p.detach().numpy())))
    expected = plain.multi_view_step(images).loss.item() - sum(entropies) / len(entropies)
    assert method.multi_view_step(images).loss.item() == pytest.approx(expected, rel=1e-4)


def test_deepcluster_finds_the_clusters_of_its_queue_and_keeps_them_in_the_state_dict():
    method = deepcluster("deepclusterv2")
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[:3]
    rows = centres.repeat(10, 1) + 0.05 * torch.randn(30, 8, generator=generator)
    method.bank.push(F.normalize(rows, dim=1))
    before = method.prototypes.clone()
    method.cluster()
    assert not torch.equal(method.prototypes, before)
    for prototypes in method.prototypes:
        order = (prototypes @ centres.T).argmax(dim=0)
        assert sorted(order.tolist()) == [0, 1, 2]
        assert float((prototypes[order] * centres).sum(dim=1).min()) > 0.98
    other = deepcluster("deepclusterv2")
    other.load_state_dict(method.state_dict())
    torch.testing.assert_close(other.prototypes, method.prototypes)
    torch.testing.assert_close(other.bank.rows(), method.bank.rows())
    assert bool(other.clustered)


def test_deepcluster_clusters_as_soon_as_its_queue_holds_two_rows_a_cluster():
    method = deepcluster("deepclusterv2").train()
    method.multi_view_step(views())  # 6 rows for 3 clusters
    assert bool(method.clustered)
    with pytest.raises(ConfigError, match="two rows a cluster"):
        get_method("deepclusterv2")(6, 2, backbone=TinyBackbone(), memory_bank_size=100)


@pytest.mark.parametrize("name", ["dino", "dino_er", "swav_er", "deepclusterv2", "deepcluster_er"])
def test_fewer_than_two_outputs_are_refused(name):
    with pytest.raises((ConfigError, ValueError), match=r"num_prototypes.* at least 2"):
        get_method(name)(6, 2, backbone=TinyBackbone(), num_prototypes=1)


@pytest.mark.parametrize("name", ["simclr_er", "byol_er", "entrec"])
def test_queue_of_another_dimension_is_refused(name):
    with pytest.raises(ConfigError, match=r"memory_bank_size=\[64, 9\] must be 0 or \[n, d\]"):
        build(name, memory_bank_size=[64, 9])
    assert build(name, memory_bank_size=[64, 8]).criterion is not None


@pytest.mark.parametrize("estimator", ["infonce", "mine", "mige"])
def test_mvib_is_its_loss_and_embeds_the_mean(estimator):
    method = build("mvib", estimator=estimator)
    images = views()
    posteriors = [method.projection_head(method(v)) for v in images]
    assert [p.shape for p in posteriors] == [(6, 16)] * 2
    torch.testing.assert_close(method.embed(images[0]), posteriors[0][:, :8])
    reference = MVIBLoss(1e-3, 0.5, estimator=estimator, dim=8)
    reference.load_state_dict(method.criterion.state_dict())
    torch.manual_seed(3)
    expected = reference(*posteriors)
    torch.manual_seed(3)
    step = method.multi_view_step(images)
    torch.testing.assert_close(step.loss, expected)
    step.loss.backward()
    assert method.backbone.conv.weight.grad.isfinite().all()
    trained = {id(p) for m in method.trained_modules() for p in m.parameters()}
    assert {id(p) for p in method.criterion.parameters()} <= trained  # MINE's critic learns too


def test_prototypes_are_cosines():
    layer = Prototypes(4, 3)
    z = torch.randn(5, 4)
    expected = torch.stack(
        [nn.CosineSimilarity(dim=1)(z, row.expand(5, 4)) for row in layer.layer.weight], dim=1
    )
    torch.testing.assert_close(layer(z), expected)
    itself = layer(layer.layer.weight).diagonal()
    torch.testing.assert_close(itself, torch.ones(3))


@pytest.mark.parametrize("with_entropy", [False, True])
def test_the_entropy_keeps_clusters_in_use_without_sinkhorn(with_entropy):
    """Soft codes without balancing run into few clusters; with the bound all stay in use."""
    method = build("swav_er", num_prototypes=8).train()
    parameters = [p for m in method.trained_modules() for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 8, 8, generator=generator)
    for _ in range(150):
        noisy = [images + 0.3 * torch.randn(64, 3, 8, 8, generator=generator) for _ in range(2)]
        _, z = method.online_branch(noisy)
        scores = [method.prototypes(v) for v in z]
        loss = method.criterion(scores, scores)
        if not with_entropy:
            means = [(s / 0.05).softmax(dim=1).mean(dim=0) for s in scores]
            loss = loss - sum((p * p.log()).sum() for p in means) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    share = float(method.criterion.terms["entropy"]) / math.log(8)
    assert share > 0.85 if with_entropy else share < 0.1
