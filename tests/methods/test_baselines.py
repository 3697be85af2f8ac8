"""Each baseline's step against its paper's formula, written out in loops or by lightly."""

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, NTXentLoss, SwaVLoss, VICRegLoss
from pytorch_lightning import seed_everything
from torch import nn

from erssl.errors import ConfigError
from erssl.methods import OptimizerOptions, get_method
from erssl.methods.unigrad import UniGradLoss
from erssl.models import BackboneOptions, build_backbone

from .test_methods import TinyBackbone, build, fit

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
SMALL_DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def views(*sizes, n=6):
    return [torch.randn(n, 3, s, s) for s in sizes or (8, 8)]


def double(name, **options):
    """The method in float64, its target unlike its online branch, batch statistics fixed."""
    seed_everything(0)
    method = build(name, **options).double().eval()
    with torch.no_grad():
        for key, p in method.named_parameters():
            if key.startswith("target_"):
                p.mul_(1.5).add_(0.1)
    return method, [v.double() for v in views()]


def unit(rows):
    return [r / r.norm() for r in rows]


def info_nce(queries, keys, tau):
    losses = []
    for i, q in enumerate(unit(queries)):
        scores = [torch.dot(q, k) / tau for k in unit(keys)]
        losses.append(torch.log(sum(s.exp() for s in scores)) - scores[i])
    return sum(losses) / len(losses)


def close(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss_scale", [2.0, 1.0])
def test_cmc_is_both_directions_with_negatives_of_the_other_view_only(loss_scale):
    method, (a, b) = double("cmc", temperature=0.3, loss_scale=loss_scale)
    z0, z1 = method.embed(a), method.embed(b)
    expected = loss_scale * 0.5 * (info_nce(z0, z1, 0.3) + info_nce(z1, z0, 0.3))
    close(method.multi_view_step([a, b]).loss, expected)
    assert not torch.isclose(NTXentLoss(0.3)(z0, z1), expected)  # which has negatives of both


def test_simclr_is_the_sum_of_both_directions_and_half_of_it_lightlys():
    method, (a, b) = double("simclr")
    z = unit([*method.embed(a), *method.embed(b)])
    n, losses = len(z) // 2, []
    for i in range(2 * n):
        scores = torch.stack([torch.dot(z[i], z[j]) / 0.1 for j in range(2 * n) if j != i])
        losses.append(torch.logsumexp(scores, 0) - torch.dot(z[i], z[(i + n) % (2 * n)]) / 0.1)
    close(method.multi_view_step([a, b]).loss, sum(losses[:n]) / n + sum(losses[n:]) / n)
    lightlys = NTXentLoss(0.1)(method.embed(a), method.embed(b))
    method, _ = double("simclr", loss_scale=1.0)
    close(method.multi_view_step([a, b]).loss, lightlys)
    with pytest.raises(ConfigError, match=r"method.loss_scale must be above 0 but is 0"):
        build("simclr", loss_scale=0.0)


@pytest.mark.parametrize("name", ["simclr", "cmc", "simclr_er", "entrec"])
def test_simclrs_last_layer_is_normalised_without_shift(name):
    method = build(name)
    norm = method.projection_head.layers[-1]
    assert isinstance(norm, nn.BatchNorm1d)
    z = method.projection_head(torch.randn(64, 12))
    torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, unbiased=False), torch.ones(8), atol=1e-2, rtol=0)
    trained = {id(p) for m in method.trained_modules() for p in m.parameters() if p.requires_grad}
    assert id(norm.weight) in trained
    assert id(norm.bias) not in trained
    plain = build(name, output_norm=False).projection_head.layers[-1]
    assert isinstance(plain, nn.Linear)
    assert plain.bias is not None


