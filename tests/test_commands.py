"""The commands as Python functions: the numbers of the command line, a process left as it was."""

import importlib
import inspect
import json
import logging
import os
import pkgutil
import threading
import warnings

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import erssl
from erssl.cli.main import main
from erssl.commands import training
from erssl.data import build_eval_transform
from erssl.errors import ConfigError, DataError
from erssl.methods import METHODS
from erssl.methods.simclr import SimCLR
from erssl.settings.arguments import overrides_of

from .cli.test_pretrain import TINY, UNMEASURED

_PAIRS = [override.partition("=")[::2] for override in (*TINY, *UNMEASURED, "epochs=1")]
QUICK = {key: value for key, value in _PAIRS if not key.startswith("backbone")}
BACKBONE = {"backbone": "timm", "backbone.name": "test_resnet"}


class Digits(Dataset):
    """A user's own data set, which erssl knows nothing of."""

    def __init__(self, start, stop, labelled=True):
        scans = load_digits()
        self.scans, self.numbers = scans.images[start:stop], scans.target[start:stop]
        self.labelled = labelled

    def __len__(self):
        return len(self.scans)

    def __getitem__(self, index):
        image = Image.fromarray((self.scans[index] * 15).astype(np.uint8))
        return (image, int(self.numbers[index])) if self.labelled else image


class Own(nn.Module):
    """A user's own network."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, images):
        return self.layers(images).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "run"
    return erssl.pretrain("simclr", run_dir=folder, quiet=True, **BACKBONE, **QUICK)


def test_a_function_is_its_command(run, tmp_path):
    overrides = [f"{key}={value}" for key, value in {**BACKBONE, **QUICK}.items()]
    assert main(["pretrain", "method=simclr", *overrides, f"run_dir={tmp_path / 'run'}"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert run.metrics == results["metrics"] == run.results["metrics"]
    theirs = {p.name for p in (tmp_path / "run").iterdir() if "tfevents" not in p.name}
    assert theirs == {p.name for p in run.path.iterdir() if "tfevents" not in p.name}
    assert run.path / "curves.png" in run.figures
    typed = run.results["environment"]["command"]  # not that of the program which called it
    assert typed.startswith("erssl pretrain method=simclr ") and f"run_dir={run.path}" in typed


def test_a_process_is_left_as_it_was(run, tmp_path):
    """Another program's hydra, warnings, logging, environment, threads and random numbers."""
    in_one_step = {**QUICK, "trainer.limit_train_batches": 1, "lens.probe_size": 0}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lightning = logging.getLogger("pytorch_lightning")
    with initialize_config_module("erssl.configs", version_base="1.3"):
        before = os.getcwd(), dict(os.environ), list(warnings.filters), lightning.level
        threads = torch.get_num_threads(), set(threading.enumerate())
        erssl.knn(run.path, run_dir=tmp_path / "knn", quiet=True, **{"data.num_workers": 0})
        erssl.pretrain("simclr", run_dir=tmp_path / "run", quiet=True, **BACKBONE, **in_one_step)
        assert (os.getcwd(), dict(os.environ), list(warnings.filters), lightning.level) == before
        assert (torch.get_num_threads(), set(threading.enumerate())) == threads
        assert GlobalHydra.instance().is_initialized()
        assert compose("knn").k == 200
    assert torch.equal(torch.rand(3), expected)


def test_from_a_thread(run, tmp_path):
    results = []

    def evaluate():
        results.append(erssl.knn(run.path, quiet=True, k=5, run_dir=tmp_path / "knn"))

    thread = threading.Thread(target=evaluate)
    thread.start()
    thread.join()
    assert results[0].metrics["top1"] > 0.2


