"""``trainer.precision=auto``: what it comes to, where it is written down, and runs that go on."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import yaml

from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.methods import BYOL
from erssl.models.half_precision import Agreement
from erssl.protocols import precision
from erssl.protocols.precision import quick_half, with_precision
from erssl.settings.pretrain import read_settings, read_sources

from ..cli.test_pretrain import TINY, UNMEASURED

_GOOD = Agreement(0.4, 0.98, [])


def _probe(kind="cpu", first=True):
    strategy = SimpleNamespace(root_device=torch.device(kind))
    return SimpleNamespace(strategy=strategy, is_global_zero=first)


def _chosen(tmp_path, *overrides, probe=None, asked="auto"):
    settings, config, sources = read_sources(
        ["method=byol", "data=cifar10", f"trainer.precision={asked}", *overrides]
    )
    method = BYOL(4, 10, backbone="resnet18")
    made = with_precision(settings, config, sources, probe or _probe(), tmp_path, method)
    assert method.channels_last == made[0].channels_last
    return made


@pytest.fixture
def quick(monkeypatch):
    """A processor that is quick at bfloat16, and how a network is found to do there."""

    def finds(agreement, quick=(True, "the processor has AMX")):
        monkeypatch.setattr(precision, "compare_precisions", lambda *_: agreement)
        monkeypatch.setattr(precision, "quick_half", lambda device: quick)

    return finds


def test_half_precision_is_chosen_with_its_layout_and_written_down(quick, tmp_path):
    quick(_GOOD)
    settings, config, sources, said = _chosen(tmp_path)
    assert (settings.trainer["precision"], settings.channels_last) == ("bf16-mixed", True)
    assert config["trainer"]["precision"] == "bf16-mixed" and config["channels_last"] is True
    assert config == dataclasses.asdict(settings)
    assert "AMX" in sources["trainer.precision"] and "auto" in sources["channels_last"]
    assert "0.40 of its time in float32" in said and "cosine of 0.980" in said


def test_a_layout_that_was_said_is_kept(quick, tmp_path):
    quick(_GOOD)
    settings, *_ = _chosen(tmp_path, "channels_last=false")
    assert (settings.trainer["precision"], settings.channels_last) == ("bf16-mixed", False)


@pytest.mark.parametrize(
    ("agreement", "reason"),
    [
        (Agreement(0.4, float("nan"), []), "cosine of nan only"),
        (Agreement(0.4, 0.5, []), "cosine of 0.50 only"),
        (Agreement(1.3, 0.98, []), "takes 1.30 of its time"),
        (Agreement(0.4, 0.98, ["layer4.0.conv1", "b"]), "layer4.0.conv1 and 1 more come out wrong"),
    ],
)
def test_float32_stays_where_half_precision_is_wrong_or_slow(quick, tmp_path, agreement, reason):
    quick(agreement)
    settings, _, _, said = _chosen(tmp_path)
    assert (settings.trainer["precision"], settings.channels_last) == ("32-true", False)
    assert reason in said


def test_float32_stays_on_other_processors_and_among_processes(quick, tmp_path, monkeypatch):
    quick(_GOOD, (False, "the processor has neither"))
    assert _chosen(tmp_path)[0].trainer["precision"] == "32-true"
    quick(_GOOD)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _chosen(tmp_path)[0].trainer["precision"] == "32-true"
    settings, *_ = _chosen(tmp_path, probe=_probe("cuda"))
    assert (settings.trainer["precision"], settings.channels_last) == ("bf16-mixed", False)
    assert quick_half(torch.device("mps"))[0] is False


def test_what_is_not_auto_stays_and_is_warned_of(quick, tmp_path, monkeypatch):
    quick(_GOOD)
    monkeypatch.setattr(precision, "faulty_in_half", lambda *_: ["layer4.0.conv1"])
    settings, *_, said = _chosen(tmp_path, asked="bf16-mixed")
    assert settings.trainer["precision"] == "bf16-mixed"
    assert "layer4.0.conv1 come out wrong" in said and "32-true" in said
    settings, *_, said = _chosen(tmp_path, asked="32-true")
    assert settings.trainer["precision"] == "32-true" and "auto" in said


def test_a_run_goes_on_as_it_was_decided(quick, tmp_path, monkeypatch, capsys):
    quick(_GOOD)
    folder = tmp_path / "run"
    own = ["pretrain", "method=simclr", *TINY, *UNMEASURED, "epochs=1", "lens.probe_size=0"]
    own += ["trainer.limit_train_batches=1", "trainer.precision=auto", f"run_dir={folder}"]
    assert main(own) == 0
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["trainer"]["precision"] == "bf16-mixed" and stored["channels_last"] is True
    assert "Precision: bf16-mixed, channels-last (auto: " in (folder / "header.txt").read_text()
    quick(Agreement(2.0, 0.0, ["all"]))  # on another machine
    again = ["resume=true", f"run_dir={folder}", "trainer.precision=auto"]
    settings, _ = read_settings([*again, "epochs=2"])
    assert (settings.trainer["precision"], settings.channels_last) == ("bf16-mixed", True)
    with pytest.raises(ConfigError, match="channels_last"):
        read_settings([*again, "channels_last=false"])
    with pytest.raises(ConfigError, match=r"trainer\.precision=32-true differs from bf16-mixed"):
        read_settings(["resume=true", f"run_dir={folder}", "trainer.precision=32-true"])
    # a process that the first one has started takes what is written there
    settings, *_ = _chosen(folder, probe=_probe(first=False))
    assert (settings.trainer["precision"], settings.channels_last) == ("bf16-mixed", True)


def test_other_commands_and_studies_refuse_it(tmp_path, capsys):
    assert main(["finetune", "checkpoint=random:resnet18", "trainer.precision=auto"]) == 2
    assert "Only erssl pretrain chooses by itself" in capsys.readouterr().err
    study = ["study", "mveb_beta", "scale=tiny", "dry_run=true", "trainer.precision=auto"]
    assert main([*study, f"output={tmp_path}/s", f"store={tmp_path}/r"]) == 2
    assert "trainer.precision=auto" in capsys.readouterr().err
