"""Settings that a machine, or a method, cannot take: one sentence before any work."""

import pytest

from erssl import limits
from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.methods import available_methods
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