def test_mocov3_is_two_tau_times_info_nce_of_predictions_and_keys():
    method, (a, b) = double("mocov3", temperature=0.5, prediction_hidden_dim=16)
    q = [method.prediction_head(method.embed(v)) for v in (a, b)]
    k = [method.target_projection_head(method.target_backbone(v)) for v in (a, b)]
    expected = 2 * 0.5 * (info_nce(q[0], k[1], 0.5) + info_nce(q[1], k[0], 0.5))
    close(method.multi_view_step([a, b]).loss, expected)
    assert method.prediction_head.layers[-1].bias is None
    assert method.projection_head.layers[-1].weight is None  # batch normalisation without gain


def test_mocov2_contrasts_with_the_keys_of_earlier_batches():
    method, (a, b) = double("mocov2", memory_bank_size=[9, 8])
    assert isinstance(method.projection_head.layers[1], nn.ReLU)  # no batch normalisation
    query, keys = method.embed(a), method.target_projection_head(method.target_backbone(b))
    method.criterion.train()
    first = method.multi_view_step([a, b]).loss
    assert first == 0  # there are no negatives yet
    queued = torch.stack(unit(keys.detach()))
    expected = 0.0
    for q, k in zip(unit(query), unit(keys), strict=True):
        scores = torch.stack([torch.dot(q, k), *[torch.dot(q, n) for n in queued]]) / 0.2
        expected += (torch.logsumexp(scores, 0) - scores[0]) / len(query)
    step = method.multi_view_step([a, b])
    close(step.loss, expected)
    step.loss.backward()
    assert all(p.grad is None for p in method.target_backbone.parameters())
    assert step.target.requires_grad is False
    assert int(method.criterion.queue.filled) == 9  # 12 keys passed through
    other, _ = double("mocov2", memory_bank_size=[9, 8])
    other.load_state_dict(method.state_dict())
    close(other.criterion.queue.rows(), method.criterion.queue.rows())


def test_with_a_full_queue_mocov2_is_lightlys_loss():
    method, (a, b) = double("mocov2", memory_bank_size=6)
    method.criterion.train()
    method.multi_view_step([a, b])
    theirs = NTXentLoss(0.2, memory_bank_size=(6, 8))
    theirs.memory_bank.bank = method.criterion.queue.rows().clone()
    theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    step = method.multi_view_step([b, a])
    close(step.loss, theirs(step.online.detach(), step.target))


@pytest.mark.parametrize(
    ("size", "sentence"),
    [([4, 9], r"memory_bank_size=\[4, 9\] must be 0 or \[n, d\]"), (0, "leaves no negatives")],
)
@pytest.mark.parametrize("name", ["mocov2", "infomin"])
def test_a_queue_of_another_dimension_or_of_none_is_refused(name, size, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(name, memory_bank_size=size)


def test_infomin_is_mocov2_with_another_temperature():
    ours, (a, b) = double("infomin", memory_bank_size=6)
    theirs, _ = double("mocov2", memory_bank_size=6, temperature=0.15)
    for method in (ours, theirs):
        method.criterion.train()
        method.multi_view_step([a, b])
    close(ours.multi_view_step([a, b]).loss, theirs.multi_view_step([a, b]).loss)


def test_simsiam_takes_no_gradient_on_the_targets_side():
    method, (a, b) = double("simsiam", prediction_hidden_dim=4)
    z = [method.embed(v) for v in (a, b)]
    p = [method.prediction_head(x) for x in z]
    cosines = [F.cosine_similarity(p[i], z[1 - i].detach(), dim=1).mean() for i in (0, 1)]
    expected = -0.5 * (cosines[0] + cosines[1])
    loss = method.multi_view_step([a, b]).loss
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    weight = method.backbone.conv.weight
    ours = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(expected, weight)[0], rtol=1e-4, atol=1e-6)


def test_simsiams_predictor_keeps_its_learning_rate():
    method = build("simsiam", optimizer=OptimizerOptions("sgd", warmup_epochs=0))
    _, trainer = fit(method)
    groups = {g["name"]: g["lr"] for g in trainer.optimizers[0].param_groups}
    assert groups["decay_constant_lr"] > 100 * groups["decay"]


