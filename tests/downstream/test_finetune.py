"""The grid of fine-tuning: what is trained, chosen, kept and tested."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from erssl.downstream.transfer import finetune as module
from erssl.downstream.transfer.finetune import (
    FinetuneOptions,
    Images,
    Point,
    Task,
    choose,
    finetune,
)
from erssl.errors import ConfigError, RunError


def backbone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model.feature_dim = 4
    return model.eval()


def split(n, seed, multi_label=False):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    images = torch.randn(n, 3, 6, 6, generator=generator) * 0.1 + labels[:, None, None, None]
    if multi_label:
        labels = torch.stack([labels, 1 - labels], dim=1).float()
    return TensorDataset(images, labels)


def images(multi_label=False):
    parts = [split(n, seed, multi_label) for seed, n in enumerate((24, 12, 36, 20))]
    return Images(*parts)


class Crops(Dataset):
    """Images that are drawn anew each time, as random crops are."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = self.images[index]
        return image + 0.3 * torch.randn_like(image), label


def crops():
    plain = images()
    return Images(Crops(plain.train), plain.val, Crops(plain.train_val), plain.test)


def accuracy(scores, labels):
    if labels.ndim == 2:
        labels = labels.argmax(dim=1)
    return float((scores.argmax(dim=1) == labels).float().mean())


TINY = FinetuneOptions(steps=8, batch_size=8, learning_rates=(0.01, 0.1), weight_decays=(0.0, 1e-3))


def test_the_papers_grid_has_twenty_points():
    grid = FinetuneOptions().grid
    assert len(grid) == 20
    rates, decays = {rate for rate, _ in grid}, {decay for _, decay in grid}
    assert sorted(rates) == pytest.approx(torch.logspace(-4, -1, 4).tolist())
    assert sorted(decays) == pytest.approx([0.0, *torch.logspace(-6, -3, 4).tolist()])


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_easy_problem_is_learnt_and_the_backbone_given_stays_as_it_was(tmp_path, multi_label):
    model = backbone()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    task = Task(2, multi_label, accuracy)
    options = FinetuneOptions(40, 8, (0.1, 0.5), (0.0,))
    scores, labels, points = finetune(model, images(multi_label), task, options, tmp_path)
    assert accuracy(scores, labels) > 0.9
    assert [(p.learning_rate, p.weight_decay) for p in points] == options.grid
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_one_training_is_sgd_with_nesterov_and_a_cosine_per_step(tmp_path, monkeypatch):
    """Against a loop of torch's own parts on the same batches."""
    seen = []
    original = module._Trainer._batches

    def recorded(self, data):
        for batch in original(self, data):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(module._Trainer, "_batches", recorded)
    task = Task(2, False, accuracy)
    trainer = module._Trainer(backbone(), task, TINY, 3, "cpu", 0)
    model = trainer.fit(images().train, 0.1, 1e-3)
    torch.manual_seed(3)
    head = nn.Linear(4, 2)
    other = nn.Sequential(backbone(), nn.Flatten(), head).train()
    sgd = torch.optim.SGD(other.parameters(), 0.1, 0.9, weight_decay=1e-3 / 0.1, nesterov=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, TINY.steps)
    assert len(seen) == TINY.steps
    for batch, labels in seen:
        sgd.zero_grad()
        nn.functional.cross_entropy(other(batch), labels).backward()
        sgd.step()
        cosine.step()
    torch.testing.assert_close(model.state_dict(), other.eval().state_dict())


def test_finished_points_are_not_trained_again(tmp_path, monkeypatch):
    task = Task(2, False, accuracy)
    first = finetune(backbone(), crops(), task, TINY, tmp_path)
    (tmp_path / "point02.json").unlink()  # as a kill leaves it
    trained = []
    fit = module._Trainer.fit

    def counted(self, data, rate, decay):
        trained.append((rate, decay))
        return fit(self, data, rate, decay)

    monkeypatch.setattr(module._Trainer, "fit", counted)
    again = finetune(backbone(), crops(), task, TINY, tmp_path)
    best = choose(first[2])
    assert trained == [TINY.grid[2], (best.learning_rate, best.weight_decay)]
    torch.testing.assert_close(again[0], first[0], rtol=0, atol=0)
    assert again[2] == first[2]
    (tmp_path / "point00.json").write_text("{")
    with pytest.raises(RunError, match=r"point00.json is not what a fine-tuning leaves"):
        finetune(backbone(), images(), task, TINY, tmp_path)


