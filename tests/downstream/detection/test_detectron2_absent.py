"""Without Detectron2 the backend says where it comes from, and all else works."""

import subprocess
import sys

import pytest

from erssl.downstream.detection import detectron2_backend
from erssl.downstream.detection.detectron2_config import INSTALL
from erssl.errors import ConfigError

from .detectron2_jobs import make_coco, make_job


@pytest.fixture
def absent(monkeypatch):
    """Any import of Detectron2 fails, as where it is not installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "detectron2":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)


def test_its_absence_is_one_sentence(absent, tmp_path):
    job = make_job(make_coco(tmp_path / "coco", count=2), tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        detectron2_backend.run(job)
    said = str(caught.value)
    assert INSTALL in said and "backend=torchvision" in said
    assert "\n" not in said and said.endswith(".")
    assert not (tmp_path / "run").exists()


def test_train_net_says_the_same(absent, capsys):
    from erssl.downstream.detection.train_net import main

    assert main(["--config-file", "mask_rcnn_R_50_FPN_1x.yaml"]) == 2
    assert INSTALL in capsys.readouterr().err


def test_modules_that_the_command_imports_do_not_need_it():
    code = (
        "import sys; sys.modules['detectron2'] = None; sys.modules['pycocotools'] = None;"
        "import erssl.downstream.detection.detectron2_backend;"
        "import erssl.downstream.detection.train_net, erssl.downstream.detection.voc;"
        "import erssl.downstream.detection.weights, erssl.downstream.detection.sampling"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