def test_objects_in_place_of_names(tmp_path, capsys):
    """A data set, a network and a method of the user's own, trained and read back."""

    class Halved(SimCLR):
        """SimCLR with another default."""

    data, network = (Digits(0, 600), Digits(600, 900)), Own()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own = {"data.image_size": 16, "data.views.recipe": "digits", "optimizer.warmup_epochs": 0}
    shared = {"feature_dim": 8, "quiet": True}
    result = erssl.pretrain(
        Halved, data, backbone=network, run_dir=tmp_path / "run", **shared, **QUICK, **own
    )
    assert "Halved" not in METHODS and result.results["method"] == "Halved"
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    read = erssl.load_backbone(result.path, arch=network)  # of the width that the run keeps
    assert read.feature_dim == 8
    assert erssl.load_backbone(result.path, arch=network, feature_dim=8).feature_dim == 8
    weights = tmp_path / "weights.safetensors"
    erssl.export(result.path, "safetensors", weights, backbone=network, quiet=True)
    assert torch.equal(load_file(weights)["layers.0.weight"], read.layers[0].weight)
    assert not torch.equal(read.layers[0].weight, network.layers[0].weight)
    plain = build_eval_transform(**read.preprocessing)
    assert torch.equal(read.transform()(data[0][0][0]), plain(data[0][0][0].convert("RGB")))
    again = {"data": data, "backbone": network, "quiet": True}
    knn = erssl.knn(result.path, run_dir=tmp_path / "knn", k=5, **again)
    features = [read(_prepared(part, read.preprocessing)).detach() for part in data]
    z, q = (nn.functional.normalize(f, dim=1) for f in features)
    similarity, place = (q @ z.T).topk(5)
    votes = torch.zeros(300, 10).scatter_add(
        1, torch.as_tensor(data[0].numbers)[place], (similarity / 0.1).exp()
    )
    expected = (votes.argmax(1) == torch.as_tensor(data[1].numbers)).double().mean()
    assert knn.metrics["top1"] == pytest.approx(float(expected), abs=1.5 / 300)  # ties of the votes
    lens = erssl.lens(result.path, method=Halved, **again)
    assert "kde_entropy_10" in lens.metrics or len(lens.metrics) > 3
    with pytest.raises(DataError, match="data=object is a data set that a Python program gave"):
        erssl.knn(result.path, backbone=network, quiet=True)
    with pytest.raises(ConfigError, match="backbone=object is a module that a Python program"):
        erssl.load_backbone(result.path)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def _prepared(data, preprocessing):

    names = ("image_size", "mean", "std", "interpolation")
    transform = build_eval_transform(*(preprocessing[name] for name in names))
    return torch.stack([transform(image.convert("RGB")) for image, _ in data])


def test_images_without_labels(tmp_path):
    own = {"data.image_size": 16, "data.views.recipe": "digits", "optimizer.warmup_epochs": 0}
    images = Digits(0, 200, labelled=False)
    result = erssl.pretrain(
        "simclr", images, run_dir=tmp_path / "run", quiet=True, **BACKBONE, **QUICK, **own
    )
    assert "knn_top1" not in result.metrics and result.metrics["train_loss"] > 0


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "has 0 data sets"),
        (iter([1]), "has no length"),
        (Digits(0, 0), "is empty"),
        ([(np.zeros((3, 8, 8), np.float32), 0)] * 4, "float32 of shape"),
        (torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8)), "float32 of shape"),
    ],
)
def test_what_is_no_data_set_of_images(data, sentence, tmp_path):
    data = data if sentence != "float32 of shape" or not isinstance(data, list) else _Listed(data)
    with pytest.raises(DataError, match=sentence):
        erssl.pretrain("simclr", data, run_dir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


class _Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"data": DataLoader(Digits(0, 9))}, r"data is a DataLoader.*give its dataset: loader\."),
        ({"data": [torch.zeros(3, 8, 8)]}, "data is a list of arrays or tensors"),
        ({"backbone": Own}, r"backbone=Own is no module; give one that is built"),
        ({"method": nn.Identity()}, "method is a Identity that is built; give the class"),
        ({"method": "mveb,simclr"}, "names several; give one, or a list of them to erssl.compare"),
    ],
)
def test_objects_of_a_wrong_kind_are_named(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        erssl.pretrain(**{"method": "simclr", **given}, quiet=True)


def test_a_list_of_one_is_its_value_and_no_message_names_a_flag(monkeypatch):
    taken = []
    monkeypatch.setattr(training, "execute", lambda *arguments: taken.append(arguments))
    erssl.compare("digits", method=["simclr", "mveb"], seed=[0])
    assert taken[0][1] == ["data=digits", "method=choice(simclr,mveb)", "seed=0"]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"erssl\.compare needs .* seed=\[0, 1, 2\]"):
        erssl.compare("digits", seed=[0], quiet=True)
    with pytest.raises(ConfigError, match="seed is an empty list"):
        erssl.compare("digits", seed=[])


