"""``erssl export`` on a run's backbone, used as its last lines say."""

import pytest
import timm
import torch
from torch import nn

from erssl.cli.main import main
from erssl.models import BackboneOptions, load_backbone

from ..models.export_sources import same_features, saved_backbone

FORMATS = {
    "torchvision": "weights.pth",
    "timm": "weights.safetensors",
    "huggingface": "folder [a]",  # brackets are no mark-up
    "safetensors": "other.safetensors",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    saved_backbone(folder, BackboneOptions("resnet18"))
    return folder


@pytest.mark.parametrize("format", FORMATS)
def test_the_printed_lines_load_what_was_written(run, format, tmp_path, capsys):
    output = tmp_path / FORMATS[format]
    overrides = [f"checkpoint={run}", f"format={format}", f"output={output}"]
    assert main(["export", *overrides]) == 0
    printed = capsys.readouterr().out
    assert f"Written: {output}\n" in printed
    assert "4 images of 64 x 64 pixels; the largest difference is" in printed
    namespace = {}
    exec("\n".join(line[2:] for line in printed.splitlines() if line[:2] == "  "), namespace)
    model = namespace.get("model", namespace.get("backbone"))
    if format == "torchvision":
        model.fc = nn.Identity()
    same_features(load_backbone(run), model)
    assert main(["export", *overrides]) == 2
    assert "replace it with overwrite=true" in capsys.readouterr().err
    assert main(["export", *overrides, "overwrite=true"]) == 0


def test_detectron2_says_what_read_the_file(run, tmp_path, capsys):
    overrides = [f"checkpoint={run}", "format=detectron2", f"output={tmp_path / 'R-18.pkl'}"]
    assert main(["export", *overrides, "pickle=true"]) == 0
    printed = capsys.readouterr().out
    with_it = "loaded by Detectron2's DetectionCheckpointer" in printed
    assert with_it != ("Detectron2 is not installed" in printed)
    assert "'MODEL.RESNETS.DEPTH', 18" in printed


def test_a_timm_backbone_by_its_file(tmp_path, capsys):
    options = BackboneOptions("test_resnet", "timm")
    backbone = saved_backbone(tmp_path, options)
    file, output = tmp_path / "backbone.safetensors", tmp_path / "weights.pth"
    assert main(["export", f"checkpoint={file}", "format=timm", f"output={output}"]) == 0
    assert "timm.create_model('test_resnet', num_classes=0" in capsys.readouterr().out
    same_features(
        backbone, timm.create_model("test_resnet", num_classes=0, checkpoint_path=str(output))
    )
    assert set(torch.load(output, weights_only=True)) == set(backbone.state_dict())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "erssl export needs checkpoint=<...>"),
        (["checkpoint=a", "output=b"], "needs format=<...>: torchvision, timm"),
        (["checkpoint=a", "format=timm"], "needs output=<...>"),
        (["checkpoint=a", "format=tim", "output=b"], "did you mean timm?"),
        (["chekpoint=a"], "did you mean checkpoint?"),
        (["runs/mine"], "'runs/mine' is not understood; there is no such file"),
        (
            ["checkpoint=/nowhere", "format=timm", "output=b.pth"],
            "There is no checkpoint at /nowhere",
        ),
        (["checkpoint={run}", "format=timm", "output=b.pth", "overwrite=yes"], "true or false"),
        (["checkpoint={run}", "format=timm", "output=b.bin"], "must end in .safetensors or .pth"),
    ],
)
def test_wrong_overrides_are_one_sentence(run, overrides, sentence, capsys):
    assert main(["export", *(w.replace("{run}", str(run)) for w in overrides)]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_help_names_every_format(capsys):
    assert main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in (*FORMATS, "detectron2"))
    assert main([]) == 0
    assert "export" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ([], "image_size 160, mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]"),
        (["mean=[0.1,0.2,0.3]"], "image_size 160, std [0.5, 0.5, 0.5]"),
        (["mean=[0.1,0.2,0.3]", "image_size=160"], "std [0.5, 0.5, 0.5]"),
        (
            [
                "mean=[0.1,0.2,0.3]",
                "std=[0.5,0.5,0.5]",
                "image_size=160",
                "interpolation=bicubic",
                "crop_pct=0.95",
            ],
            None,
        ),
    ],
)
def test_what_is_said_is_no_longer_assumed_and_the_rest_still_is(said, left, tmp_path, capsys):
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.pth")
    overrides = [f"checkpoint={tmp_path / 'vit.pth'}", "arch=test_vit", "format=huggingface"]
    folder = tmp_path / "folder"
    assert main(["export", *overrides, *said, f"output={folder}"]) == 0
    printed, card = capsys.readouterr().out, (folder / "README.md").read_text().replace("\\", "")
    assumed = [
        line for line in card.splitlines() if line.startswith("- Assumed by erssl, not said")
    ]
    if left is None:
        assert assumed == [] and "ssumed" not in printed
    else:
        (line,) = assumed
        assert f": preprocessing {left}, interpolation bicubic, crop_pct 0.95 (as timm" in line
        assert f"assumed: preprocessing {left}, " in printed
        assert f"Assumed, since the checkpoint does not say it: preprocessing {left}, " in printed
    if said:
        assert "mean [0.1, 0.2, 0.3]" in next(x for x in card.splitlines() if "- Images: " in x)
        assert load_backbone(folder).preprocessing["mean"] == [0.1, 0.2, 0.3]
