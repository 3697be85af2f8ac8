"""What is refused, and what is mended, when a run is resumed whose folder somebody has changed."""

import dataclasses
import errno
import json
import shutil
import threading

import pytest
import torch
import yaml
from safetensors.torch import load_file

from erssl.callbacks.csv_logger import ResumableCSVLogger
from erssl.cli.main import main
from erssl.data import default_options
from erssl.errors import ConfigError, ErsslWarning, RunError
from erssl.evaluation.frozen import freeze
from erssl.models import BackboneOptions, build_backbone
from erssl.protocols.compare import _overrides_of, plan
from erssl.protocols.predict import read_classifier
from erssl.run.directory import RunDirectory
from erssl.settings.evaluation_resume import check_same_settings
from erssl.settings.pretrain import read_settings, stored_config

from .test_pretrain import TINY, UNMEASURED

WEIGHTS = "backbone.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    own = (*UNMEASURED, "method=simclr", "epochs=1", "lens.probe_size=0")
    assert main(["pretrain", *TINY, *own, f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resume(run_dir, *overrides):
    return main(["pretrain", f"run_dir={run_dir}", "resume=true", *overrides])


def test_an_evaluation_of_a_build_that_knew_fewer_options_of_images_goes_on(tmp_path):
    data = json.loads(json.dumps(dataclasses.asdict(default_options("digits"))))
    now = {"checkpoint": "pixels", "seeds": 1, "features_precision": "float32", "data": data}
    wrote = ["name", "image_size", "mean", "std", "interpolation", "crop_pct", "views"]
    wrote += ["pipeline", "num_workers"]
    unread = {"root": None, "train_dir": None, "val_dir": None, "val_fraction": None}
    unread |= {"download": False, "on_error": "raise", "verify": True, "exif": False}
    before = {**now, "data": {key: data[key] for key in wrote} | unread}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(before))
    check_same_settings(file, now)
    with pytest.raises(ConfigError, match=r"data\.channels=1 differs from 3"):
        check_same_settings(file, {**now, "data": {**data, "channels": 1}})
    file.write_text("")
    with pytest.raises(RunError, match="cannot be read"):
        check_same_settings(file, now)


def test_a_comparison_keeps_a_finished_run_without_checkpoints(tmp_path, capsys):
    overrides = ["seed=0,1", f"run_dir={tmp_path}"]
    runs, settings = plan([*overrides, "resume=true"])
    runs[0].path.mkdir()
    (runs[0].path / "results.json").write_text("{}")
    assert "resume=true" in _overrides_of(runs[0], settings)
    assert "overwrite=true" in _overrides_of(runs[1], settings)
    assert main(["pretrain", *overrides, "--multirun"]) == 2  # without config.yaml too
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("folder", [False, True])
def test_a_run_without_its_settings_is_not_resumed(run_dir, capsys, folder):
    (run_dir / "config.yaml").unlink()
    if folder:
        (run_dir / "config.yaml").mkdir()
    assert resume(run_dir, *TINY, "method=simclr", "epochs=5") == 2
    told = capsys.readouterr()
    assert "config.yaml does not exist; put a copy of it back" in told.err
    assert told.err.count("\n") == 1 and "finished" not in told.out


@pytest.mark.parametrize(
    ("override", "lacks"),
    [
        ("evaluation.probes.mine=folder", None),
        ("trainer.max_steps=3", None),
        ("trainer.gradient_clip_val=1.0", None),
        ("data.channels=1", ("data", "channels")),
    ],
)
def test_a_key_that_the_run_lacks_is_compared_with_its_default(run_dir, override, lacks):
    file = run_dir / "config.yaml"
    if lacks:
        config = yaml.safe_load(file.read_text())
        del config[lacks[0]][lacks[1]]
        file.write_text(yaml.safe_dump(config))
    same = ["trainer.max_steps=-1", "data.channels=3"]
    state = [f"run_dir={run_dir}", "resume=true"]
    assert read_settings([*state, *same])[0].data.channels == 3
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}=.* differs from"):
        read_settings([*state, override])


