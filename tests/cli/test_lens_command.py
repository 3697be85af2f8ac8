"""``erssl lens`` on runs, files of ours and of others."""

import dataclasses
import json

import pytest
import torch
from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead
from lightly.transforms.utils import IMAGENET_NORMALIZE
from PIL import Image
from torch import nn

from erssl.cli.main import main
from erssl.data import SSLDataModule, default_options
from erssl.data.views import pipelines
from erssl.errors import DataError
from erssl.evaluation import lens_reading
from erssl.evaluation.label_free import spectral_reading
from erssl.models import build_backbone
from erssl.models.foreign import build_head, load_branch
from erssl.run.directory import read_lens
from erssl.settings.pretrain import run_settings

from .test_pretrain import TINY, UNMEASURED


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folders = []
    for method in ("mveb", "dino_er"):
        folder = tmp_path_factory.mktemp("lens") / method
        own = ["method.num_prototypes=16"] if method == "dino_er" else []
        overrides = [*TINY, *UNMEASURED, *own, "lens.probe_size=64", "lens.every_n_steps=4"]
        assert main(["pretrain", *overrides, f"method={method}", f"run_dir={folder}"]) == 0
        folders.append(folder)
    return folders


def printed(text):
    rows = [row for row in map(str.split, text.splitlines()) if len(row) == 2]
    return {name: float(value) for name, value in rows if "." in value and "/" not in value}


FURTHER = {"rankme", "lidar", "alpha_req", "cluster_learnability", "intrinsic_dimension"}


def test_a_run_is_read_as_its_own_lens_read_it_last(trained, capsys):
    for folder in trained:
        assert main(["lens", f"checkpoint={folder}", f"output={folder / 'again'}"]) == 0
        reading = json.loads((folder / "again" / "lens.json").read_text())
        last = read_lens(folder / "lens.csv")[-1]
        expected = {k: v for k, v in last.items() if k not in ("step", "epoch", "seconds")}
        metrics = reading["metrics"]
        assert {k: v for k, v in metrics.items() if k in expected} == pytest.approx(
            expected, rel=1e-4
        )
        assert metrics.keys() - expected.keys() == FURTHER
        assert (reading["protocol"], reading["dataset"]) == ("lens", "digits")
        assert printed(capsys.readouterr().out)["i_er_k10"] == pytest.approx(
            last["i_er_k10"], abs=1e-3
        )


def test_no_images_are_held_for_views_that_are_lightlys(trained, monkeypatch, capsys):
    readings = []
    monkeypatch.setattr(pipelines, "HeldImages", lambda *a: pytest.fail("images were held"))
    for name in ("device", "lightly"):
        assert main(["lens", f"checkpoint={trained[0]}", f"data.pipeline={name}"]) == 0
        readings.append(printed(capsys.readouterr().out))
    assert readings[0] and readings[0] == readings[1]


def test_lens_files_of_a_run(trained):
    rows = read_lens(trained[1] / "lens.csv")
    assert [r["step"] for r in rows] == [0, 4, 8, 12, 16]
    assert {"discrete_entropy", "log_k"} <= set(rows[0])
    assert "discrete_entropy" not in read_lens(trained[0] / "lens.csv")[0]
    for folder in trained:
        assert Image.open(folder / "lens.png").width > 800
        report = (folder / "report.md").read_text()
        assert "lens.png" in report
        last = read_lens(folder / "lens.csv")[-1]
        for column in ("nats_below_uniform_kde", "nats_below_uniform_knn"):
            assert f"{last[column]:.4f} " in report
        assert "train_entropy" not in report  # a number of which nobody sees whether it is high


def test_several_runs_make_one_image(trained, tmp_path, capsys):
    image = tmp_path / "both.png"
    assert main(["lens", *map(str, trained), f"output={image}"]) == 0
    assert Image.open(image).width > 800


def test_backbone_file_and_features(trained, capsys):
    assert main(["lens", f"checkpoint={trained[0]}", "on=features", "lens.probe_size=32"]) == 0
    first = printed(capsys.readouterr().out)
    file = trained[0] / "backbone.safetensors"
    assert main(["lens", f"checkpoint={file}", "data=digits", "lens.probe_size=32"]) == 0
    assert printed(capsys.readouterr().out) == first


