import copy
import dataclasses
import importlib.metadata
import math
from types import SimpleNamespace

import pytest
import torch
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from pytorch_lightning import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, Dataset

from erssl.errors import ConfigError
from erssl.loss import EntRecLoss, MVEBLoss
from erssl.methods import (
    METHODS,
    MVEB,
    EntRec,
    MultiViewMethod,
    OptimizerOptions,
    SimCLR,
    available_methods,
    get_method,
    register_method,
)
from erssl.methods.optimizer import build_optimizer, can_fuse
from erssl.methods.target import make_target, update_target


class TinyBackbone(nn.Module):
    feature_dim = 12

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, images):
        return self.norm(self.conv(images)).relu().mean(dim=(2, 3))


class Views(Dataset):
    """Images of two kinds; views are the image and noise, of given sizes."""

    def __init__(self, sizes=(8, 8), n=64):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(2, (n,), generator=generator)
        self.views = [
            torch.randn(n, 3, s, s, generator=generator) + self.labels[:, None, None, None]
            for s in sizes
        ]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):  # as lightly's data sets: views, target, file name
        return [v[index] for v in self.views], self.labels[index], f"{index}.jpg"


SMALL = {"projection_hidden_dim": 16, "projection_dim": 8}
SGD = OptimizerOptions("sgd", base_lr=1.0, warmup_epochs=0)


def build(name, **options):
    return get_method(name)(16, 2, backbone=TinyBackbone(), **SMALL, **options)


def fit(method, sizes=(8, 8), epochs=2, **trainer_options):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_options,
    )
    losses = []
    original = method.multi_view_step

    def record(views):
        step = original(views)
        losses.append(step.loss.item())
        return step

    method.multi_view_step = record
    trainer.fit(method, DataLoader(Views(sizes), batch_size=16, drop_last=True))
    return losses, trainer


def test_mveb_step_is_the_loss_of_online_views_against_targets_of_the_others():
    seed_everything(0)
    method = build("mveb", beta=0.3).eval()  # eval: batch statistics would depend on grouping
    views = [torch.randn(6, 3, 8, 8), torch.randn(6, 3, 8, 8), torch.randn(6, 3, 5, 5)]
    with torch.no_grad():
        for p in method.target_projection_head.parameters():
            p.mul_(1.5)  # else a step that confuses the branches would pass
        loss = method.multi_view_step(views).loss
        online = [method.projection_head(method.backbone(v)) for v in views]
        target = [method.target_projection_head(method.target_backbone(v)) for v in views[:2]]
        torch.testing.assert_close(loss, MVEBLoss(0.3)(online, target))


def test_shared_mveb_has_gradient_on_both_sides_and_no_target():
    method = build("mveb", target="shared", beta=0.0)
    assert method.has_target is False
    views = [torch.randn(6, 3, 8, 8) for _ in range(2)]
    step = method.multi_view_step(views)
    assert step.target.requires_grad
    with pytest.raises(ConfigError, match="target=ema is unknown"):
        build("mveb", target="ema")


def test_entrec_step_is_its_loss():
    method = build("entrec", kind="discrete").eval()
    views = [torch.randn(6, 3, 8, 8) for _ in range(2)]
    z0, z1 = (method.embed(v) for v in views)
    expected = EntRecLoss("discrete")(z0, z1)
    torch.testing.assert_close(method.multi_view_step(views).loss, expected)


def test_target_starts_as_the_online_branch_and_takes_no_gradient():
    method = build("mveb")
    torch.testing.assert_close(
        method.target_backbone.state_dict(), method.backbone.state_dict(), rtol=0, atol=0
    )
    torch.testing.assert_close(
        method.target_projection_head.state_dict(),
        method.projection_head.state_dict(),
        rtol=0,
        atol=0,
    )
    method.multi_view_step([torch.randn(6, 3, 8, 8) for _ in range(2)]).loss.backward()
    assert all(p.grad is None for p in method.target_backbone.parameters())
    assert all(p.grad is not None for p in method.backbone.parameters())


def test_ema_moves_parameters_and_running_statistics_where_lightly_leaves_statistics():
    online, target = TinyBackbone(), TinyBackbone()
    online(torch.randn(4, 3, 8, 8) + 3)
    by_lightly = copy.deepcopy(target)
    update_momentum(online, by_lightly, m=0.0)
    assert not torch.equal(by_lightly.norm.running_mean, online.norm.running_mean)  # the fault
    start = copy.deepcopy(target.state_dict())
    update_target(online, target, 0.75)
    for name, value in target.state_dict().items():
        if value.dtype.is_floating_point:
            expected = 0.75 * start[name] + 0.25 * online.state_dict()[name]
            torch.testing.assert_close(value, expected)
    update_target(online, target, 0.0)
    torch.testing.assert_close(target.state_dict(), online.state_dict())
    update_target(nn.Identity(), make_target(nn.Identity()), 0.5)  # a method without a head


