"""Settings that a machine, or a method, cannot take: one sentence before any work."""

import pytest
import torch
from torch import nn

from erssl import limits
from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.methods import available_methods
from erssl.models import BackboneOptions, build_backbone, check_input_size
from erssl.models.patch_maps import PatchMap
from erssl.settings.trainer import check_batches

TINY = ("backbone=timm", "backbone.name=test_resnet", "data.image_size=16", "batch_size=16")
TINY += ("trainer.accelerator=cpu", "data.num_workers=0", "lens.probe_size=0", "epochs=1")
SENTENCES = {
    "trainer.limit_train_batches=0": "leaves no batch to train on",
    "trainer.limit_train_batches=0.001": "leaves none of the 89 batches",
    "trainer.overfit_batches=2": "the same few images in every epoch",
    "trainer.strategy=ddp_spawn": "choose auto, ddp, ddp_find",
    "trainer.strategy=ddp_notebook": "choose auto, ddp, ddp_find",
    "trainer.strategy=fsdp": "choose auto, ddp, ddp_find",
    "trainer.max_time=00:00:00:05": "in the middle of its schedule; set epochs",
    "trainer.fast_dev_run=true": "keeps no checkpoint; try epochs=1",
    "trainer.accumulate_grad_batches={0:2}": "must be an integer",
    "trainer.max_steps=0": "trainer.max_steps must be at least 1",
    "trainer.val_check_interval=1000": "does not fit the 89 batches of an epoch",
    "trainer.gradient_clip_val=nan": "that is finite",
    "trainer.devices=1000": "would start 1,000 processes",
    "data.num_workers=1000000": "would start 1,000,000 processes",
    "method.projection_dim=1000000000": "choose smaller numbers for method.*",
    "epochs=1000000000000": "more than any training has",
    "batch_size=1000000000000": "",
    "optimizer.base_lr=nan": "must be a number that is finite",
    "data.image_size=100000": "set data.image_size, batch_size or data.views.n_local_views to less",
}


@pytest.mark.parametrize("override", SENTENCES)
def test_what_no_method_takes_is_one_sentence_before_work(override, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["pretrain", *TINY, override, f"run_dir={run_dir}"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and SENTENCES[override] in told
    assert not run_dir.exists()


@pytest.mark.parametrize("name", available_methods())
def test_a_method_that_no_memory_holds_is_not_built(name, tmp_path, capsys):
    if name in ("mae", "simmim"):
        vit = ["backbone.name=vit_tiny_patch16_224", "backbone.options.embed_dim=3000000"]
        arguments = [*vit, f"data.views.recipe={name}", "backbone.options.img_size=16"]
    else:
        arguments = ["method.projection_dim=1000000000"]
    assert main(["pretrain", *TINY, f"method={name}", *arguments, f"run_dir={tmp_path}/run"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "choose smaller numbers for " in told
    assert "of memory and there are" in told  # counted, and not tried


EVALUATIONS = {
    "knn": "run_dir={folder}/run",
    "kmeans": "run_dir={folder}/run",
    "linear": "run_dir={folder}/run",
    "finetune": "run_dir={folder}/run",
    "embed": "output={folder}/features.npy",
}


@pytest.mark.parametrize("checkpoint", ["random:resnet10t", "pixels"])
@pytest.mark.parametrize("command", EVALUATIONS)
def test_an_evaluation_of_images_that_no_memory_holds_is_refused(
    command, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(limits, "main_memory", lambda: 2**40)
    place = EVALUATIONS[command].format(folder=tmp_path)
    size = "data.image_size=1000000"
    assert main([command, f"checkpoint={checkpoint}", "data=digits", size, place]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "data.image_size=1000000 with one image needs 10.9 TiB of memory" in told
    assert "set data.image_size to less, or insist with ERSSL_NO_LIMITS=1" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("knn", "run_dir={}/run", "feature_batch_size=100"), "feature_batch_size"),
        (("embed", "output={}/features.npy", "feature_batch_size=100"), "feature_batch_size"),
        (("finetune", "run_dir={}/run", "preset=lightly", "batch_size=100"), "batch_size"),
    ],
)
def test_a_batch_that_no_memory_holds_is_refused(arguments, key, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits, "main_memory", lambda: 99 * 3 * 4 * 32**2)
    line = [each.format(tmp_path) for each in arguments]
    line += ["checkpoint=random:resnet10t", "data=digits", "data.image_size=32"]
    assert main([*line, "data.num_workers=0"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "data.image_size=32 with 100 images at a time needs 1 MiB" in told
    assert f"set data.image_size or {key} to less" in told


class _Full(nn.Module):
    """A backbone for which there is too little memory, as torch and Python say it."""

    feature_dim = 4

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error

    forward_features = forward


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
    ],
)
def test_a_backbone_that_lacks_memory_is_not_told_of_another_image_size(error):
    for check in (lambda: check_input_size(_Full(error), [64]), lambda: PatchMap(_Full(error), 64)):
        with pytest.raises(ConfigError, match="does not suffice for one image; set "):
            check()
    fits = build_backbone(BackboneOptions("vit_tiny_patch16_224", "timm"))
    with pytest.raises(ConfigError, match=r"may need backbone\.options\.img_size=64"):
        check_input_size(fits, [64])


def test_a_study_starts_no_more_processes_than_help(tmp_path, capsys):
    assert main(["study", "mveb_beta", "jobs=100000", f"output={tmp_path}/page"]) == 2
    assert "jobs=100000 would start 100,000 processes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_whoever_insists_is_let_through(monkeypatch):
    monkeypatch.setattr(limits, "main_memory", lambda: 2**30)
    limits.check_memory("it", 2**30, "take less")
    with pytest.raises(ConfigError, match="it needs 1 GiB of memory and there are 1 GiB"):
        limits.check_memory("it", 2**30 + 1, "take less")
    many = max(64, 8 * limits.cpus()) + 1
    with pytest.raises(ConfigError, match=f"jobs={many} would start {many} processes"):
        limits.check_processes("jobs", many)
    monkeypatch.setenv(limits.INSIST, "1")
    limits.check_memory("it", 2**40, "take less")
    limits.check_processes("jobs", 10**6)
    limits.check_count("epochs", 10**12)


def test_batches_of_an_epoch_that_are_left():
    check_batches({"limit_train_batches": 0.5, "val_check_interval": 2}, 4)
    check_batches({"val_check_interval": 1.0}, 4)
    check_batches({"val_check_interval": 9, "check_val_every_n_epoch": None}, 4)
    with pytest.raises(ConfigError, match="does not fit the 2 batches"):
        check_batches({"limit_train_batches": 0.5, "val_check_interval": 3}, 4)
