"""The lens and the collapse guard on modules of ours and of others."""

import csv
import math

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, Dataset

from erssl.callbacks import CollapseGuard, ERLens
from erssl.errors import ConfigError, RunError
from erssl.evaluation import lens_reading
from erssl.run.directory import read_lens


class Foreign(LightningModule):
    """Somebody else's module: a backbone with batch norm and dropout, a head, no ``embed``."""

    def __init__(self, shrink=False):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(16, 8)
        self.shrink = shrink
        self.losses = []

    def forward(self, images):
        return self.backbone(images)

    def training_step(self, batch, batch_idx):
        z0, z1 = (self.head(self(v)) for v in batch[0])
        loss = (z0 - z1).square().mean() + (z0 - 1).square().mean() * self.shrink
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5 if self.shrink else 0.1)


class Views(Dataset):
    def __init__(self, n=32):
        generator = torch.Generator().manual_seed(0)
        self.views = torch.randn(2, n, 3, 4, 4, generator=generator)

    def __len__(self):
        return self.views.shape[1]

    def __getitem__(self, index):
        return [v[index] for v in self.views], 0


def probe(n=12):
    return list(Views(64).views[:, -n:])


def fit(*callbacks, module=None, epochs=2, **options):
    seed_everything(0)
    module = module or Foreign()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(Views(), batch_size=8, shuffle=True, drop_last=True))
    return module


def lens_for(module, **options):
    return ERLens(probe(), embed=lambda images: module.head(module(images)), **options)


