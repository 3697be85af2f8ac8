"""Checkpoints that would run code, read other files, or take all memory."""

import io
import pickle
import zipfile

import pytest
import torch

from erssl import load_backbone
from erssl.cli.main import main
from erssl.errors import DataError, ErsslError, RunError
from erssl.models import build_backbone, save_backbone
from erssl.models.backbones import BackboneOptions
from erssl.run.checkpoint_files import newest_whole
from erssl.run.directory import LAST_CHECKPOINT

from ..hostile import Hostile

TINY = BackboneOptions("resnet-9", "lightly", options={"width": 0.125, "num_ftrs": 8})


def saved(content, zipped=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


FORMATS = {
    "pickle": pickle.dumps,
    "text pickle": lambda content: pickle.dumps(content, 0),
    "torch": saved,
    "old torch": lambda content: saved(content, False),
    "in a state dict": lambda content: saved({"state_dict": {"conv1.weight": content}}),
    "as settings": lambda content: saved({"state_dict": {}, "hyper_parameters": content}),
}
ENDINGS = (".pth", ".pth.tar", ".ckpt", ".pkl", ".pt", ".bin", ".safetensors", "")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_no_format_runs_what_a_pickle_names(tmp_path, format, ending):
    content = FORMATS[format](Hostile(tmp_path / "ran"))
    file = tmp_path / f"x{ending}"
    file.write_bytes(content)
    with pytest.raises(DataError):
        load_backbone(file)
    for name in ("checkpoints/last.ckpt", "backbone.safetensors"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(DataError):
        load_backbone(tmp_path / "run")
    with pytest.raises(RunError):
        newest_whole(tmp_path / "run" / LAST_CHECKPOINT)
    overrides = [f"checkpoint={file}", "data=digits", f"run_dir={tmp_path / 'out'}"]
    for command in (["knn", *overrides], ["lens", *overrides[:2]]):
        assert main(command) == 2
    assert not (tmp_path / "ran").exists()


def test_a_hostile_pickle_does_run_elsewhere(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "else the tests above show nothing"


def ours(tmp_path, **changes):
    """A checkpoint of ours whose header says something else."""
    state = {f"backbone.{n}": t for n, t in build_backbone(TINY).state_dict().items()}
    about = {"name": TINY.name, "library": TINY.library, "options": dict(TINY.options), **changes}
    content = {"state_dict": state, "erssl": {"backbone": about, "preprocessing": {}}}
    torch.save(content, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ["resnet-9"]},
        {"name": 3, "library": "timm"},
        {"library": "pip"},
        {"options": 3},
        {"options": {"width": 1e9, "num_ftrs": 8}},
        {"options": {"width": 90_000, "num_ftrs": 8}},  # 10^16 weights
        {"options": {"width": float("nan")}},
        {"stem_padding": 10**9},
        {"name": "vit_tiny_patch16_224", "library": "timm", "options": {"depth": 90_000}},
    ],
)
def test_a_header_that_is_no_architecture_is_refused(tmp_path, changes):
    with pytest.raises(ErsslError):
        load_backbone(ours(tmp_path, **changes))


def test_a_header_cannot_name_other_weights(tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    backbone = build_backbone(BackboneOptions("resnet10t", "timm"))
    own = {"checkpoint_path": str(other), "pretrained": True, "pretrained_cfg": {"url": "x"}}
    hostile = BackboneOptions("resnet10t", "timm", options=own)
    save_backbone(backbone, tmp_path / "x.safetensors", hostile)
    assert load_backbone(tmp_path / "x.safetensors").architecture.options == {}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "preprocessing",
    [{"image_size": "32"}, {"mean": [1, 2]}, {"std": [0, 1, 1]}, {"interpolation": 3}, {"x": 1}],
)
def test_preprocessing_that_no_image_passes_through_is_refused(tmp_path, preprocessing):
    save_backbone(build_backbone(TINY), tmp_path / "x.safetensors", TINY, preprocessing)
    with pytest.raises(DataError, match="preprocessing"):
        load_backbone(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "state",
    [
        {"conv1.weight": torch.zeros(()).expand(2**40)},  # 4 TiB in 400 bytes
        {"conv1.weight": torch.zeros(())},
        {"conv1.weight": torch.zeros(3), "layer1.0.conv1.weight": torch.zeros(())},
        {"patch_embed.proj.weight": torch.zeros(2, 2), "pos_embed": torch.zeros(1, 5, 2)},
        {"patch_embed.proj.weight": torch.zeros(2, 2, 2, 2), "pos_embed": torch.zeros(())},
        {"patch_embed.proj.weight": torch.zeros(2), "register_tokens": 1, "cls_token": 2},
        {"patch_embed.proj.weight": torch.zeros(2, device="meta")},
    ],
)
def test_weights_that_do_not_go_together_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(DataError):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"Xp", b"PK\x03\x04", b"\x80\x02}", b"\x80\x05\x95"])
def test_a_few_bytes_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(DataError):
        load_backbone(tmp_path / "x.pth")


def test_a_zip_bomb_and_its_names_do_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/../../../escaped", "x")
        archive.writestr("archive/data/0", b"\0" * 10**8)
    with pytest.raises(DataError):
        load_backbone(tmp_path / "x.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
