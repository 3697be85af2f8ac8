"""A classifier on a backbone, against its formulas and torch's own schedules."""

import math

import pytest
import torch
from lightly.utils.scheduler import cosine_schedule
from pytorch_lightning import Callback, Trainer, seed_everything
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Subset

from erssl.data import Datasets, LabelledDataModule, default_options, load_datasets
from erssl.data.datasets import ImagesInMemory
from erssl.errors import ConfigError
from erssl.evaluation.classifier import (
    ClassifierOptions,
    ClassifierTraining,
    best_epoch,
    make_head,
    make_optimizer,
)
from erssl.models import BackboneOptions, build_backbone

TRAIN, VAL = 50, 23


@pytest.fixture(scope="module")
def few_digits():
    every = load_datasets(default_options("digits"))

    def part(images, size):
        return ImagesInMemory(images.pixels[:size], images.targets[:size])

    return Datasets(part(every.train, TRAIN), part(every.val, VAL), 10, every.class_names)


class Rates(Callback):
    """The learning rates of each step, group by group."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def train(datasets, seed=0, train_mode=False, **changes):
    """Train on real crops; gives module, loaders, rates of each step and the state before.

    The backbone comes in eval mode, as from a file, unless ``train_mode``.
    """
    settings = {"epochs": 2, "batch_size": 20, "head_lr": 0.5, "optimizer": "sgd"} | changes
    options = ClassifierOptions(**settings)
    seed_everything(seed, verbose=False)
    backbone = build_backbone(BackboneOptions("test_resnet", "timm")).train(train_mode)
    data = LabelledDataModule(
        default_options("digits", num_workers=0), datasets, options.batch_size, seed
    )
    module = ClassifierTraining(backbone, 10, options, data.batch_size)
    rates = Rates()
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[rates],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    trainer.fit(module, datamodule=data)
    return module, data, rates.seen, before


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_lars_equals_apex_larc_written_out_bias_included(weight_decay):
    torch.manual_seed(0)
    head = make_head(6, 4).double()
    options = ClassifierOptions(weight_decay=weight_decay)
    optimizer = make_optimizer(options, head, None, 4096)
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(4, (30,))
    mine = [p.detach().clone() for p in head.parameters()]
    momentum = [torch.zeros_like(p) for p in mine]
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(x), y).backward()
        optimizer.step()
        leaves = [p.clone().requires_grad_() for p in mine]
        loss = nn.functional.cross_entropy(x @ leaves[0].T + leaves[1], y)
        for i, g in enumerate(torch.autograd.grad(loss, leaves)):
            p = mine[i]
            if p.norm() != 0 and g.norm() != 0:  # not at first for the bias, which is 0
                adapted = 0.001 * p.norm() / (g.norm() + weight_decay * p.norm() + 1e-8)
                g = (g + weight_decay * p) * adapted
            momentum[i] = 0.9 * momentum[i] + g
            mine[i] = p - 1.6 * momentum[i]
    for parameter, expected in zip(head.parameters(), mine, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)


def test_rates_are_for_256_images_and_grow_with_the_batch():
    head, backbone = nn.Linear(3, 2), nn.Linear(4, 3)
    options = ClassifierOptions(optimizer="sgd", head_lr=0.4, backbone_lr=0.02)
    optimizer = make_optimizer(options, head, backbone, 1024)
    assert isinstance(optimizer, SGD)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.6, 0.08])
    assert optimizer.param_groups[0]["params"] == list(head.parameters())
    assert optimizer.param_groups[1]["params"] == list(backbone.parameters())


def test_rates_may_be_absolute():
    options = ClassifierOptions(head_lr=0.4, backbone_lr=0.02, lr_per_256=False)
    optimizer = make_optimizer(options, nn.Linear(3, 2), nn.Linear(4, 3), 1024)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.02]


def test_a_frozen_backbone_has_no_group():
    optimizer = make_optimizer(ClassifierOptions(), nn.Linear(3, 2), nn.Linear(4, 3), 256)
    assert len(optimizer.param_groups) == 1


def test_cosine_per_epoch_is_torchs_cosine_annealing(few_digits):
    _, _, rates, _ = train(few_digits, epochs=5, backbone_lr=0.1, lr_per_256=False)
    reference = SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.5, 0.1)])
    schedule = CosineAnnealingLR(reference, T_max=5)
    expected = []
    for _ in range(5):
        expected += [[group["lr"] for group in reference.param_groups]] * 3  # 50 images by 20
        reference.step()
        schedule.step()
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(expected))


def test_cosine_per_step_is_lightlys_and_its_last_step_has_the_final_rate(few_digits):
    _, _, rates, _ = train(few_digits, schedule="step", final_lr=0.001, lr_per_256=False)
    expected = [cosine_schedule(step, 6, 0.5, 0.0005) for step in range(6)]
    assert [lr for (lr,) in rates] == pytest.approx(expected)
    assert rates[-1] == pytest.approx([0.5 * 0.001])


@pytest.mark.parametrize("train_mode", [False, True])
def test_a_frozen_backbone_keeps_every_bit_while_the_head_learns(few_digits, train_mode):
    module, _, _, before = train(few_digits, train_mode=train_mode)
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in module.backbone.parameters())
    assert not any(part.training for part in module.backbone.modules())
    assert module.head.bias.abs().max() > 0.01  # it began as 0


def test_a_trained_backbone_moves_its_weights_and_running_statistics(few_digits):
    module, _, _, before = train(few_digits, backbone_lr=0.1)
    after = module.backbone.state_dict()
    assert int(after["bn1.num_batches_tracked"]) == 6  # 2 epochs of 3 batches
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(after["bn1.weight"], before["bn1.weight"])


def test_head_begins_as_simsiams():
    torch.manual_seed(0)
    head = make_head(512, 200)
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(head.weight.detach().mean())) < 1e-4
    assert not head.bias.any()


def test_head_may_begin_as_torchs():
    torch.manual_seed(0)
    head = make_head(5, 3, "torch")
    torch.manual_seed(0)
    expected = nn.Linear(5, 3)
    torch.testing.assert_close(head.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_scores_are_the_last_epochs_in_the_order_of_the_images(few_digits):
    module, data, _, _ = train(few_digits, epochs=3, backbone_lr=0.1)
    module.eval()
    with torch.no_grad():
        alone = [module(image[None]) for image, _ in data.val_images]
    torch.testing.assert_close(module.scores, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert module.labels.tolist() == few_digits.val.targets.tolist()


def test_history_is_scikit_learns_accuracy_of_each_epoch(few_digits):
    module, _, _, _ = train(few_digits, epochs=3, backbone_lr=0.1)
    assert [row["epoch"] for row in module.history] == [0, 1, 2]
    predicted = module.scores.argmax(dim=1)
    truth = few_digits.val.targets
    assert module.history[-1]["top1"] == pytest.approx(accuracy_score(truth, predicted))
    assert module.history[-1]["mean_per_class"] == pytest.approx(
        balanced_accuracy_score(truth, predicted)
    )


def test_same_seed_gives_the_same_scores_and_another_does_not(few_digits):
    first, again, other = (train(few_digits, seed=s)[0].scores for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_first_of_equally_good_epochs_is_the_best():
    history = [{"epoch": float(e), "top1": top1} for e, top1 in enumerate((0.2, 0.7, 0.5, 0.7))]
    assert best_epoch(history)["epoch"] == 1


def test_gradient_stops_at_a_frozen_backbone(few_digits):
    backbone = build_backbone(BackboneOptions("test_resnet", "timm"))
    module = ClassifierTraining(backbone, 10, ClassifierOptions(), 256).train()
    loader = DataLoader(Subset([(torch.randn(3, 32, 32), 1)] * 4, range(4)), batch_size=4)
    module.log = lambda *args, **keywords: None
    module.training_step(next(iter(loader)), 0).backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert module.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1 but is 0"),
        ({"batch_size": 0}, "batch_size must be at least 1 but is 0"),
        ({"head_lr": -0.1}, "head_lr must be a number of at least 0 but is -0.1"),
        ({"head_lr": math.nan}, "head_lr must be a number"),
        ({"head_lr": math.inf}, "head_lr must be a number"),
        ({"backbone_lr": -1.0}, "backbone_lr must be a number of at least 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"momentum": math.nan}, r"momentum must lie in \[0, 1\)"),
        ({"weight_decay": -1e-6}, "weight_decay must be at least 0"),
        ({"weight_decay": math.inf}, "weight_decay must be at least 0"),
        ({"final_lr": 1.5}, r"final_lr lie in \[0, 1\]"),
        ({"crop_scale": (0.0, 1.0)}, r"0 < low <= high <= 1 but is \[0.0, 1.0\]"),
        ({"crop_scale": (0.9, 0.1)}, "0 < low <= high <= 1"),
        ({"crop_scale": (0.1, 1.1)}, "0 < low <= high <= 1"),
        ({"crop_scale": (0.5,)}, r"must be two numbers .* but is \[0.5\]"),
        ({"optimizer": "adam"}, "optimizer=adam is unknown; choose one of sgd, lars"),
        ({"schedule": "epochs"}, "schedule=epochs is unknown; choose one of epoch, step"),
        ({"head_init": "zeros"}, "head_init=zeros is unknown; choose one of normal, torch"),
    ],
)
def test_values_that_train_nothing_are_refused(value, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ClassifierOptions(**value)
