"""Names of overrides: those that nothing reads are refused before torch is there."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from erssl.data import available_datasets
from erssl.errors import ConfigError
from erssl.settings import embed, evaluation, names, predict, pretrain, transfer
from erssl.settings.compose import FREE, group_options, schema_from
from erssl.settings.detection import DetectSettings
from erssl.settings.names import check_names
from erssl.settings.segmentation import SegmentSettings
from erssl.settings.study import StudySettings

MISSPELT = {
    "pretrain epohcs=3": "did you mean epochs?",
    "pretrain method=mvbe": "did you mean mveb?",
    "pretrain method.bta=1": "did you mean method.beta?",
    "pretrain method=simclr method.temprature=1": "did you mean method.temperature?",
    "pretrain method=simclr method.beta=1": "The key method.beta is unknown",
    "pretrain data=imagefodler": "did you mean imagefolder?",
    "pretrain data=imagefolder data.trian_dir=x": "did you mean data.train_dir?",
    "pretrain data.views.n_local_view=2": "did you mean data.views.n_local_views?",
    "pretrain experiment=mveb_imagenet_2vew": "did you mean mveb_imagenet_2view?",
    "pretrain backbone=resnet18_cfar": "did you mean resnet18_cifar?",
    "pretrain backbone.cfar_stem=true": "did you mean backbone.cifar_stem?",
    "pretrain optimizer=srgd": "did you mean sgd?",
    "pretrain optimizer.bse_lr=1": "did you mean optimizer.base_lr?",
    "pretrain trainer.devcies=1": "did you mean trainer.devices?",
    "pretrain lens.prob_size=2": "did you mean lens.probe_size?",
    "pretrain evaluation.lnear=true": "did you mean evaluation.linear?",
    "pretrain +seed=1": "'+seed=1' is not understood",
    "pretrain ~data": "'~data' is not understood",
    "pretrain data@other=digits": "The key data@other is unknown",
    "pretrain method=mveb,simcrl --multirun": "did you mean simclr?",
    "pretrain method=mveb,simclr simclr.temprature=1 -m": "did you mean method.temperature?",
    "knn chekpoint=x data=digits": "did you mean checkpoint?",
    "knn checkpoint=x data=digts": "did you mean digits?",
    "knn checkpoint=x data.rot=y": "did you mean data.root?",
    "linear checkpoint=x preset=lightl": "did you mean lightly?",
    "semi checkpoint=x fractoin=1": "did you mean fraction?",
    "finetune checkpoint=x trainer.prcision=16": "did you mean trainer.precision?",
    "transfer checkpoint=x data_rot=y": "did you mean data_root?",
    "detect checkpoint=x recpe=y": "did you mean recipe?",
    "lens checkpoint=x data=digits lens.prob_size=1": "did you mean lens.probe_size?",
    "lens checkpoint=x method=simclr": "The key method is unknown",
    "embed checkpoint=x ouput=y": "did you mean output?",
    "predict checkpoint=x tpo=1": "did you mean top?",
    "export checkpoint=x fromat=onnx": "did you mean format?",
    "report runs ouput=x": "did you mean output?",
    "study mveb_beta scle=tiny": "did you mean scale?",
    "study mveb_beta epohcs=1": "did you mean epochs?",
    "methods mvbe": "did you mean mveb?",
}
_CODE = """
import contextlib, io, json, sys
from erssl.cli.main import main
answers = {}
for line in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(line.split())
    answers[line] = status, said.getvalue(), "torch" in sys.modules
print(json.dumps(answers))
"""


def test_what_is_misspelt_is_refused_before_torch_is_imported():
    command = [sys.executable, "-c", _CODE, json.dumps(list(MISSPELT))]
    answers = json.loads(subprocess.check_output(command, text=True))
    for line, hint in MISSPELT.items():
        status, sentence, with_torch = answers[line]
        assert (status, with_torch) == (2, False), line
        assert hint in sentence and sentence.count("\n") == 1, line


def flat(schema, where=""):
    for key, value in schema.items():
        if isinstance(value, dict):
            yield from flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}.x=1" if value is FREE else f"{where}{key}=1"


@pytest.mark.parametrize("method", group_options("method"))
def test_nothing_that_a_pretraining_reads_is_refused(method):
    config = {"method": {"name": method}, "data": {"name": "imagefolder"}}
    keys = set(flat(pretrain._schema(config)))
    for name in available_datasets():
        keys |= set(flat(pretrain._schema(config | {"data": {"name": name}})))
    check_names("pretrain", [f"method={method}", *keys])
    check_names("pretrain", [f"method={method},byol", "-m", *keys, f"{method}.name=1"])
    check_names("study", ["mveb_beta", *keys])


@pytest.mark.parametrize(
    ("command", "schema"),
    {
        "knn": evaluation.KnnSettings.schema(),
        "linear": evaluation.LinearSettings.schema(),
        "semi": evaluation.SemiSettings.schema(),
        "finetune": evaluation.FinetuneSettings.schema(),
        "embed": schema_from(embed.EmbedSettings),
        "predict": schema_from(predict.PredictSettings),
        "transfer": schema_from(transfer.TransferSettings),
        "detect": schema_from(DetectSettings),
        "segment": schema_from(SegmentSettings),
        "study": schema_from(StudySettings),
    }.items(),
)
def test_nothing_that_another_command_reads_is_refused(command, schema):
    keys = [key for key in flat(schema) if key != "preset=1"]
    if command not in ("transfer", "detect", "segment"):
        keys += ["data=imagefolder", "data.train_dir=x", "data.views.recipe=dino"]
    check_names(command, keys)


def test_places_folders_and_flags_are_none_of_its_business(tmp_path):
    check_names("report", [str(tmp_path), "output=x"])
    check_names("lens", [str(tmp_path), "output=x"])
    check_names("embed", ["checkpoint=x", f"data={tmp_path}"])
    check_names("transfer", ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "jobs=2"])
    check_names("zoo", ["get", "anything"])
    check_names("pretrain", ["backbone=timm", "backbone.options={depth: 1}", "lens={kappas: [1]}"])


def test_the_line_of_the_docs_about_probes_is_read():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("## Several sets of images while training")
    command = rest.partition("```bash")[2].partition("```")[0]
    erssl, name, *overrides = shlex.split(command.replace("\\\n", " "))
    assert (erssl, name) == ("erssl", "pretrain")
    check_names(name, overrides)
    settings, _ = pretrain.read_settings(overrides)
    assert settings.evaluation.probes == {"flowers": "/data/flowers", "cifar": "cifar10:/data"}


@pytest.mark.parametrize("command", ["pretrain", "study mveb_beta"])
def test_names_below_free_groups_are_the_users_own(command):
    name, *places = command.split()
    check_names(
        name, [*places, "evaluation.probes.any_name=x", "logger_options.wandb.offline=true"]
    )
    check_names(name, [*places, "backbone.options.depth=1", "evaluation.probes={a: b}"])


def test_what_another_package_may_have_brought_is_left_to_it(monkeypatch):
    theirs = ["method=theirs", "method.strength=1", "data=tiles", "data.tile=3"]
    with pytest.raises(ConfigError, match="method=theirs is unknown"):
        check_names("pretrain", theirs)
    monkeypatch.setattr(names, "announces", lambda group: group == "data")
    check_names("pretrain", theirs)
