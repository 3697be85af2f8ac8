"""``erssl transfer`` on stand-ins of two data sets in their original layouts."""

import csv
import json

import pytest
import torch
from PIL import Image
from rich.console import Console

import erssl
from erssl.cli.main import main
from erssl.downstream.transfer.datasets import load_transfer
from erssl.downstream.transfer.results import Row, published_rows
from erssl.downstream.transfer.suite_metrics import transfer_metrics
from erssl.downstream.transfer.table import TRANSFER_DATASETS
from erssl.downstream.transfer.transforms import TransferPreprocessing
from erssl.errors import ConfigError
from erssl.models import BackboneOptions, build_backbone, save_backbone
from erssl.protocols import transfer as command
from erssl.protocols import transfer_shares as _shares
from erssl.settings.transfer import read_transfer

OPTIONS = BackboneOptions("test_resnet", "timm")
SMALL = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}


@pytest.fixture
def overrides(aircraft, flowers, tmp_path, monkeypatch):
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    save_backbone(build_backbone(OPTIONS), tmp_path / "backbone.safetensors", OPTIONS, SMALL)
    return [
        f"checkpoint={tmp_path / 'backbone.safetensors'}",
        f"data_root={tmp_path}",
        "datasets=[aircraft,flowers]",
        "partial_ok=true",
        "num_workers=0",
        f"run_dir={tmp_path / 'suite'}",
    ]


def results(path, name, seed=0):
    return json.loads((path / "suite" / f"seed{seed}" / name / "results.json").read_text())


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"tolerance": 1e-3},
        {"max_iter": 10},
        {"features_precision": "bf16"},
        {"mode": "finetune"},
        {"mode": "finetune", "steps": 10},
    ],
    ids=str,
)
def test_published_rows_stand_beside_their_own_protocol_alone(other, overrides):
    said = [f"{key}={value}" for key, value in other.items()]
    settings = read_transfer([*overrides, *said])
    assert settings.as_published == (other in ({}, {"mode": "finetune"}))


def test_linear_writes_results_splits_and_one_table(overrides, tmp_path, capsys, monkeypatch):
    assert main(["transfer", *overrides, "datasets=[flowers]"]) == 0
    assert "(published)" not in capsys.readouterr().out  # which are of 224 pixels
    monkeypatch.setattr(TransferPreprocessing, "image_size", SMALL["image_size"])
    assert main(["transfer", *overrides, "overwrite=true"]) == 0
    result = results(tmp_path, "aircraft")
    assert {k: result["config"]["preprocessing"][k] for k in ("image_size", "mean")} == {
        k: SMALL[k] for k in ("image_size", "mean")
    }
    assert (result["protocol"], result["dataset"]) == ("transfer_linear", "aircraft")
    assert result["published"] is None  # of the whole data set, which this is not
    assert len(result["config"]["path"]) == 45
    assert result["config"]["counts"] == {"train": 12, "val": 8, "test": 8}
    assert not result["config"]["complete"]
    rows = list(csv.DictReader((tmp_path / "suite" / "transfer.csv").open()))
    assert rows[0]["published"] == "False" and rows[0]["average"] == ""
    assert float(rows[0]["aircraft"]) == pytest.approx(100 * result["metrics"]["mean_per_class"])
    mveb = next(row for row in rows if row["name"] == "MVEB")
    assert (mveb["aircraft"], mveb["flowers"], mveb["published"]) == ("55.8", "95.7", "True")
    assert "| MVEB (published) | 55.8 | 95.7 | 79.6 |" in capsys.readouterr().out
    assert "a part of the data set" in (tmp_path / "suite" / "transfer.md").read_text()
    assert Image.open(tmp_path / "suite" / "transfer.png").width > 600


def test_a_module_of_a_python_program_is_transferred_as_a_network_by_name(overrides, tmp_path):
    torch.manual_seed(0)
    module = build_backbone(OPTIONS)
    file = tmp_path / "object.safetensors"
    save_backbone(module, file, BackboneOptions("object", "object"), SMALL)
    said = {"data_root": tmp_path, "datasets": ["flowers"], "partial_ok": True, "num_workers": 0}
    own = erssl.transfer(file, backbone=module, run_dir=tmp_path / "own", quiet=True, **said)
    named = tmp_path / "backbone.safetensors"
    assert own.metrics == erssl.transfer(named, run_dir=tmp_path / "b", quiet=True, **said).metrics
    with pytest.raises(ConfigError, match="module that a Python program gave; give it again"):
        erssl.transfer(file, run_dir=tmp_path / "c", quiet=True, **said)