def test_target_follows_by_the_cosine_schedule_once_an_optimiser_step():
    seed_everything(0)
    method = build("mveb", optimizer=SGD, momentum_start=0.5, momentum_end=1.0)
    expected = make_target(method.backbone)
    momenta = [cosine_schedule(step, 4, 0.5, 1.0) for step in range(4)]
    original = type(method).optimizer_step

    def track(*args, **kwargs):
        original(method, *args, **kwargs)
        m = momenta.pop(0)
        for own, online in zip(expected.parameters(), method.backbone.parameters(), strict=True):
            own.data.mul_(m).add_(online.data, alpha=1 - m)

    method.optimizer_step = track
    fit(method, epochs=2, accumulate_grad_batches=2)  # 4 batches an epoch, 2 steps
    assert momenta == []
    for own, followed in zip(
        expected.parameters(), method.target_backbone.parameters(), strict=True
    ):
        torch.testing.assert_close(own, followed)


@pytest.mark.parametrize(
    ("precision", "clip", "fuses"),
    [("32-true", 1.0, True), ("bf16-mixed", None, True), ("bf16-mixed", 1.0, False)],
)
def test_adamw_is_fused_and_steps_like_the_plain_one(precision, clip, fuses, monkeypatch):
    options = OptimizerOptions("adamw", base_lr=0.1, weight_decay=0.1, warmup_epochs=0)
    trained = []
    for fused in (True, False):
        seed_everything(0)
        if not fused:
            monkeypatch.setattr("erssl.methods.base.can_fuse", lambda *_: False)
        method = build("mveb", optimizer=options)
        _, trainer = fit(method, precision=precision, gradient_clip_val=clip)
        assert trainer.optimizers[0].defaults["fused"] is (fused and fuses)
        trained.append(list(method.parameters()))
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)


def test_adamw_is_not_fused_where_float16_is_scaled():
    method = build("mveb")
    scaled = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=object()), gradient_clip_val=None
    )
    assert not can_fuse(scaled, method.device)
    assert not can_fuse(Trainer(logger=False, enable_checkpointing=False), torch.device("mps"))


def test_multi_crop_trains():
    losses, _ = fit(build("mveb", optimizer=SGD), sizes=(8, 8, 5, 5, 5))
    assert all(math.isfinite(loss) for loss in losses)