def test_a_module_needs_the_width_of_its_features(tmp_path):
    with pytest.raises(ConfigError, match="give feature_dim=<the width"):
        erssl.pretrain("simclr", backbone=Own(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="feature_dim is that of a module"):
        erssl.pretrain("simclr", backbone="resnet18", feature_dim=3, run_dir=tmp_path / "run")


def test_an_experiment_brings_its_method_and_a_run_its_own(run, monkeypatch, tmp_path):
    given = []

    def noted(command, arguments, quiet):
        given.append(arguments)

    monkeypatch.setattr("erssl.calls.execute", noted)
    erssl.pretrain(experiment="byol_imagenet")
    erssl.pretrain(run_dir=run.path, resume=True)
    assert given == [["experiment=byol_imagenet"], [f"run_dir={run.path}", "resume=true"]]


def test_a_misspelt_key_is_an_exception_and_no_exit(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.base_lr"):
        erssl.pretrain(run_dir=tmp_path / "run", **{"optimizer.bose_lr": 0.1})


def test_export_and_report(run, tmp_path):
    file = erssl.export(run.path, "safetensors", tmp_path / "a.safetensors", quiet=True)
    assert file.path.is_file() and file.metrics["largest_difference"] == 0
    report = erssl.report(run.path, output=tmp_path / "report", quiet=True)
    assert (report.path / "report.md").is_file() and len(report.results["rows"]) == 1


def test_arguments_become_overrides():
    given = {"a": True, "b": None, "c": [1, 2.5, "x y", "it's"], "d": {"e": "f"}, "g": 1e-5}
    assert overrides_of(given) == [
        "a=true",
        "b=null",
        "c=[1,2.5,'x y','it\\'s']",
        "d.e=f",
        "g=1e-05",
    ]
    texts = ["1", "null", "é", "it's", "a\\b c", "x\\'y", "end\\"]
    (override,) = overrides_of({"k": [np.float64(0.5), np.int64(2), np.bool_(True), *texts]})
    parsed = OverridesParser.create().parse_override(override).value()
    assert parsed == [0.5, 2, True, *texts]
    with pytest.raises(ConfigError, match="h is a object"):
        overrides_of({"h": object()})


def test_functions_stay_callable_after_every_module_is_imported():
    for module in pkgutil.walk_packages(erssl.__path__, "erssl."):
        if not module.name.rpartition(".")[2].startswith("detectron2") and "c4" not in module.name:
            importlib.import_module(module.name)
    packages = [erssl, *(getattr(erssl, name) for name in erssl._SUBPACKAGES)]
    for package in packages:
        public = [getattr(package, name) for name in getattr(package, "__all__", ())]
        assert not [value for value in public if inspect.ismodule(value)], package.__name__
    assert all(callable(getattr(erssl, name)) for name in erssl.__all__ if name != "__version__")
    assert set(erssl.__all__) - {"__version__", "load_backbone"} == set(erssl.commands.__all__)


def test_public_names_of_earlier_builds_work_with_a_warning():
    with pytest.warns(FutureWarning, match="is called erssl.data.ImageDataset now"):
        former = erssl.data.PictureDataset
    assert former is erssl.data.ImageDataset
    with pytest.warns(FutureWarning, match="is called erssl.run.signals.SignalWatch now"):
        assert erssl.callbacks.SignalWatch is erssl.run.signals.SignalWatch
    with pytest.raises(AttributeError, match="has no attribute 'PictureDatasets'"):
        erssl.data.PictureDatasets  # noqa: B018