def test_penalties_that_do_not_converge_are_named_once(overrides, tmp_path, capsys, recwarn):
    assert main(["transfer", *overrides, "datasets=[aircraft]", "max_iter=3"]) == 0
    result = results(tmp_path, "aircraft")
    left = [point["lam"] for point in result["config"]["path"] if not point["converged"]]
    [note] = [note for note in result["config"]["notes"] if note.startswith("Not converged")]
    assert left and note.count(",") + 1 == len(left)
    assert "ConvergenceWarning" not in capsys.readouterr().err
    assert not [w for w in recwarn if "has not converged" in str(w.message)]


def test_seeds_give_mean_and_deviation(overrides, tmp_path):
    assert main(["transfer", *overrides, "seeds=2", "datasets=[flowers]"]) == 0
    values = [100 * results(tmp_path, "flowers", s)["metrics"]["mean_per_class"] for s in (0, 1)]
    table = json.loads((tmp_path / "suite" / "transfer.json").read_text())
    ours = table["rows"][0]
    assert ours["values"]["flowers"] == pytest.approx(sum(values) / 2)
    expected = torch.tensor(values, dtype=torch.float64).std().item()
    assert ours["std"]["flowers"] == pytest.approx(expected)


def test_a_killed_suite_goes_on_with_the_data_sets_that_are_left(overrides, tmp_path, monkeypatch):
    original = command.load_transfer
    evaluate = command._evaluate
    loaded = []

    def load(name, *args):
        loaded.append(name)
        return original(name, *args)

    def dies_at_flowers(settings, read, data, *args):
        if data.name == "flowers":
            raise KeyboardInterrupt
        return evaluate(settings, read, data, *args)

    with monkeypatch.context() as patch:
        patch.setattr(command, "_evaluate", dies_at_flowers)
        with pytest.raises(KeyboardInterrupt):
            command.run(overrides, Console())
    monkeypatch.setattr(command, "load_transfer", load)
    first = results(tmp_path, "aircraft")
    assert main(["transfer", *overrides, "resume=true"]) == 0
    assert set(loaded) == {"flowers"}  # what is finished is not even opened
    assert results(tmp_path, "aircraft") == first


def test_a_suite_goes_on_with_what_it_lacked(overrides, tmp_path, monkeypatch):
    """Loader processes, downloads and where the weights lie are no part of what is computed."""
    assert main(["transfer", *overrides, "datasets=[aircraft]"]) == 0
    left_out = ("num_workers", "checkpoint")
    again = [override for override in overrides if not override.startswith(left_out)]
    moved = (tmp_path / "backbone.safetensors").rename(tmp_path / "moved.safetensors")
    more = ["datasets=[aircraft]", "resume=true", "num_workers=1", "download=true"]
    more += [f"checkpoint={moved}"]
    assert main(["transfer", *again, *more]) == 0


def test_overwrite_leaves_no_table_of_before(overrides, tmp_path):
    assert main(["transfer", *overrides, "datasets=[aircraft]"]) == 0
    tables = [tmp_path / "suite" / f"transfer.{kind}" for kind in ("md", "csv", "json", "png")]
    assert all(table.is_file() for table in tables)
    (tmp_path / "fgvc-aircraft-2013b").rename(tmp_path / "elsewhere")
    assert main(["transfer", *overrides, "datasets=[aircraft]", "overwrite=true"]) == 2
    assert not any(table.exists() for table in tables)