def test_barlow_twins_and_vicreg_are_lightlys_losses_and_the_formulas():
    method, (a, b) = double("barlowtwins", lambda_param=0.1)
    z0, z1 = (method.embed(v) for v in (a, b))
    loss = method.multi_view_step([a, b]).loss
    torch.testing.assert_close(loss, BarlowTwinsLoss(0.1)(z0, z1))
    s = [(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z0, z1)]
    c = s[0].T @ s[1] / len(z0)
    d = range(len(c))
    expected = sum((c[i, j] - 1) ** 2 if i == j else 0.1 * c[i, j] ** 2 for i in d for j in d)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)

    method, (a, b) = double("vicreg", lambda_param=3.0, mu_param=2.0, nu_param=0.5)
    z0, z1 = (method.embed(v) for v in (a, b))
    loss = method.multi_view_step([a, b]).loss
    torch.testing.assert_close(loss, VICRegLoss(3.0, 2.0, 0.5)(z0, z1))
    expected = 3.0 * ((z0 - z1) ** 2).mean()
    for z in (z0, z1):
        expected += 2.0 * 0.5 * (1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean()
        cov = torch.cov(z.T)
        expected += 0.5 * sum(cov[i, j] ** 2 for i in d for j in d if i != j) / len(d)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_unigrads_gradient_pulls_to_the_target_and_pushes_along_its_second_moment():
    torch.manual_seed(0)
    z0, z1, m0, m1 = (F.normalize(torch.randn(5, 4, dtype=torch.double), dim=1) for _ in range(4))
    for z in (z0, z1):
        z.requires_grad_()
    loss = UniGradLoss(4, lambda_param=7.0, rho=0.9).double()
    first = (m0.T @ m0 + m1.T @ m1) / 10
    value = loss(z0, z1, m0, m1)
    close(loss.second_moment, first)
    expected = 0.0
    for z, m in ((z0, m1), (z1, m0)):
        for i in range(5):
            expected += (-z[i] @ m[i] + 3.5 * z[i] @ first @ z[i]) / 10
    close(value, expected)
    ours = torch.autograd.grad(value, z0)[0]
    free = (-m1 + 7.0 * z0 @ first) / 10  # the paper's gradient, here on the sphere
    close(ours, (free - (free * z0).sum(1, keepdim=True) * z0).detach())
    loss(z0, z1, m1, m1)
    close(loss.second_moment, 0.9 * first + 0.1 * (m1.T @ m1) / 5)
    kept = loss.second_moment.clone()
    loss.eval()(z0, z1, m0, m0)
    close(loss.second_moment, kept)
    other = UniGradLoss(4, lambda_param=7.0, rho=0.9).double()
    other.load_state_dict(loss.state_dict())
    close(other(z0, z1, m0, m1), loss.train()(z0, z1, m0, m1))
    with pytest.raises(ConfigError, match=r"rho must lie in \[0, 1\) but is 1"):
        UniGradLoss(4, 1.0, rho=1.0)


def test_unigrad_step_gives_its_loss_the_targets_of_the_other_view():
    method, (a, b) = double("unigrad")
    z = [method.embed(v) for v in (a, b)]
    m = [method.target_projection_head(method.target_backbone(v)) for v in (a, b)]
    close(method.multi_view_step([a, b]).loss, UniGradLoss(8, 100.0, 0.99).double()(*z, *m))


def test_self_classifier_is_the_cross_entropy_under_a_uniform_prior_with_gradient_on_both_sides():
    torch.manual_seed(0)
    loss = build("self_classifier", classes_per_head=[5], temperature=0.4).criterion
    outputs = [torch.randn(6, 5, dtype=torch.double, requires_grad=True) for _ in range(4)]

    def pair(target, prediction):
        total = 0.0
        joint = torch.exp(target / 0.05)
        a = joint / joint.sum(0)
        p = torch.exp(prediction / 0.4)
        p = p / p.sum(1, keepdim=True)
        for n in range(6):
            for c in range(5):
                t = a[n, c] / a[n].sum()
                total -= t * torch.log(6 / 5 * p[n, c] / p[:, c].sum()) / 6
        return total

    pairs = [(i, j) for i, j in permutations(range(4), 2) if not (i > 1 and j > 1)]
    assert len(pairs) == 10
    expected = sum(pair(outputs[i], outputs[j]) for i, j in pairs) / 10
    value = loss(outputs)
    close(value, expected)
    one_way = -(loss._sides(outputs[0])[0] * loss._sides(outputs[1])[1]).sum(-1).mean()
    close(one_way, pair(outputs[0], outputs[1]))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(one_way, outputs[:2]))
    close(
        torch.stack(torch.autograd.grad(value, outputs)),
        torch.stack(torch.autograd.grad(expected, outputs)),
    )