def test_foreign_checkpoint_with_lightlys_names(tmp_path, capsys):
    torch.manual_seed(0)
    backbone = build_backbone("resnet18").eval()
    head = SimCLRProjectionHead(512, 32, 16).eval()
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    state |= {f"projection_head.{k}": v for k, v in head.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    overrides = ["data=digits", "lens.probe_size=16", "data.num_workers=0"]
    assert main(["lens", f"checkpoint={tmp_path / 'last.ckpt'}", *overrides]) == 0
    # nothing in the file says otherwise: a stem for large images is read as ImageNet's
    imagenet = {"image_size": 224, **IMAGENET_NORMALIZE}
    options = default_options("digits", num_workers=0, **imagenet)
    views = SSLDataModule(options, 2, 0).probe_views(16)
    with torch.no_grad():
        embeddings = [head(backbone(v)) for v in views]
        expected = lens_reading(embeddings) | spectral_reading(embeddings)
    assert printed(capsys.readouterr().out) == pytest.approx(expected, abs=1e-3)


def test_head_of_a_foreign_file_is_rebuilt_from_its_weights():
    z = torch.randn(3, 12)
    for head, activation in (
        (SimCLRProjectionHead(12, 8, 4, num_layers=3), "relu"),
        (DINOProjectionHead(12, 8, 6, 4, batch_norm=True).layers, "gelu"),
        (nn.Linear(12, 4, bias=False), "relu"),
    ):
        head.eval()
        rebuilt = build_head(head.state_dict(), activation).eval()
        torch.testing.assert_close(rebuilt(z), head(z))
    with pytest.raises(DataError, match="layer 0 is neither linear nor"):
        build_head(nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict())


def test_probe_of_a_data_module_is_fixed_and_leaves_random_numbers_alone():
    data = SSLDataModule(default_options("digits", num_workers=0), 8, 0)
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    views = data.probe_views(10)
    assert torch.equal(torch.rand(1), first)
    assert [v.shape for v in views] == [(10, 3, 32, 32)] * 2
    assert not torch.equal(*views)
    assert all(torch.equal(a, b) for a, b in zip(views, data.probe_views(10), strict=True))
    assert len(data.probe_views()[0]) == 256


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "needs checkpoint="),
        (["chekpoint=x"], "did you mean checkpoint?"),
        (["checkpoint=/nowhere.ckpt", "data=digits"], "There is no checkpoint at /nowhere.ckpt"),
        (["checkpoint=/nowhere.ckpt"], "There is no checkpoint at /nowhere.ckpt"),
        (["checkpoint=x", "on=head"], "choose embedding or features"),
        (["checkpoint=x", "head_activation=tanh"], "choose relu or gelu"),
        (["checkpoint=x", "method=mveb"], "The key method is unknown"),
        (["/nowhere"], "There is no folder /nowhere"),
        (["/nowhere", "seed=1"], "leave seed=1 out"),
        (["/nowhere", "output=lens.xyz"], "must end in one of .png, .pdf, .svg"),
    ],
)
def test_wrong_overrides_are_one_sentence(overrides, sentence, capsys):
    assert main(["lens", *overrides]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_wrong_files_are_one_sentence(trained, tmp_path, capsys):
    (tmp_path / "not.ckpt").write_bytes(b"no checkpoint")
    assert main(["lens", f"checkpoint={tmp_path / 'not.ckpt'}", "data=digits"]) == 2
    assert "is no checkpoint that torch can read" in capsys.readouterr().err
    whole = (trained[0] / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    assert main(["lens", f"checkpoint={tmp_path / 'cut.ckpt'}", "data=digits"]) == 2
    error = capsys.readouterr().err
    assert "cut.ckpt is truncated; copy or download it again." in error
    torch.save({"state_dict": {"encoder.weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="holds no backbone of resnet18 in any known"):
        load_branch(tmp_path / "other.ckpt", "resnet18")
    assert main(["lens", f"checkpoint={trained[0]}", "lens.probe_size=361"]) == 2
    assert "set it to 360 or less" in capsys.readouterr().err
    assert main(["lens", f"checkpoint={trained[0]}", "backbone=resnet18"]) == 2
    assert "The key backbone is unknown" in capsys.readouterr().err


def test_a_run_keeps_its_views_whatever_else_is_said(trained):
    run = trained[0]
    stored = run_settings(run, [])
    assert stored.data.views.recipe == "digits"
    changed = run_settings(run, ["data.num_workers=1", "data.views.global_scale=[0.3,1.0]"])
    assert changed.data.num_workers == 1
    assert changed.data.views == dataclasses.replace(stored.data.views, global_scale=(0.3, 1.0))
    other = run_settings(run, ["data=cifar10", "data.root=/images", "seed=4"])
    assert (other.data.name, other.data.root, other.seed) == ("cifar10", "/images", 4)
    assert other.data.views == stored.data.views
    assert other.data.mean == stored.data.mean


def test_own_checkpoint_file_is_read_as_its_run(trained, capsys):
    assert main(["lens", f"checkpoint={trained[1]}", "lens.probe_size=32"]) == 0
    first = printed(capsys.readouterr().out)
    file = trained[1] / "checkpoints" / "last.ckpt"
    assert main(["lens", f"checkpoint={file}", "lens.probe_size=32"]) == 0
    assert printed(capsys.readouterr().out) == first


def test_another_backbone_or_head_is_refused(tmp_path):
    file = tmp_path / "resnet34.ckpt"
    state = {f"backbone.{k}": v for k, v in build_backbone("resnet34").state_dict().items()}
    torch.save({"state_dict": state}, file)
    with pytest.raises(DataError, match=r"0 missing, 96 unexpected .* such as layer1"):
        load_branch(file, "resnet18")  # all of whose names are there
    with pytest.raises(DataError, match="holds no head under"):
        load_branch(file, "resnet34")
    assert isinstance(load_branch(file, None, head_prefix=None)[1], nn.Identity)
    state |= {"projection_head.0.weight": torch.zeros(4, 7)}
    torch.save({"state_dict": state}, file)
    with pytest.raises(DataError, match="takes 7 features but the backbone gives 512"):
        load_branch(file, "resnet34")
    torch.save({"state_dict": torch.zeros(3)}, file)
    with pytest.raises(DataError, match="holds no backbone"):
        load_branch(file, "resnet34")


def test_a_run_that_collapses_or_diverges_ends_in_a_sentence_and_leaves_its_image(tmp_path, capsys):
    overrides = [*TINY, *UNMEASURED, "method=simclr", "optimizer.base_lr=1e7", "epochs=1"]
    assert main(["pretrain", *overrides, "lens.every_n_steps=1", f"run_dir={tmp_path / 'a'}"]) == 2
    error = capsys.readouterr().err
    assert "is not finite: " in error
    assert (tmp_path / "a" / "lens.png").is_file()
    overrides += ["lens.every_n_steps=1", "lens.on_collapse=stop", "trainer.limit_train_batches=20"]
    overrides += ["epochs=8", "optimizer.base_lr=30"]
    assert main(["pretrain", *overrides, f"run_dir={tmp_path / 'b'}"]) == 2
    assert "The run was ended, as asked" in capsys.readouterr().err
    assert (tmp_path / "b" / "lens.png").is_file()


def test_probe_larger_than_the_data_stops_a_run_before_training(tmp_path, capsys):
    overrides = [*TINY, *UNMEASURED, "lens.probe_size=500", f"run_dir={tmp_path / 'run'}"]
    assert main(["pretrain", *overrides]) == 2
    assert "lens.probe_size=500 does not fit the 360 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_lens_can_be_switched_off(tmp_path):
    overrides = [*TINY, *UNMEASURED, "lens.probe_size=0", "epochs=1", f"run_dir={tmp_path / 'run'}"]
    assert main(["pretrain", *overrides]) == 0
    assert not (tmp_path / "run" / "lens.csv").exists()
