"""What a new user gets wrong, and what is said: cause, what was expected, what to do.

In one process and before any work; a message that misleads is the defect here.
"""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from erssl.cli.main import main
from erssl.settings.hints import SYNONYMS, meant_key, not_a_setting, unknown_key, unknown_option


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with images, a file of weights and what looks like a run."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "0.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = "data=imagefolder data.train_dir="
MESSAGES = [
    # keys as other tools have them
    ("pretrain image_size=32", "did you mean data.image_size?"),
    ("pretrain img_size=32", "did you mean data.image_size?"),
    ("pretrain data.img_size=32", "did you mean data.image_size?"),
    ("pretrain lr=0.1", "did you mean optimizer.base_lr?"),
    ("pretrain optimizer.lr=0.1", "did you mean optimizer.base_lr?"),
    ("pretrain weight_decay=0.1", "did you mean optimizer.weight_decay?"),
    ("pretrain max_epochs=3", "did you mean epochs?"),
    ("pretrain trainer.max_epochs=3", "did you mean epochs?"),
    ("pretrain gpus=1", "did you mean trainer.devices?"),
    ("pretrain trainer.gpus=1", "did you mean trainer.devices?"),
    ("pretrain precision=16-mixed", "did you mean trainer.precision?"),
    ("pretrain num_workers=2", "did you mean data.num_workers?"),
    ("pretrain batch-size=64", "did you mean batch_size?"),
    ("pretrain method=simclr temperature=0.1", "did you mean method.temperature?"),
    ("pretrain strategy=ddp", "did you mean trainer.strategy?"),
    ("pretrain output_dir=x", "did you mean run_dir?"),
    ("pretrain ckpt_path=x", "did you mean checkpoint?"),
    ("pretrain pretrained=true", "checkpoint=timm:<name>"),
    ("pretrain train_dir=photos", f"did you mean {TRAIN}photos?"),
    ("pretrain data=imagefolder data.path=photos", "did you mean data.train_dir?"),
    ("knn checkpoint=run knn_k=20", "did you mean k?"),
    ("knn checkpoint=run image_size=64", "did you mean data.image_size?"),
    ("linear checkpoint=run lr=0.1", "did you mean head_lr?"),
    ("linear checkpoint=run gpus=1", "did you mean trainer.devices?"),
    ("finetune checkpoint=run batch=3", "did you mean batch_size?"),
    ("semi checkpoint=run percent=1", "did you mean fraction?"),
    ("transfer checkpoint=run root=photos", "did you mean data_root?"),
    ("detect checkpoint=run lr=0.1", "did you mean learning_rate?"),
    ("embed checkpoint=run out=x", "did you mean output?"),
    ("export checkpoint=run type=onnx", "did you mean format?"),
    ("lens checkpoint=run image_size=32", "did you mean data.image_size?"),
    ("report run out=x", "did you mean output?"),
    # values
    ("pretrain method=SimCLR", "did you mean simclr?"),
    ("pretrain method=barlow_twins", "did you mean barlowtwins?"),
    ("pretrain method=mvbe", "did you mean mveb?"),
    ("pretrain data=CIFAR-10", "did you mean cifar10?"),
    ("pretrain data=photos", f"write {TRAIN}photos."),
    ("pretrain data=nothing_here", f"no such folder; for images of your own write {TRAIN}<folder>"),
    (
        "pretrain backbone=vit_small_patch16_224",
        "backbone=timm backbone.name=vit_small_patch16_224",
    ),
    ("pretrain backbone=wide_resnet50_2", "backbone=torchvision backbone.name=wide_resnet50_2"),
    ("pretrain resume=run", "write resume=true run_dir=run."),
    ("pretrain trainer.precision=fp16", "write trainer.precision=16-mixed."),
    ("linear checkpoint=run resume=run", "write resume=true run_dir=run."),
    # paths without a key, dashes
    ("pretrain photos", f"write {TRAIN}photos."),
    ("pretrain run", "write checkpoint=run."),
    ("pretrain weights.pth", "write checkpoint=weights.pth."),
    ("pretrain no/where", "there is no such file or folder"),
    ("pretrain nowhere", "there is no file or folder of that name"),
    ("pretrain --epochs 3", "settings have no dashes: write epochs=<value>."),
    ("pretrain --lr=0.1", "write optimizer.base_lr=0.1."),
    ("pretrain +epochs=3", "write epochs=3."),
    ("pretrain epochs 3", "write epochs=<value>."),
    ("knn run", "write checkpoint=run."),
    ("linear weights.pth", "write checkpoint=weights.pth."),
    ("transfer checkpoint=run photos", "write data_root=photos."),
    ("detect checkpoint=run photos", "write data_root=photos."),
    ("segment checkpoint=run photos", "write data_root=photos."),
    ("linear checkpoint=run on=patches", "is trained by erssl segment"),
    ("embed checkpoint=run photos", "write data=photos."),
    ("export run", "write checkpoint=run."),
    ("report run --output x", "settings have no dashes: write output=<value>."),
    # a path that does not exist is said first
    ("knn checkpoint=nowhere.pth", "There is no checkpoint at nowhere.pth"),
    ("linear checkpoint=resnet50", "random:<architecture> for an untrained network"),
    ("lens checkpoint=nowhere.pth", "There is no checkpoint at nowhere.pth"),
    ("lens nowhere", "There is no folder nowhere"),
    ("report nowhere", "There is no file or folder nowhere"),
    ("pretrain data=imagefolder data.train_dir=nowhere", "data.train_dir=nowhere does not exist"),
]


@pytest.mark.parametrize(("command", "said"), MESSAGES)
def test_a_mistake_is_answered_with_what_was_meant(command, said, place, capsys, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)
    before = sorted(place.rglob("*"))
    assert main(command.split(" ")) == 2
    out, err = capsys.readouterr()
    assert said in err, err
    assert out == ""
    assert err.startswith("erssl: ")
    assert err.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_an_architecture_that_was_given_is_not_asked_for(place, capsys):
    assert main(["knn", "checkpoint=weights.pth", "data=digits", "arch=resnet18"]) == 2
    given = capsys.readouterr().err
    assert "name its architecture" not in given
    assert "another arch=" in given
    torch.save(resnet18().state_dict(), place / "resnet18.pth")
    assert main(["knn", "checkpoint=resnet18.pth", "data=digits", "arch=resnet50"]) == 2
    other = capsys.readouterr().err
    assert "another network than arch=resnet50" in other
    assert "name what it is" not in other


def test_channels_are_no_matter_of_the_image_size(capsys):
    words = ["pretrain", "backbone=timm", "backbone.name=test_resnet", "data=digits"]
    assert main([*words, "backbone.options.in_chans=1"]) == 2
    err = capsys.readouterr().err
    assert "img_size" not in err
    assert "in_chans" in err


def test_hints_need_no_torch():
    code = (
        "import sys; from erssl.settings import hints; hints.unknown_key('lr', ['a'], ['a']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_near_is_said_where_nothing_is_meant():
    assert "did you mean epochs?" in unknown_key("epohcs", ["epochs"], ["epochs"])
    assert meant_key("weird", ["epochs"]) is None
    assert all(name == name.lower() and keys for name, keys in SYNONYMS.items())
    assert unknown_option("data", "digit", ["digits"]).startswith("data=digit is unknown; did you")
    assert "key=value" in not_a_setting("word")