def test_self_classifier_averages_its_heads_and_prefers_full_classes_that_agree():
    method = build("self_classifier", classes_per_head=[4, 6])
    step = method.multi_view_step(views(8, 8, 5))
    z = method.eval().embed(views(8)[0])
    assert step.loss.shape == ()
    assert method.logits(z).shape == (6, 4)
    assert method.classifiers[0].gain.requires_grad
    one_hot = torch.eye(4).repeat(2, 1)
    collapsed = torch.zeros(8, 4) + torch.tensor([1.0, 0, 0, 0])
    assert method.criterion([one_hot, one_hot]) < 1e-3
    close(method.criterion([collapsed, collapsed]), math.log(4))
    for wrong in ([], [4, 1]):
        with pytest.raises(ConfigError, match="must name at least one number"):
            build("self_classifier", classes_per_head=wrong)


def test_swav_step_is_the_swapped_prediction_of_balanced_codes():
    method, _ = double("swav", num_prototypes=4)
    method.float()
    a, b, local = views(8, 8, 5)
    with torch.no_grad():
        method.prototypes.layer.weight.mul_(3)  # only directions count
    w = torch.stack(unit(method.prototypes.layer.weight))
    s = [torch.stack(unit(method.embed(v))) @ w.T for v in (a, b, local)]
    codes = []
    for scores in s[:2]:
        q = torch.exp(scores.detach() / 0.05)
        for _ in range(3):
            q = q / q.sum(0) / 4
            q = q / q.sum(1, keepdim=True) / 6
        codes.append(6 * q)
        torch.testing.assert_close(codes[-1].sum(1), torch.ones(6))
    expected = 0.0
    for i in (0, 1):
        for v in (0, 1, 2):
            if v != i:
                expected -= (codes[i] * F.log_softmax(s[v] / 0.1, 1)).sum(1).mean() / 2 / 2
    loss = method.multi_view_step([a, b, local]).loss
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.logits(method.embed(a)), s[0] / 0.1)


def test_swav_queue_counts_once_it_is_full_and_survives_a_checkpoint():
    seed_everything(0)
    method = build("swav", num_prototypes=4, queue_length=12, queue_start_epoch=0)
    plain = build("swav", num_prototypes=4)
    shared = {k: v for k, v in method.state_dict().items() if "queue" not in k}
    plain.load_state_dict(plain.state_dict() | shared)
    batches = [views() for _ in range(3)]
    for step, batch in enumerate(batches):
        queued = [method.queue0.rows(), method.queue1.rows()]
        loss, alone = method.multi_view_step(batch).loss, plain.multi_view_step(batch).loss
        z = method.projection_head(method(torch.cat(batch)))  # statistics of both views, as there
        s = list(method.prototypes(z).chunk(2))
        if step < 2:
            torch.testing.assert_close(loss, alone)
        else:
            expected = SwaVLoss()(s, [], [method.prototypes(q) for q in queued])[0]
            torch.testing.assert_close(loss, expected)
            assert not torch.isclose(loss, alone)
    torch.testing.assert_close(method.queue1.rows()[:6], z.detach()[6:])
    other = build("swav", num_prototypes=4, queue_length=12)
    other.load_state_dict(method.state_dict())
    torch.testing.assert_close(other.queue0.rows(), method.queue0.rows())
    late = build("swav", num_prototypes=4, queue_length=12, queue_start_epoch=1)
    late.multi_view_step(batches[0])
    assert late.queue0.rows() is None