def test_reads_a_foreign_module_by_a_function_at_the_interval_and_at_the_end(tmp_path):
    module = Foreign()
    lens = lens_for(module, every_n_steps=3, kappas=(5,), path=tmp_path / "lens.csv")
    fit(lens, module=module)
    assert [r["step"] for r in lens.readings] == [0, 3, 6, 8]
    module.eval()
    with torch.no_grad():
        expected = lens_reading([module.head(module(v)) for v in probe()], kappas=(5,))
    last = lens.readings[-1]
    assert {k: last[k] for k in expected} == pytest.approx(expected)
    with (tmp_path / "lens.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [0, 3, 6, 8]
    assert float(rows[1]["entropy_k5"]) == pytest.approx(lens.readings[1]["entropy_k5"])


def test_changes_nothing_about_the_training():
    plain = fit(module=Foreign())
    module = Foreign()
    watched = fit(lens_for(module, every_n_steps=1), module=module)
    assert watched.losses == plain.losses  # dropout and order draw the same random numbers
    torch.testing.assert_close(watched.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert watched.training == plain.training


def test_logits_bring_the_discrete_part():
    module = Foreign()
    lens = ERLens(probe(), embed=lambda x: (module(x), module.head(module(x))))
    reading = lens.read(module)
    assert reading["log_k"] == pytest.approx(math.log(8))
    assert reading["log_n"] == pytest.approx(math.log(12))


def test_a_module_without_embeddings_is_refused_before_training():
    with pytest.raises(ConfigError, match=r"cannot read a Foreign, which has no embed\(images\)"):
        fit(ERLens(probe()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"kappas": ()}, "kappas above 0"),
        ({"kappas": (0.0,)}, "kappas above 0"),
        ({"share": 1.5}, r"share in \(0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ERLens(probe(), **options)


def test_views_that_are_no_pair_are_refused():
    view = torch.zeros(4, 3, 2, 2)
    for views in ([view], [view, view[:3]], [view[:1], view[:1]]):
        with pytest.raises(ConfigError, match="two views of the same images"):
            ERLens(views)


def test_default_interval_keeps_the_probes_share_of_the_forward_passes():
    module = Foreign()
    lens = lens_for(module)
    fit(lens, module=module, epochs=18)
    # 2 x 12 images against 3 x 2 x 8 a step: half a step's passes, 0.015 of them after 34 steps
    assert [r["step"] for r in lens.readings] == [0, 34, 68, 72]


def test_resumed_run_goes_on_from_the_readings_and_the_guard_of_its_checkpoint(tmp_path):
    path = tmp_path / "lens.csv"
    checkpoint = tmp_path / "half.ckpt"

    def run(epochs, ckpt_path=None):
        seed_everything(0)
        module = Foreign()
        guard = CollapseGuard(patience=50)
        lens = lens_for(module, every_n_steps=3, path=path, guard=guard)
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[lens],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(Views(), batch_size=8, drop_last=True)
        trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
        if ckpt_path is None:
            trainer.save_checkpoint(checkpoint)
        return lens

    first = run(2)
    path.write_text(path.read_text() + "999,9\n")  # a row of steps that the checkpoint never saw
    guard = first.guard.state_dict()
    second = run(3, checkpoint)
    assert [r["step"] for r in second.readings] == [0, 3, 6, 8, 9, 12]
    assert second.readings[:4] == first.readings
    assert [r["step"] for r in read_lens(path)] == [0, 3, 6, 8, 9, 12]
    fresh = CollapseGuard()
    fresh.load_state_dict(guard)
    assert fresh.state_dict() == guard


def test_parts_that_were_put_to_rest_stay_so():
    module = Foreign()
    module.backbone[2].eval()  # a frozen batch normalisation
    lens_for(module).read(module)
    assert module.training
    assert not module.backbone[2].training
    assert module.backbone[4].training


def test_embeddings_that_are_not_finite_are_a_sign_and_no_crash():
    module = Foreign()
    with torch.no_grad():
        module.head.weight.fill_(math.nan)
    reading = lens_for(module).read(module)
    assert math.isnan(reading["effective_rank"])
    guard = CollapseGuard(patience=1, grace_steps=0)
    assert "is not finite" in guard.check(5, reading, 8)


def test_default_interval_leaves_long_runs_five_hundred_readings():
    lens = lens_for(Foreign())
    trainer = type(
        "T", (), {"accumulate_grad_batches": 1, "world_size": 1, "estimated_stepping_batches": 5e4}
    )
    views = [torch.zeros(4096, 3, 4, 4)] * 2
    lens.on_train_batch_start(trainer, None, {"views": views, "id": 3}, 0)  # batches of any shape
    assert lens._interval == 100


def _read(rank=0, world=1, images=None):
    torch.manual_seed(0)
    module = Foreign()
    lens = lens_for(module)
    lens.views = [view[:images] for view in lens.views]
    return lens.read(module)


@pytest.mark.parametrize(("world", "images"), [(2, None), (3, 16), (3, 2)])
def test_several_processes_read_what_one_reads(world, images, gloo):
    """All of the probe, also where its number of images is no multiple of theirs, or below it."""
    for reading in gloo.run(world, _read, images):
        assert reading == pytest.approx(_read(images=images), rel=1e-5, nan_ok=True)


def test_guard_names_step_values_and_causes_once():
    module = Foreign(shrink=True)
    lens = lens_for(
        module, every_n_steps=1, guard=CollapseGuard(patience=2, floor=0.2, grace_steps=0)
    )
    with pytest.warns(UserWarning, match=r"collapsed at step \d+") as caught:
        fit(lens, module=module, epochs=8)
    said = [str(w.message) for w in caught if "collapsed" in str(w.message)]
    assert len(said) == 1
    for part in ("entropy", "nats", "at a single point", "learning rate", "method.beta"):
        assert part in said[0]


def test_guard_ends_the_run_where_asked():
    module = Foreign(shrink=True)
    guard = CollapseGuard(patience=1, floor=0.2, grace_steps=0, stop=True)
    with pytest.raises(RunError, match=r"collapsed at step .* The run was ended, as asked"):
        fit(lens_for(module, every_n_steps=1, guard=guard), module=module, epochs=8)


def healthy(**changes):
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return lens_reading([z, z], kappas=(10,)) | changes


def test_guard_tells_collapse_from_health():
    point = torch.ones(64, 8)
    collapsed = lens_reading([point, point], kappas=(10,))
    guard = CollapseGuard(patience=2)
    assert guard.check(0, collapsed, 8) is None  # before training
    assert guard.check(1, collapsed, 8) is None  # nor soon after
    assert guard.check(2, collapsed, 8) is None
    assert guard.check(3, healthy(), 8) is None
    assert guard.check(5, collapsed, 8) is None  # once may be chance
    assert guard.check(10, healthy(), 8) is None
    assert guard.check(15, collapsed, 8) is None
    sentence = guard.check(20, collapsed, 8)
    assert "step 20" in sentence
    assert "effective rank 1.00 of 8" in sentence
    assert guard.check(25, collapsed, 8) is None  # said already


def test_guard_waits_for_a_network_that_never_was_healthy_only_so_long():
    point = torch.ones(64, 8)
    collapsed = lens_reading([point, point], kappas=(10,))
    guard = CollapseGuard(patience=2, grace_steps=100)
    sentences = [guard.check(step, collapsed, 8) for step in range(0, 160, 20)]
    assert [s is not None for s in sentences] == [False] * 7 + [True]


def test_guard_sees_outputs_that_use_one_outcome_or_are_all_alike():
    log_k = math.log(100)
    outcomes = {"log_k": log_k, "discrete_entropy": log_k, "discrete_i_er": 2.0}
    guard = CollapseGuard(patience=1)
    assert guard.check(1, healthy(**outcomes), 8) is None
    one = healthy(**outcomes | {"discrete_entropy": 0.01})
    assert "entropy of the outputs 0.010 of 4.61 nats" in guard.check(2, one, 8)
    assert guard.check(3, healthy(**outcomes), 8) is None
    alike = healthy(**outcomes | {"discrete_i_er": 0.05})
    assert "fell to 0.050 from 2.000 nats" in guard.check(4, alike, 8)


@pytest.mark.parametrize(
    "options", [{"floor": 0}, {"min_rank": 0.5}, {"patience": 0}, {"grace_steps": -1}]
)
def test_guard_refuses_floors_out_of_range(options):
    with pytest.raises(ValueError, match="The guard needs"):
        CollapseGuard(**options)


def rows(n, d, pull=0.0, rank=None, seed=0):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if rank is not None:
        z[:, rank:] = 0
    z[:, 0] += pull
    return z


def read(*z):
    return lens_reading(z, kappas=(10.0,))


def test_guard_sees_a_cone_that_no_rank_shows():
    # mean cosine a²/(a² + d): 0.95
    pull = math.sqrt(19 * 2048)
    cone = read(*(rows(256, 2048, pull, seed=s) for s in (0, 1)))
    assert cone["mean_cosine"] == pytest.approx(0.95, abs=0.005)
    assert cone["effective_rank"] > 100
    guard = CollapseGuard(patience=1, grace_steps=0)
    sentence = guard.check(200, cone, 2048)
    assert "mean cosine 0.95" in sentence
    assert "rank" not in sentence
    assert CollapseGuard(patience=1, grace_steps=0, max_cosine=0.99).check(200, cone, 2048) is None


@pytest.mark.parametrize(("dim", "rank"), [(2048, 8), (128, 4)])
def test_guard_sees_a_low_rank(dim, rank):
    low = read(*(rows(256, dim, rank=rank, seed=s) for s in (0, 1)))
    sentence = CollapseGuard(patience=1, grace_steps=0).check(200, low, dim)
    assert f"of {min(dim, 256)}" in sentence
    assert "mean cosine" not in sentence
    high = read(*(rows(256, dim, rank=dim // 4, seed=s) for s in (0, 1)))
    assert CollapseGuard(patience=1, grace_steps=0).check(200, high, dim) is None


def test_guard_lets_be_what_is_on_its_way_out_of_a_cone():
    guard = CollapseGuard(patience=2, grace_steps=0)
    pulls = (60.0, 50.0, 40.0, 35.0)  # a slow warm-up: a cone still, but wider each time
    said = [
        guard.check(i, read(rows(64, 64, p), rows(64, 64, p, seed=1)), 64)
        for i, p in enumerate(pulls)
    ]
    stuck = read(rows(64, 64, 35.0), rows(64, 64, 35.0, seed=1))
    assert stuck["mean_cosine"] > 0.9
    said += [guard.check(10 + i, stuck, 64) for i in range(4)]
    # the first reading has none before it, so it alone counts; then the two that stand still
    assert [sentence is not None for sentence in said] == [False] * 5 + [True, False, False]


def test_guard_names_a_point_and_knows_states_of_before():
    point = torch.ones(64, 8)
    guard = CollapseGuard(patience=1, grace_steps=0)
    guard.load_state_dict({"healthy": True, "low": 0, "best_bound": 0.0})
    assert "entropy -inf: images share their embeddings" in guard.check(5, read(point, point), 8)
    # a few images that share theirs are no collapse
    some = rows(64, 8)
    some[:5] = some[0]
    reading = read(some, some)
    assert reading["nats_below_uniform_knn"] == -math.inf
    assert math.isfinite(reading["nats_below_uniform_kde"])
    assert guard.check(6, reading, 8) is None


def test_guard_names_embeddings_that_died():
    dead = torch.zeros(64, 8)
    sentence = CollapseGuard(patience=1, grace_steps=0).check(5, read(dead, dead), 8)
    assert "entropy -inf: images share their embeddings; mean cosine 1.000" in sentence


@pytest.mark.parametrize("dim", [2, 3])
def test_guard_asks_no_rank_that_so_few_dimensions_cannot_have(dim):
    guard = CollapseGuard(patience=1, grace_steps=0)
    assert guard.check(5, read(rows(64, dim), rows(64, dim, seed=1)), dim) is None
    line = rows(64, dim, rank=1)
    assert f"effective rank 1.00 of {dim}" in guard.check(6, read(line, line), dim)


@pytest.mark.parametrize("options", [{"max_cosine": 0}, {"min_rank_share": 1.0}])
def test_guard_refuses_cosines_and_shares_out_of_range(options):
    with pytest.raises(ValueError, match="The guard needs max_cosine"):
        CollapseGuard(**options)
