"""Python that README and the pages of docs/ show of a run: run as it stands, on one quick run."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import erssl
from erssl.loss import TiCoLoss
from erssl.methods import METHODS
from erssl.models import BackboneOptions, build_backbone

from ..test_commands import BACKBONE, QUICK
from .pages import ROOT, blocks, run_block

# How many blocks a page has; a further one needs a test, here or in test_contributing.py.
COUNTS = {
    "CONTRIBUTING.md": 7,
    "README.md": 4,
    "docs/checkpoints.md": 1,
    "docs/embed.md": 1,
    "docs/lens.md": 1,
    "docs/methods.md": 1,
    "docs/python.md": 2,
    "docs/scaling.md": 1,
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder in which the first lines of the README have made ``runs/mine``, in one epoch."""
    folder = tmp_path_factory.mktemp("reader")
    quick = {**BACKBONE, **QUICK, "run_dir": "runs/mine", "quiet": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with patch.context() as quicker:
            quicker.setattr(erssl, "pretrain", partial(erssl.pretrain, **quick))
            names = run_block("README.md", 'pretrain("mveb", data="digits")')
        yield folder, names


def test_every_block_of_a_page_is_one_that_a_test_runs():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    counts = {page.relative_to(ROOT).as_posix(): len(blocks(page)) for page in pages}
    assert {page: count for page, count in counts.items() if count} == COUNTS


def test_the_first_lines_of_the_readme_give_a_backbone(reader):
    _, names = reader
    images = torch.rand(2, 3, 32, 32)
    assert names["backbone"](images).shape == (2, names["backbone"].feature_dim)
    assert names["result"].metrics["knn_top1"] > 0.2
    again = run_block("README.md", 'load_backbone("runs/mine")')["backbone"]
    assert torch.equal(again(images), names["backbone"](images))


def test_features_are_written_as_the_page_says(reader):
    folder, names = reader
    (folder / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    embedded = run_block("docs/embed.md", 'embed("runs/mine", "photos"')
    assert embedded["features"].shape == (3, names["backbone"].feature_dim)
    assert embedded["features"].dtype == np.float32
    assert {"files", "shape", "skipped"} <= set(embedded["result"].results)


def test_a_published_file_is_reported_as_the_page_says(reader, capsys):
    """A stand-in of MoCo's file: its names, its size, other weights."""
    state = build_backbone(BackboneOptions("resnet50")).state_dict()
    theirs = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    theirs["module.encoder_q.fc.0.weight"] = torch.ones(8, 2048)
    torch.save({"state_dict": theirs}, "moco_v2_800ep_pretrain.pth.tar")
    backbone = run_block("docs/checkpoints.md", "moco_v2_800ep")["backbone"]
    said = re.search(r"# (318 .*?), …", blocks("docs/checkpoints.md")[0])[1]
    assert capsys.readouterr().out.startswith(said)
    assert {"mean", "std", "image_size", "interpolation"} <= set(backbone.preprocessing)


def test_small_batches_of_a_step_move_a_loss_once_as_the_page_says():
    z = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.eye(4))
    optimizer, loss_fn, whole = torch.optim.SGD([weight], 0.1), TiCoLoss(4), TiCoLoss(4)
    small_batches = [(part[0] @ weight, part[1] @ weight) for part in z.split(8, dim=1)]
    names = {"loss_fn": loss_fn, "small_batches": small_batches, "optimizer": optimizer}
    run_block("docs/scaling.md", "accumulate_state(loss_fn)", **names)
    whole(*z.clone().requires_grad_())
    torch.testing.assert_close(loss_fn.covariance, whole.covariance)
    assert not torch.equal(weight, torch.eye(4))


@pytest.mark.parametrize(
    ("page", "mark"),
    [
        ("README.md", "from erssl.loss import MVEBLoss"),
        ("README.md", "from erssl.entropy import"),
        ("docs/lens.md", "ERLens"),
        ("docs/methods.md", "register_method"),
    ],
)
def test_code_of_losses_methods_and_the_lens_runs(page, mark):
    names = run_block(page, mark, __name__="docs")
    if "loss" in names:
        assert names["loss"].isfinite()
        assert names["model"][0].conv1.weight.grad is not None
    if "Mine" in names:
        METHODS.pop("mine")
        method = names["Mine"](8, 2, backbone="resnet18")
        views = list(torch.rand(2, 4, 3, 32, 32))
        assert method.multi_view_step(views).loss.isfinite()


@pytest.mark.parametrize("mark", ["erssl.report(", "class Scans"])
def test_commands_as_functions_run(mark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_block("docs/python.md", mark, __name__="docs")
    assert 0 <= names["knn"].metrics["top1"] <= 1
    assert list(tmp_path.glob("runs/*/results.json"))