def test_same_seed_same_loss_curve():
    curves = []
    for _ in range(2):
        seed_everything(3)
        curves.append(fit(build("mveb", optimizer=SGD))[0])
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("name", "kind"), [("lars", "LARS"), ("sgd", "SGD"), ("adamw", "AdamW"), ("muon", "Muon")]
)
def test_optimizer_groups_rate_and_schedule(name, kind):
    backbone, classifier = TinyBackbone(), nn.Linear(12, 2)
    options = OptimizerOptions(name, base_lr=0.3, weight_decay=0.1, warmup_epochs=2)
    made = build_optimizer(
        options, [backbone], classifier, global_batch_size=512, total_steps=100, epochs=10
    )
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert type(optimizer).__name__ == kind
    decay, no_decay, probe = optimizer.param_groups
    assert [p.shape for p in decay["params"]] == [backbone.conv.weight.shape]
    assert len(no_decay["params"]) == 2  # scale and shift of the normalisation
    assert (decay["weight_decay"], no_decay["weight_decay"], probe["weight_decay"]) == (0.1, 0, 0)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    peak = 0.3 * 512 / 256
    assert rates[0] == pytest.approx(peak / 20)  # two of ten epochs of linear warm-up: 20 steps
    assert rates[19] == pytest.approx(peak)
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] == pytest.approx(peak / 1000)
    middle = rates[20:][len(rates[20:]) // 2]
    assert middle == pytest.approx(peak / 2, rel=0.05)  # a cosine is half way down at half time


def test_muon_makes_the_steps_of_matrices_orthogonal_and_is_nadamw_for_the_rest():
    seed_everything(0)
    backbone, classifier = TinyBackbone(), nn.Linear(12, 2)
    modules = nn.ModuleList([backbone, classifier])
    options = OptimizerOptions(
        "muon", base_lr=0.01, momentum=0.95, beta2=0.95, weight_decay=0.1, warmup_epochs=0
    )
    made = build_optimizer(options, [backbone], classifier, 256, total_steps=100, epochs=1)
    before = {name: p.detach().clone() for name, p in modules.named_parameters()}
    for parameter in modules.parameters():
        parameter.grad = torch.randn_like(parameter)
    made["optimizer"].step()
    step = {name: p.detach() - before[name] for name, p in modules.named_parameters()}
    # arXiv 2502.16982 eq. 4: W - lr (0.2 sqrt(max(out, in)) U V^T + wd W)
    kernel = before["0.conv.weight"]
    turned = (step["0.conv.weight"] + 0.01 * 0.1 * kernel).flatten(1) / -0.01
    scale = 0.2 * max(turned.shape) ** 0.5
    values = torch.linalg.svdvals(turned) / scale
    assert values.min() > 0.6 and values.max() < 1.3  # five iterations in bfloat16 come that near
    u, _, v = torch.linalg.svd(backbone.conv.weight.grad.flatten(1), full_matrices=False)
    assert (turned * (u @ v)).sum() / turned.norm() / (u @ v).norm() > 0.98
    gradients = {name: p.grad for name, p in modules.named_parameters()}
    for name in step.keys() - {"0.conv.weight"}:  # NAdam's first step
        torch.testing.assert_close(
            step[name], -0.01 * (1 + 0.95) * gradients[name].sign(), rtol=1e-3, atol=1e-6
        )


def test_biases_and_norms_may_have_a_rate_of_their_own_as_in_barlow_twins_code():
    options = get_method("barlowtwins").default_optimizer
    made = build_optimizer(options, [TinyBackbone()], nn.Linear(12, 2), 512, 1000, 100)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    decay, no_decay, _ = optimizer.param_groups
    for step in range(1000):
        # main.py: 10 of 100 epochs of warm-up, cosine to 1/1000, times batch / 256
        q = 0.5 * (1 + math.cos(math.pi * (step - 100) / 900))
        factor = 2 * ((step + 1) / 100 if step < 100 else q + 0.001 * (1 - q))
        assert decay["lr"] == pytest.approx(0.2 * factor, abs=2e-3)  # lightly ends a step earlier
        assert no_decay["lr"] == pytest.approx(0.0048 * factor, abs=2e-3 * 0.024)
        optimizer.step()
        scheduler.step()
    with pytest.raises(ConfigError, match=r"bias_base_lr must be above 0"):
        OptimizerOptions(bias_base_lr=0.0)


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_without_exclusion_biases_and_norms_are_treated_as_weights(name):
    options = OptimizerOptions(
        name, base_lr=0.3, weight_decay=0.1, exclude_norms=False, warmup_epochs=2
    )
    options = dataclasses.replace(options, warmup_start_ratio=0.25)
    backbone, classifier = TinyBackbone(), nn.Linear(12, 2)
    made = build_optimizer(options, [backbone], classifier, 256, 100, 10)
    optimizer = made["optimizer"]
    shift = backbone.norm.bias
    with torch.no_grad():
        shift.copy_(torch.randn(12))
    for parameter in (*backbone.parameters(), *classifier.parameters()):
        parameter.grad = torch.randn_like(parameter)
    before, gradient = shift.detach().clone(), shift.grad.clone()
    rate = optimizer.param_groups[1]["lr"]
    assert rate == pytest.approx(0.3 * (0.25 + 0.75 / 20))  # the first of 20 steps of warm-up
    optimizer.step()
    update = gradient + 0.1 * before
    if name == "lars":  # apex's LARC, not clipped
        update *= 0.001 * before.norm() / (gradient.norm() + 0.1 * before.norm() + 1e-8)
    torch.testing.assert_close(shift.detach(), before - rate * update)
    assert optimizer.param_groups[2]["weight_decay"] == 0  # the probe's


def test_warm_up_longer_than_the_run_is_shortened_with_a_warning():
    with pytest.warns(UserWarning, match="does not fit into 2 epochs"):
        build_optimizer(OptimizerOptions(), [TinyBackbone()], nn.Linear(12, 2), 256, 50, 2)


def test_registry_names_the_nearest_and_keeps_names_unique():
    assert {"byol_er", "entrec", "mveb", "simclr", "simclr_er"} <= set(available_methods())
    assert available_methods() == sorted(METHODS)
    assert (get_method("mveb"), get_method("simclr"), get_method("entrec")) == (
        MVEB,
        SimCLR,
        EntRec,
    )
    with pytest.raises(ConfigError, match=r"did you mean mveb\?"):
        get_method("mvebb")
    with pytest.raises(ConfigError, match="'mveb' is taken by MVEB"):

        @register_method("mveb")
        class Other(MultiViewMethod):
            pass


def test_a_third_partys_method_is_found_through_its_entry_point(monkeypatch, tmp_path):
    module = tmp_path / "their_method.py"
    module.write_text(
        "from erssl.methods import SimCLR, register_method\n"
        "@register_method('theirs')\n"
        "class Theirs(SimCLR):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("theirs", "their_method", "erssl.methods")
    monkeypatch.setattr("erssl.announced.entry_points", lambda group: [entry])
    try:
        assert get_method("theirs").__name__ == "Theirs"
    finally:
        METHODS.pop("theirs", None)
