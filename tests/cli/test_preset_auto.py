"""``preset=auto``: which protocol it takes on how many images, and what departs from a paper's."""

import functools

import pytest

from erssl.settings.evaluation import FinetuneSettings, LinearSettings, SemiSettings, read_protocol
from erssl.settings.fitting import departures, fit

SETTINGS = {"linear": LinearSettings, "semi": SemiSettings, "finetune": FinetuneSettings}


@functools.cache  # hydra takes its time
def read(command, *overrides):
    return read_protocol(command, SETTINGS[command], ["checkpoint=x", *overrides])[0]


def fitted(command, images, *overrides, devices=1):
    return fit(read(command, *overrides), images, devices)


@pytest.mark.parametrize(
    ("images", "preset"),
    [
        (50, "lightly"),
        (400, "lightly"),
        (50_000, "lightly"),
        (126_689, "mveb"),
        (1_281_167, "mveb"),
    ],
)
def test_lars_is_taken_where_it_has_its_steps(images, preset):
    settings, sentence = fitted("linear", images)
    assert settings.preset == preset
    expected = read("linear", f"preset={preset}")
    for key in ("optimizer", "batch_size", "epochs", "head_lr", "schedule", "final_lr"):
        assert getattr(settings, key) == getattr(expected, key)
    assert f"preset={preset}" in sentence and f"{images:,} training images" in sentence


def test_the_sentence_counts_the_steps():
    _, sentence = fitted("linear", 400)
    assert "MVEB's protocol (LARS, batch 4096, 50 epochs) makes 50 steps on 400" in sentence
    assert "(SGD, batch 256, 90 epochs, 2 steps an epoch)" in sentence


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(14, 16, 1), (31, 16, 1), (65, 16, 4), (257, 64, 4)]
)
@pytest.mark.parametrize("command", ["semi", "finetune"])
def test_a_last_batch_that_is_left_out_is_not_counted(command, images, batch, steps):
    settings, sentence = fitted(command, images)
    assert settings.batch_size == batch
    assert f", {steps} step{'s' if steps > 1 else ''} an epoch)" in sentence


def test_overrides_stay_whatever_is_chosen():
    overrides = ("epochs=7", "head_lr=0.5", "schedule=step", "crop_scale=[0.5,1.0]", "flip=false")
    for images in (400, 1_281_167):
        settings, _ = fitted("linear", images, *overrides)
        assert (settings.epochs, settings.head_lr, settings.schedule) == (7, 0.5, "step")
        assert (settings.crop_scale, settings.flip) == ((0.5, 1.0), False)
    assert fitted("linear", 100_000)[0].preset == "mveb"
    assert fitted("linear", 100_000, "epochs=7")[0].preset == "lightly"  # too few steps for LARS


def test_a_preset_that_is_named_is_taken_as_it_is():
    settings = read("linear", "preset=mveb")
    assert fit(settings, 400) == (settings, None)


@pytest.mark.parametrize("command", ["semi", "finetune"])
def test_few_images_have_smaller_batches_and_more_epochs(command):
    for images, batch in ((14, 16), (100, 16), (142, 32), (400, 64), (12_811, 256)):
        settings, sentence = fitted(command, images)
        assert settings.batch_size == batch
        assert settings.epochs * max(1, images // batch) >= 300
        assert ("would make" in sentence) == (batch < 256)
    own = fitted(command, 14, "batch_size=128", "epochs=3")[0]
    assert (own.batch_size, own.epochs) == (128, 3)
    assert fitted(command, 100, devices=16)[0].batch_size == 32  # two images a device


def test_semi_supervised_rates_are_vicregs_below_one_per_cent_of_imagenet():
    few, many = (fitted("semi", images)[0] for images in (142, 12_811))
    assert (few.preset, many.preset) == ("vicreg", "mveb")
    few, many = few.with_rates(0.1), many.with_rates(0.01)
    assert (few.backbone_lr, few.head_lr, few.epochs) == (0.01, 0.1, 75)
    assert (many.backbone_lr, many.head_lr, many.epochs) == (0.002, 0.8, 60)
    own = fitted("semi", 142, "head_lr=0.3", "ten_percent=[0.5,0.25]")[0].with_rates(0.1)
    assert (own.backbone_lr, own.head_lr) == (0.5, 0.3)


def test_a_preset_departs_from_its_paper_by_what_is_overridden():
    assert departures(read("linear", "preset=mveb", "trainer.devices=2", "seeds=3")) == []
    assert departures(read("linear", "preset=mveb", "epochs=50")) == []
    assert departures(read("linear", "preset=mveb", "epochs=5")) == ["epochs=5 (50)"]
    assert departures(read("linear", "preset=vicreg", "mode=cached")) == [
        "mode=cached (random crops)"
    ]
    halved = read("linear", "preset=vicreg", "trainer.accumulate_grad_batches=2")
    assert departures(halved) == ["trainer.accumulate_grad_batches=2 (1)"]
    cropped = read("finetune", "preset=lightly", "crop_scale=[0.5,1.0]", "flip=false")
    assert departures(cropped) == ["crop_scale=[0.5, 1.0] ([0.08, 1.0])", "flip=false (true)"]


def test_rates_that_are_overridden_depart_from_a_semi_supervised_preset():
    plain = read("semi", "preset=mveb").with_rates(0.1)
    assert departures(plain) == []
    assert departures(read("semi", "preset=mveb", "head_lr=0.1").with_rates(0.1)) == ["head_lr=0.1"]


def test_what_auto_changes_departs_too():
    assert departures(fitted("semi", 142)[0]) == ["epochs=75 (20)", "batch_size=32 (256)"]
    assert departures(fitted("linear", 1_281_167)[0]) == []