def test_a_suite_that_would_change_is_not_resumed(overrides, tmp_path, capsys):
    assert main(["transfer", *overrides, "datasets=[aircraft]"]) == 0
    assert main(["transfer", *overrides, "datasets=[aircraft]", "resume=true", "max_iter=7"]) == 2
    assert "max_iter=7 differs from 5000" in capsys.readouterr().err
    torch.manual_seed(1)
    save_backbone(build_backbone(OPTIONS), tmp_path / "backbone.safetensors", OPTIONS, SMALL)
    assert main(["transfer", *overrides, "datasets=[aircraft]", "resume=true"]) == 2
    assert "weights=" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": {}}', "[" * 100_000])
def test_a_result_that_no_suite_wrote_is_one_sentence(overrides, tmp_path, content, capsys):
    assert main(["transfer", *overrides, "datasets=[aircraft]"]) == 0
    (tmp_path / "suite" / "seed0" / "aircraft" / "results.json").write_text(content)
    assert main(["transfer", *overrides, "datasets=[aircraft]", "resume=true"]) == 2
    error = capsys.readouterr().err
    assert "is not what the suite writes" in error and error.count("\n") == 1


def test_finetune_chooses_on_val_and_tests_once(overrides, tmp_path):
    own = ["mode=finetune", "steps=3", "batch_size=4", "datasets=[aircraft]"]
    grid = ["learning_rates=[0.01,0.001]", "weight_decays=[0.0]"]
    assert main(["transfer", *overrides, *own, *grid]) == 0
    result = results(tmp_path, "aircraft")
    grid = result["config"]["grid"]
    assert [p["learning_rate"] for p in grid] == [0.01, 0.001]
    assert result["config"]["chosen"] == max(grid, key=lambda p: (p["metric"], -p["learning_rate"]))
    assert set(result["metrics"]) >= {"top1", "mean_per_class"}
    assert result["protocol"] == "transfer_finetune"


GRID = [
    "mode=finetune",
    "steps=3",
    "batch_size=4",
    "learning_rates=[0.01,0.001]",
    "weight_decays=[0.0]",
]


def facts(path, name):
    """What a data set came to, without what differs by place and time."""
    result = results(path, name)
    return result["metrics"], result["config"].get("grid"), result["config"]["splits"]


@pytest.mark.slow
def test_side_by_side_is_the_same_as_one_after_another(overrides, tmp_path, capfd):
    own = [*overrides[:-1], *GRID, "datasets=[aircraft]"]
    assert main(["transfer", *own, f"run_dir={tmp_path / 'suite'}"]) == 0
    (tmp_path / "other").mkdir()
    there = f"run_dir={tmp_path / 'other' / 'suite'}"
    assert main(["transfer", *own, there, "--multirun", "jobs=2"]) == 0
    assert facts(tmp_path / "other", "aircraft") == facts(tmp_path, "aircraft")
    tables = [p / "suite" / "transfer.csv" for p in (tmp_path, tmp_path / "other")]
    assert tables[0].read_text() == tables[1].read_text()
    assert capfd.readouterr().out.count("\nResults: ") == 2  # by the command alone


def test_only_points_that_are_missing_are_shared_out(overrides, tmp_path, monkeypatch):
    """A point that was finished by hand, as on another machine, is not trained again."""
    own = [*overrides, *GRID, "datasets=[flowers]"]
    assert main(["transfer", *own, "points=[1]"]) == 0
    folder = tmp_path / "suite" / "seed0" / "flowers"
    assert {p.name for p in folder.glob("*.json")} == {"point01.json", "flowers-splits.json"}
    before = (folder / "point01.json").stat().st_mtime_ns
    launched = []

    def here(commands, *_):
        launched.extend(commands)
        assert [main(list(overrides)) for overrides in commands] == [0] * len(commands)

    monkeypatch.setattr(_shares, "launch", here)
    shared = ["datasets=flowers", "resume=true", "-m"]
    assert main(["transfer", *own[:-1], *shared]) == 0
    assert ["points=[0]" in overrides for overrides in launched] == [True, False]
    assert not any("points=[1]" in overrides for overrides in launched)
    assert (folder / "point01.json").stat().st_mtime_ns == before
    assert (tmp_path / "suite" / "transfer.md").is_file()


def test_a_share_that_fails_is_named_and_the_others_are_kept(
    overrides, tmp_path, monkeypatch, capsys
):
    def first_only(commands, *_):
        main(list(commands[0]))

    monkeypatch.setattr(_shares, "launch", first_only)
    assert main(["transfer", *overrides, "--multirun"]) == 2
    error = capsys.readouterr().err
    assert "1 of 2 shares of the suite failed" in error and "seed0/flowers/results.json" in error
    assert results(tmp_path, "aircraft")["metrics"]


@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_an_image_that_cannot_be_read_is_named_and_nothing_is_trained(
    overrides, tmp_path, mode, capsys
):
    """The last one: a test image, which fine-tuning would come to after all its trainings."""
    broken = sorted((tmp_path / "flowers-102" / "jpg").iterdir())[-1]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    grid = GRID if mode == "finetune" else []
    assert main(["transfer", *overrides, *grid, f"mode={mode}", "datasets=[flowers]"]) == 2
    error = capsys.readouterr().err
    assert broken.name in error and error.count("\n") == 1
    folder = tmp_path / "suite" / "seed0" / "flowers"
    assert not list(folder.glob("point*")) and not (folder / "results.json").exists()
    broken.write_bytes(whole)
    again = "resume=true" if mode == "linear" else "overwrite=false"  # nothing was begun
    assert main(["transfer", *overrides, *grid, f"mode={mode}", "datasets=[flowers]", again]) == 0


def test_linear_metrics_are_those_of_scikit_learns_classifier(overrides, tmp_path):
    """Its own features, its own fit at the penalty that was chosen."""
    from sklearn.linear_model import LogisticRegression

    from erssl import load_backbone
    from erssl.downstream.transfer.transforms import build_linear_transform, preprocessing_of

    assert main(["transfer", *overrides, "datasets=[aircraft]"]) == 0
    result = results(tmp_path, "aircraft")
    backbone = load_backbone(tmp_path / "backbone.safetensors")
    transform = build_linear_transform(preprocessing_of(backbone.preprocessing))
    data = load_transfer("aircraft", tmp_path, partial_ok=True)

    def features(images):
        batch = torch.stack([transform(image) for image, _ in images])
        with torch.no_grad():
            return backbone(batch).double().numpy(), [label for _, label in images]

    penalty = result["config"]["penalty"]
    reference = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=20000)
    reference.fit(*features(data.train_val))
    test, labels = features(data.test)
    scores = torch.full((len(labels), 100), -1e9, dtype=torch.float64)
    scores[:, reference.classes_] = torch.from_numpy(reference.decision_function(test))
    expected = transfer_metrics("mean_per_class", scores, torch.tensor(labels))
    assert result["metrics"]["mean_per_class"] == pytest.approx(
        expected["mean_per_class"], abs=0.126
    )


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (["datasets=[dtdd]"], "did you mean dtd?"),
        (["datasets=[]"], "names none"),
        (["datasets=[all,dtdd]"], "did you mean dtd?"),
        (["seed=4294967295", "seeds=2"], "at most 2**32"),
        (["mode=probe"], "must be linear or finetune"),
        (["data_root=null"], "needs data_root="),
        (["data_root=/nowhere"], "/nowhere"),
        (["checkpoint=pixels"], "no weights to transfer"),
        (["resume=true", "run_dir=null"], "resume=true needs run_dir="),
        (["stepps=3"], "did you mean steps?"),
        (["plots=true"], "leave plots out"),
        (["mode=finetune", "learning_rates=[0.0]"], "numbers above 0"),
        (["steps=3"], "steps does nothing with mode=linear"),
        (["mode=finetune", "max_iter=3"], "max_iter does nothing with mode=finetune"),
        (["mode=finetune", "cache=false"], "cache does nothing with mode=finetune"),
        (["partial_ok=false"], "partial_ok=true"),
        (["points=[0]"], "of the grid of mode=finetune"),
        (["mode=finetune", "points=[20]"], "from 0 to 19"),
        (["jobs=2"], "add --multirun"),
        (["hydra/launcher=joblib"], "add --multirun"),
        (["jobs=0", "--multirun"], "at least 1"),
        (["table=false", "--multirun"], "leave out points= and table="),
        (["jobs=2", "hydra/launcher=basic", "--multirun"], "leave out jobs="),
    ],
)
def test_wrong_overrides_are_one_sentence(overrides, own, sentence, capsys):
    assert main(["transfer", *overrides, *own]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("mode", "average"), [("linear", 79.6), ("finetune", 85.3)])
def test_published_rows_are_the_papers(mode, average):
    rows = {row.name: row for row in published_rows(mode)}
    assert len(rows) == 7
    assert all(set(row.values) == set(TRANSFER_DATASETS) for row in rows.values())
    assert rows["MVEB"].average == average


def test_published_averages_are_the_printed_ones():
    """Two of them are not the mean of the printed values, rounded."""
    linear, fine = ({r.name: r.average for r in published_rows(m)} for m in ("linear", "finetune"))
    assert (linear["Supervised"], fine["MoCo v2"]) == (73.8, 77.7)


def test_no_average_is_given_of_less_than_all_or_of_parts():
    values = dict.fromkeys(TRANSFER_DATASETS, 50.0)
    assert Row("a", values, {}, published=False).average == 50.0
    assert Row("a", values, {}, published=False, incomplete=["dtd"]).average is None
    assert Row("a", {"dtd": 50.0}, {}, published=False).average is None