def test_a_point_is_the_same_alone_and_among_others(tmp_path):
    """Its crops too: what was trained before it has drawn from other random numbers."""
    (tmp_path / "alone").mkdir()
    task = Task(2, False, lambda scores, labels: float(scores.double().sum()))
    every = finetune(backbone(), crops(), task, TINY, tmp_path)[2]
    before = torch.get_rng_state()
    arguments = (backbone(), crops(), task, TINY, tmp_path / "alone")
    assert finetune(*arguments, only=[3]) is None
    assert torch.equal(torch.get_rng_state(), before)
    alone = finetune(*arguments)[2]
    assert alone == every


def test_crops_do_not_depend_on_the_number_of_loader_processes():
    def batches(workers):
        trainer = module._Trainer(backbone(), Task(2, False, accuracy), TINY, 3, "cpu", workers)
        return list(trainer._batches(crops().train))

    torch.testing.assert_close(batches(2), batches(0), rtol=0, atol=0)


def test_every_round_draws_each_image_once_in_an_order_and_with_crops_of_its_own():
    numbered = TensorDataset(torch.zeros(24, 1), torch.arange(24))
    trainer = module._Trainer(backbone(), Task(2, False, accuracy), TINY, 3, "cpu", 0)
    batches = list(trainer._batches(Crops(numbered)))
    assert len(batches) == TINY.steps  # of 8 images each, three a round
    rounds = [torch.cat([labels for _, labels in batches[k : k + 3]]) for k in (0, 3)]
    assert all(sorted(order.tolist()) == list(range(24)) for order in rounds)
    assert not torch.equal(*rounds)
    assert len(torch.cat([images for images, _ in batches]).unique()) == 64


def test_a_training_that_diverges_is_left_out_of_the_choice(tmp_path):
    options = FinetuneOptions(60, 8, (0.1, 1e20), (0.0,))
    points = finetune(backbone(), images(), Task(2, False, accuracy), options, tmp_path)[2]
    assert points[0].metric is not None and points[1].metric is None
    with pytest.raises(RunError, match="Every training of the grid diverged"):
        choose([Point(1.0, 0.0, None)])


class Unstable(nn.Module):
    """Finite in training, but not in evaluation where its rate was large."""

    feature_dim = 4

    def __init__(self):
        super().__init__()
        self.inner = backbone()

    def forward(self, images):
        features = self.inner(images).flatten(1)
        far = self.inner[0].weight.abs().max() > 1e3
        return features if self.training or not far else features * math.nan


def test_a_training_whose_scores_are_not_finite_has_diverged(tmp_path):
    options = FinetuneOptions(4, 8, (0.01, 1e6), (0.0,))
    points = finetune(Unstable(), images(), Task(2, False, accuracy), options, tmp_path)[2]
    assert points[0].metric is not None and points[1].metric is None


def test_of_equal_points_the_smaller_rates_are_chosen():
    points = [Point(0.1, 0.0, 0.5), Point(0.01, 1e-3, 0.5), Point(0.01, 0.0, 0.5)]
    assert choose(points) == points[2]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 0}, "must be at least 1"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"learning_rates": ()}, "numbers above 0"),
        ({"learning_rates": (0.0,)}, "numbers above 0"),
        ({"weight_decays": (-1.0,)}, "numbers of at least 0"),
        ({"weight_decays": (math.inf,)}, "numbers of at least 0"),
        ({"momentum": 0.0}, "between 0 and 1"),
        ({"momentum": 1.0}, "between 0 and 1"),
    ],
)
def test_grids_that_train_nothing_are_refused(wrong, sentence):
    with pytest.raises(ConfigError, match=sentence):
        FinetuneOptions(**wrong)