def test_swav_prototypes_rest_at_first():
    options = {"num_prototypes": 4, "optimizer": OptimizerOptions("sgd", warmup_epochs=0)}
    for epochs, moved in ((1, False), (2, True)):
        seed_everything(0)
        method = build("swav", **options)
        before = method.prototypes.layer.weight.clone()
        fit(method, epochs=epochs)
        assert torch.equal(method.prototypes.layer.weight, before) is not moved


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cmc", "temperature"),
        ("mocov2", "temperature"),
        ("swav", "sinkhorn_epsilon"),
        ("self_classifier", "target_temperature"),
    ],
)
def test_a_temperature_of_0_is_refused(name, option):
    with pytest.raises(ConfigError, match=rf"method.{option}"):
        build(name, **{option: 0.0})


def masked(name, vit=VIT, **options):
    options = (SMALL_DECODER if name == "mae" else {"mask_size": 8}) | options
    backbone = build_backbone(BackboneOptions("vit_base_patch16_224", library="timm", options=vit))
    return get_method(name)(16, 2, backbone=backbone, **options)


@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_masked_methods_learn_from_one_view_and_keep_one_copy_of_the_backbone(name):
    seed_everything(0)
    method = masked(name, optimizer=OptimizerOptions("adamw", base_lr=0.05, warmup_epochs=0))
    losses, trainer = fit(method, sizes=(16,), epochs=4)
    assert sum(losses[-4:]) < sum(losses[:4])
    groups = trainer.optimizers[0].param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in method.parameters() if p.requires_grad]
    assert len(ids) == len(set(ids))
    assert set(trained) <= set(ids)
    storages = [v.data_ptr() for v in method.state_dict().values() if v.numel() > 1]
    assert len(storages) == len(set(storages))
    other = masked(name)
    other.load_state_dict(method.state_dict())
    images = torch.randn(4, 3, 16, 16)
    method.eval(), other.eval()
    torch.testing.assert_close(other.embed(images), method.embed(images))
    torch.testing.assert_close(method.embed(images), method.backbone(images))


def _predict(method, images):
    """What the method says of the masked patches, by timm's own forward pass; and where."""
    vit, p = method.backbone, method.patch_size
    if isinstance(method, get_method("mae")):
        keep, drawn = method.draw_mask(images)
        method.draw_mask = lambda _: (keep, drawn)
        mask = drawn - 1
        tokens = vit._pos_embed(vit.patch_embed(images))
        seen = torch.stack([t[k] for t, k in zip(tokens, keep, strict=True)])
        seen = vit.norm(vit.blocks(seen))
        x = method.decoder.mask_token.repeat(len(images), tokens.shape[1], 1)
        embedded = method.decoder.embed(seen)
        for i, k in enumerate(keep):
            x[i, k] = embedded[i]
        x = method.decoder.blocks(x + method.decoder.pos_embed)
        values = method.decoder.predict(method.decoder.norm(x))[:, 1:]
    else:
        mask = method.draw_mask(images)
        method.draw_mask = lambda _: mask
        tokens = vit.patch_embed(images)
        for i, m in enumerate(mask):
            tokens[i, m] = method.decoder.mask_token[0, 0]
        x = torch.cat([vit.cls_token.expand(len(images), -1, -1), tokens], 1) + vit.pos_embed
        values = method.decoder.predict(vit.norm(vit.blocks(x)))[:, 1:]
    side = images.shape[-1] // p
    patches = images.reshape(len(images), 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1)
    return values, patches.flatten(1, 2).flatten(2), mask


