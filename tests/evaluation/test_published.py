"""Published numbers: what is there, that it is consistent, and that sources are kept apart."""

import json

import pytest

from erssl.evaluation.published import _groups, published, published_value
from erssl.run.report import published_lines

SETS = (
    "aircraft",
    "caltech101",
    "cars",
    "cifar10",
    "cifar100",
    "dtd",
    "flowers",
    "food",
    "pets",
    "sun397",
    "voc2007",
)
PROTOCOLS = {
    "linear",
    "linear_online",
    "knn",
    "semi",
    "finetune",
    "transfer_linear",
    "transfer_finetune",
    "coco_detection",
    "voc_detection",
    "cost",
}


def rows(protocol, dataset, **setting):
    (group,) = published(protocol, dataset, **setting)
    return group["rows"]


def test_every_group_says_where_it_is_from_and_under_what_setting():
    assert {group["protocol"] for group in _groups()} == PROTOCOLS
    for group in _groups():
        assert set(group) - {"note"} == {"protocol", "dataset", "setting", "source", "unit", "rows"}
        assert group["source"] and group["setting"] and group["rows"]
        assert group["unit"] == ("hours" if group["protocol"] == "cost" else "percent")
        for values in group["rows"].values():
            for metric, value in values.items():
                assert isinstance(value, (int, float))
                change = metric.startswith(("change_", "drop_"))
                assert change or group["unit"] == "hours" or 10 < value < 100
            if {"top1", "top5"} <= set(values):
                assert values["top1"] < values["top5"]


@pytest.mark.parametrize("protocol", ["transfer_linear", "transfer_finetune"])
def test_printed_averages_are_those_of_the_printed_values(protocol):
    # Values and average were rounded to 0.1 apart from each other, so 0.05 + 0.05 may lie between.
    average = rows(protocol, "average")
    for method, printed in average.items():
        values = [next(iter(rows(protocol, dataset)[method].values())) for dataset in SETS]
        assert sum(values) / len(SETS) == pytest.approx(printed["mean"], abs=0.1)


def test_metrics_of_the_transfer_sets():
    assert rows("transfer_linear", "dtd")["MVEB"] == {"top1": 76.5}
    assert rows("transfer_linear", "pets")["BYOL"] == {"mean_per_class": 89.1}
    assert rows("transfer_finetune", "voc2007")["SimCLR"] == {"map11": 82.6}


def test_settings_choose_groups():
    groups = published("semi", "imagenet", fraction=0.01)
    assert {"label", "source", "setting", "unit", "rows"} == set(groups[0])
    assert groups[0]["label"] == "published"
    assert groups[0]["rows"]["VICReg"] == {"top1": 54.8, "top5": 79.4}
    assert all(group["setting"]["fraction"] == 0.01 for group in groups)
    assert len(published("semi", "imagenet")) == 2 * len(groups)
    assert rows("linear", "imagenet", epochs=100, batch=1024)["SimCLR"] == {"top1": 62.8}
    assert rows("knn", "cifar10", batch=512, epochs=800)["BYOL"] == {"top1": 91.0}
    assert published("semi", "imagenet", fraction=0.5) is None
    assert published("knn", "digits") is None


def test_lightly_and_solo_learn_are_never_in_one_answer():
    for group in _groups():
        assert not ("lightly" in group["source"] and "solo-learn" in group["source"])
    (online,) = published("linear_online", "cifar10")
    assert "solo-learn" in online["source"] and online["setting"]["stem_padding"] == 2
    for group in published("knn", "cifar10"):
        assert "lightly" in group["source"] and group["setting"]["stem_padding"] == 1
    assert published("linear_online", "cifar100")[0]["rows"]["SwAV"] == {"top1": 64.88}


def test_an_answer_is_json_and_the_callers_own():
    first = published("coco_detection", "coco")
    assert json.loads(json.dumps(first)) == first
    first[0]["rows"].clear()
    assert published("coco_detection", "coco")[0]["rows"]["MVEB"]["box_ap"] == 42.2


def test_a_column_of_values_has_one_source():
    assert published_value("coco_detection", "coco", "MVEB", "box_ap") == 42.2
    assert published_value("coco_detection", "coco", "PIRL", "box_ap") is None  # another source's
    assert published_value("transfer_linear", "average", "BYOL", "mean") == 77.1
    assert published_value("knn", "digits", "BYOL", "top1") is None


def test_groups_are_printed_with_their_setting_and_without_gaps():
    groups = published("linear", "imagenet", epochs=400)[:1]
    (line,) = published_lines({"label": "published", "groups": groups})
    assert line.startswith(
        "Published (top1 / drop_batch512 / drop_ema0.8, per cent; backbone resnet50, epochs 400, "
        "batch 4096; ER (arXiv 2307.10907), Table 2): DINO 75.59 / 6.76 / 8.25, "
    )
    assert "SimCLR 70.23 / 2.17 / -," in line and line.endswith("EMA coefficient of 0.8.")
    assert published_lines(None) == []
