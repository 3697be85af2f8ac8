"""Sound files, as bytes, that cases begin with."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from erssl.files import write_json
from erssl.models import build_backbone, save_backbone
from erssl.models.backbones import BackboneOptions
from erssl.models.saving import checkpoint_header
from erssl.protocols.build import build_method
from erssl.run.directory import RunDirectory, environment, make_results
from erssl.settings.pretrain import read_settings

TINY = BackboneOptions("resnet-9", "lightly", options={"width": 0.125, "num_ftrs": 8})
TINY_OVERRIDES = [
    "backbone=timm",
    "backbone.library=lightly",
    "backbone.name=resnet-9",
    "backbone.options={width:0.125,num_ftrs:8}",
]
PREPROCESSING = {"image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear"}


@cache
def backbone() -> nn.Module:
    """A network of 78,000 weights, which reads like any other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone(TINY).eval()


@cache
def run_files() -> dict[str, bytes]:
    """What a finished pretraining leaves behind, by its path in the run directory."""
    overrides = ["method=simclr", "data=digits", *TINY_OVERRIDES, "method.projection_dim=16"]
    overrides += ["method.projection_hidden_dim=16"]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        settings, config = read_settings(overrides)
        with torch.random.fork_rng():
            method = build_method(settings, num_classes=10, batch_size=2)
        RunDirectory(folder).write_config(config)
        save_backbone(
            method.backbone, folder / "backbone.safetensors", TINY, settings.data.preprocessing
        )
        metrics = {"knn_top1": 0.9, "linear_top1": 0.95, "untrained_knn_top1": 0.8}
        surroundings = environment()
        results = make_results(
            "pretrain", "digits", "simclr", metrics, 0, config, surroundings, 1.0
        )
        write_json(folder / "results.json", results)
        write_json(folder / "environment.json", surroundings)
        (folder / "metrics.csv").write_text("epoch,step,train_loss\n0,1,2.5\n0,2,2.25\n")
        (folder / "lens.csv").write_text(LENS)
        checkpoint = {
            "state_dict": method.state_dict(),
            "epoch": 1,
            "global_step": 2,
            "pytorch-lightning_version": "2.6.0",
            **checkpoint_header(method.backbone, settings.data.preprocessing),
        }
        (folder / "checkpoints").mkdir()
        torch.save(checkpoint, folder / "checkpoints/last.ckpt")
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


LENS = (
    "step,entropy_k10,reconstruction_k10,i_er_k10,log_sphere_area,log_n,alignment,effective_rank\n"
    "0,1.5,2.5,4.0,5.0,5.5,0.5,3.0\n"
    "10,2.5,2.5,5.0,5.0,5.5,0.75,4.0\n"
)


def write_run(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """A finished run in a folder."""
    for name, content in run_files().items():
        if name not in without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


@cache
def evaluation_results() -> dict[str, Any]:
    """The content of the results.json of an evaluation."""
    published = {
        "source": "a table",
        "setting": {"backbone": "resnet50", "epochs": 200},
        "unit": "percent",
        "rows": {"SimCLR": {"top1": 69.3}, "MVEB": {"top1": 75.2}},
    }
    config = {"preset": None, "k": 20, "seed": 0, "data": {"name": "digits"}}
    results = make_results(
        "knn", "digits", "simclr", {"top1": 0.9, "top5": 0.99}, 0, config, environment(), 1.0
    )
    return json.loads(json.dumps(results | {"published": {"groups": [published]}}))


@cache
def checkpoints() -> dict[str, bytes]:
    """Checkpoints of the formats and layouts that are read, by their file's ending."""
    files = run_files()
    state = {f"model.backbone.{name}": t for name, t in backbone().state_dict().items()}
    legacy, zipped = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3, "args": {"lr": 0.1}}, zipped)
    torch.save({"state_dict": state}, legacy, _use_new_zipfile_serialization=False)
    return {
        "ours.safetensors": files["backbone.safetensors"],
        "ours.ckpt": files["checkpoints/last.ckpt"],
        "theirs.pth": zipped.getvalue(),
        "legacy.pth.tar": legacy.getvalue(),
    }


@cache
def images() -> dict[str, bytes]:
    """Images of every format and mode, by an ending that names both."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    modes = {m: colour.convert(m) for m in ("RGB", "L", "P", "1", "RGBA", "CMYK")} | {"I": deep}
    kinds = {
        "PNG": ("RGB", "L", "P", "1", "RGBA", "I"),
        "JPEG": ("RGB", "L", "CMYK"),
        "GIF": ("P", "RGB"),
        "BMP": ("RGB", "P"),
        "TIFF": ("RGB", "CMYK", "I"),
        "WEBP": ("RGB",),
        "PPM": ("RGB", "L", "I"),
    }
    files = {}
    for kind, own in kinds.items():
        for mode in own:
            file = io.BytesIO()
            modes[mode].save(file, kind)
            files[f"{mode}.{kind.lower()}"] = file.getvalue()
    return files


@cache
def turned(orientation: int) -> bytes:
    """A JPEG of 12 x 9 stored pixels with an EXIF orientation."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(images()["RGB.jpeg"])).save(file, "JPEG", exif=exif)
    return file.getvalue()


def options_of(**changed: Any) -> dict[str, Any]:
    """The architecture of the small network as files have it."""
    return dataclasses.asdict(TINY) | changed