@pytest.mark.parametrize(("name", "n_masked"), [("mae", 12), ("simmim", 12)])
def test_masked_methods_compare_the_masked_patches_and_no_other(name, n_masked):
    seed_everything(0)
    method = masked(name).double().eval()
    images = torch.randn(3, 3, 16, 16).double()
    values, patches, mask = _predict(method, images)
    assert mask.shape == (3, n_masked)  # of 16: 75 % of the patches; 3 of 4 squares
    expected = []
    for i in range(3):
        for m in mask[i]:
            target = patches[i, m]
            if name == "mae":
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                expected.append(((values[i, m] - target) ** 2).mean())
            else:
                expected.append((values[i, m] - target).abs().mean())
    loss = method.multi_view_step([images]).loss
    torch.testing.assert_close(loss.double(), torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)
    two = method.multi_view_step([images, images])
    torch.testing.assert_close(two.loss, loss)  # the mean over views
    assert two.features.shape == two.target.shape == (3, 24)


def test_mae_cannot_see_masked_patches_and_its_masks_are_random():
    seed_everything(0)
    method = masked("mae", norm_pixels=False).eval()
    images = torch.randn(2, 3, 16, 16)
    keep, mask = method.draw_mask(images)
    assert sorted(torch.cat([keep, mask], 1)[0].tolist()) == list(range(17))
    assert (keep[:, 0] == 0).all()  # the class token stays
    assert not torch.equal(method.draw_mask(images)[1], mask)
    method.draw_mask = lambda _: (keep, mask)
    other = images.clone()
    for i in range(2):
        for m in (mask[i] - 1).tolist():
            r, c = divmod(m, 4)
            other[i, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = 7.0
    a, b = (method.encoder.encode(x, idx_keep=keep) for x in (images, other))
    torch.testing.assert_close(a, b)


def test_mae_of_a_constant_image_is_the_square_of_what_it_says():
    """A standardised constant patch is 0 everywhere."""
    method = masked("mae").eval()
    nn.init.zeros_(method.decoder.predict.weight)
    nn.init.constant_(method.decoder.predict.bias, 0.5)
    loss = method.multi_view_step([torch.full((2, 3, 16, 16), 3.0)]).loss
    torch.testing.assert_close(loss, torch.tensor(0.25))


def test_simmim_masks_whole_squares_and_finds_a_constant_image_easy():
    seed_everything(0)
    method = masked("simmim").eval()
    mask = torch.zeros(5, 16).scatter(1, method.draw_mask(torch.zeros(5, 3, 16, 16)), 1.0)
    squares = mask.view(5, 2, 2, 2, 2).mean((2, 4))
    assert set(squares.flatten().tolist()) == {0.0, 1.0}
    assert (squares.sum((1, 2)) == math.ceil(4 * 0.6)).all()
    nn.init.zeros_(method.decoder.predict.weight)
    nn.init.constant_(method.decoder.predict.bias, 3.0)
    assert method.multi_view_step([torch.full((2, 3, 16, 16), 3.0)]).loss == 0
    with pytest.raises(ConfigError, match="Views of 8 pixels cannot be masked in squares"):
        method.draw_mask(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match=r"mask_size=6 must be a multiple .* 4 pixels"):
        masked("simmim", mask_size=6)
    with pytest.raises(ConfigError, match="Views of 16 pixels cannot be masked in squares"):
        masked("simmim", mask_size=16)


@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_masked_methods_take_any_size_that_the_backbone_takes(name):
    method = masked(name, VIT | {"dynamic_img_size": True, "reg_tokens": 2})
    for size in (16, 24, 32):
        assert method.multi_view_step([torch.randn(2, 3, size, size)]).loss.isfinite()


@pytest.mark.parametrize("name", ["mae", "simmim"])
@pytest.mark.parametrize(
    "options",
    [
        {"no_embed_class": True},
        {"no_embed_class": True, "reg_tokens": 2, "dynamic_img_size": True},
        {"class_token": False, "global_pool": "avg"},
        {"init_values": 0.1, "drop_path_rate": 0.1},
    ],
)
def test_masked_methods_train_every_parameter_of_other_transformers(name, options):
    method = masked(name, VIT | options)
    method.multi_view_step(views(16)).loss.backward()
    method.online_classifier.requires_grad_(False)
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"pos_embed": "none"}, "has no position embeddings"),
        ({"global_pool": "map"}, "pools by attention"),
        ({"img_size": (16, 32)}, "takes 4 x 8 patches, not a square"),
    ],
)
def test_masked_methods_refuse_transformers_that_they_would_not_train_well(options, fault):
    with pytest.raises(ConfigError, match=f"the backbone {fault}"):
        masked("mae", VIT | options)