def test_what_is_about_the_weights_of_the_start_may_be_repeated(run_dir):
    file = run_dir / "config.yaml"
    config = yaml.safe_load(file.read_text()) | {"checkpoint": "zoo:x", "freeze_epochs": 1}
    file.write_text(yaml.safe_dump(config | {"epochs": 3}))
    state = [f"run_dir={run_dir}", "resume=true"]
    assert read_settings([*state, "freeze_epochs=1"])[0].freeze_epochs == 1
    with pytest.raises(ConfigError, match="freeze_epochs=2 differs from 1"):
        read_settings([*state, "freeze_epochs=2"])


@pytest.mark.parametrize("content", [b"", None])
def test_a_damaged_backbone_of_a_finished_run_is_written_again(run_dir, capsys, content):
    whole = load_file(run_dir / WEIGHTS)
    (run_dir / WEIGHTS).unlink()
    if content is not None:
        (run_dir / WEIGHTS).write_bytes(content)
    assert resume(run_dir) == 0
    assert "written again" in capsys.readouterr().out.replace("\n", " ")
    again = load_file(run_dir / WEIGHTS)
    assert set(again) == set(whole) and all((again[k] == whole[k]).all() for k in whole)


def test_without_its_checkpoint_it_is_one_sentence(run_dir, capsys):
    (run_dir / WEIGHTS).write_bytes((run_dir / WEIGHTS).read_bytes()[:-100])
    shutil.rmtree(run_dir / "checkpoints")
    assert resume(run_dir) == 2
    assert "put a copy of either back" in capsys.readouterr().err
    assert resume(run_dir, "epochs=2") == 2
    assert "has no checkpoint, so it cannot be made longer" in capsys.readouterr().err


def test_missing_settings_are_named(run_dir):
    for text, sentence in (("a: 1", "backbone is missing"), ("method: 1", "backbone is missing")):
        (run_dir / "config.yaml").write_text(text)
        with pytest.raises(RunError, match=sentence):
            stored_config(run_dir / "config.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x81", b"epoch,loss\n1,2\n"])
def test_a_table_of_metrics_that_cannot_be_read_is_set_aside(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.warns(ErsslWarning, match=r"is now metrics-damaged\.csv"):
        logger = ResumableCSVLogger(tmp_path, resume_step=5)
    logger.log_metrics({"loss": 1.0}, step=5)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss,step", "1.0,5"]
    assert (tmp_path / "metrics-damaged.csv").read_bytes() == content


@pytest.mark.parametrize("name", ["results.json", "environment.json", "report.md"])
def test_a_folder_in_place_of_a_file_is_met_before_the_work(tmp_path, name):
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match="is a folder where runs write a file"):
        RunDirectory(tmp_path, resume=True, resume_from="config.yaml")


def test_a_seed_that_is_no_number_names_no_folder(tmp_path):
    (tmp_path / "config.yaml").write_text(f"head_lr: 1\ndata: {{}}\nseed: {'9' * 300}\n")
    with pytest.raises(RunError, match="has no seed"):
        read_classifier(str(tmp_path))


def test_a_report_that_cannot_be_written_leaves_no_folder(run_dir, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "report.png")

    monkeypatch.setattr("erssl.protocols.report.plot_results", full)
    assert main(["report", str(run_dir), f"output={tmp_path / 'out'}"]) == 2
    assert not (tmp_path / "out").exists()


def test_two_threads_may_make_backbones_quick_while_others_compute():
    backbone = build_backbone(BackboneOptions("test_resnet", "timm")).eval()
    images = torch.zeros(1, 3, 32, 32)
    expected, errors, folded = backbone(images), [], []
    more = threading.Event()

    def compute():
        try:
            while not more.is_set():
                assert (backbone(images) == expected).all()
        except Exception as error:
            errors.append(error)

    def make():
        try:
            folded.extend(freeze(backbone).folded for _ in range(4))
        except Exception as error:
            errors.append(error)

    computing = threading.Thread(target=compute)
    making = [threading.Thread(target=make) for _ in range(2)]
    for thread in (computing, *making):
        thread.start()
    for thread in making:
        thread.join()
    more.set()
    computing.join()
    assert errors == [] and len(set(folded)) == 1 and folded[0] > 0 and len(folded) == 8