@pytest.mark.parametrize("name", ["mae", "simmim"])
@pytest.mark.parametrize("backbone", ["resnet18", TinyBackbone()])
def test_masked_methods_refuse_other_backbones(name, backbone):
    with pytest.raises(ConfigError, match=r"backbone=timm backbone\.name=vit_base_patch16_224"):
        get_method(name)(16, 2, backbone=backbone)


def test_mae_initialises_the_backbone_unless_told_otherwise():
    backbone = build_backbone(BackboneOptions("vit_base_patch16_224", "timm", options=VIT))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    kept = get_method("mae")(16, 2, backbone=backbone, initialize_backbone=False, **SMALL_DECODER)
    torch.testing.assert_close(dict(kept.backbone.state_dict()), before, rtol=0, atol=0)
    assert kept.backbone.pos_embed.requires_grad
    made = get_method("mae")(16, 2, backbone=backbone, **SMALL_DECODER)
    assert not torch.equal(made.backbone.pos_embed, before["pos_embed"])
    assert made.backbone.pos_embed.requires_grad is False


def test_mae_default_is_the_papers_vit_and_optimiser():
    cls = get_method("mae")
    assert cls.default_backbone == BackboneOptions("vit_base_patch16_224", "timm")
    assert (cls.default_optimizer.name, cls.default_optimizer.beta2) == ("adamw", 0.95)
    assert cls.info.views == "1 or more"
    with pytest.raises(ConfigError, match=r"multiple of 4 and of method\.decoder_heads=3"):
        masked("mae", decoder_heads=3)
    with pytest.raises(ConfigError, match="mask_ratio must lie between 0 and 1 but is 1"):
        masked("mae", mask_ratio=1.0)


def test_nnclr_is_its_papers_algorithm():
    """Neighbours of each view among earlier rows, against the predictions of all images."""
    method, images = double("nnclr", memory_bank_size=16, prediction_hidden_dim=8)
    temperature = 0.3
    method.criterion.temperature = temperature
    dim = method.memory_bank.size[1]
    bank = F.normalize(torch.randn(16, dim, dtype=torch.float64), dim=1)
    method.memory_bank.push(bank)
    bank = method.memory_bank.rows().double()
    with torch.no_grad():
        loss = method.multi_view_step(images).loss
        z = [method.projection_head(method(image)) for image in images]
        p = [method.prediction_head(each) for each in z]
    total = 0.0
    for own, other in ((0, 1), (1, 0)):
        rows, predictions = unit(z[own]), unit(p[other])
        for i, row in enumerate(rows):
            neighbour = max(bank, key=lambda each, row=row: float(each @ row))
            logits = [float(neighbour @ each) / temperature for each in predictions]
            top = max(logits)
            total -= logits[i] - top - math.log(sum(math.exp(x - top) for x in logits))
    assert loss.item() == pytest.approx(total / (2 * len(images[0])), rel=1e-6)
    lightly = NTXentLoss(temperature)
    with torch.no_grad():
        theirs = lightly(torch.stack(unit(z[0])), torch.stack(unit(p[1])))
    assert abs(theirs.item() - loss.item()) > 0.1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nnclr", {"memory_bank_size": 0}, "at least 1, but has memory_bank_size=0"),
        ("mec", {"distortion_warmup_epochs": -1}, "must be at least 0 but is -1"),
    ],
)
def test_options_that_would_train_something_else_are_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        build(name, **options)
