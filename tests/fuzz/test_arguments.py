"""Arguments of the command line, for every command."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from erssl.cli.main import COMMANDS
from erssl.settings.detection import DetectSettings
from erssl.settings.embed import EmbedSettings
from erssl.settings.evaluation import FinetuneSettings, KnnSettings, LinearSettings, SemiSettings
from erssl.settings.keys import command_keys
from erssl.settings.pretrain import _schema
from erssl.settings.transfer import TransferSettings

from . import samples
from .commands import run_command
from .harness import Surface, check
from .strategies import names

_SETTINGS = {
    "knn": KnnSettings,
    "linear": LinearSettings,
    "semi": SemiSettings,
    "finetune": FinetuneSettings,
    "transfer": TransferSettings,
    "detect": DetectSettings,
    "embed": EmbedSettings,
}
# With these a command gets as far as it can.
_SOUND = {
    "pretrain": ["method=simclr", "data=digits", "backbone=resnet10_small", "run_dir=out"],
    **{c: ["checkpoint=run", "run_dir=out"] for c in ("knn", "linear", "semi", "finetune")},
    "transfer": ["checkpoint=run", "data_root=data", "datasets=[dtd]", "run_dir=out"],
    "detect": [
        "checkpoint=random:resnet18", "data_root=data", "backend=torchvision", "run_dir=out",
    ],
    "lens": ["checkpoint=run"],
    "embed": ["checkpoint=run", "output=out"],
    "export": ["checkpoint=run", "format=safetensors", "output=out.safetensors"],
    "report": ["run"],
    "zoo": ["mocov2_800ep"],
    "methods": ["mveb"],
}  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(
        [
            "0", "1", "-1", "2", "1.5", "nan", "inf", "-inf", "1e999", "9" * 400, "1_0", "0x10",
            "true", "false", "null", "no", "None", "", " ", "''", "'", '"', "[]", "{}", "[", "{",
            "[1,2]", "[null]", "[a,[b]]", "{a:1}", "{a:{b:2}}", "[[[1]]]", "1,2", "a,b", "1,",
            "${seed}",
                "${oc.env:HOME}",
                "${x}",
                "${",
                "${method}",
                "$(touch ran)",
                "`touch ran`",
            "range(1,3)", "choice(1,2)", "glob(*)", "sort(2,1)", "str(1)", "int(x)", "..", "a=b",
            "run",
                "run/config.yaml",
                "run/checkpoints/last.ckpt",
                "zoo:mocov2_800ep",
                "zoo:",
                "~",
            "random:", "random:resnet18_cifar", "random:run", "pixels", "digits", "cifar10",
            "imagefolder", "simclr", "mveb", "byol", "resnet18_cifar", "timm", "sgd", "lars",
            "cpu", "cuda", "gpu", "auto", "[0]", "-5", "4096", "16-mixed", "ddp", "[[1]", "a: b",
            "[" * 3000, "\u2028", "\x1b[31m", "x" * 5000, "%00", "\\", "a\\", "#", "@", "*",
        ]
    ),
    st.integers(-5, 5000).map(str),
    st.floats().map(str),
    names.filter(lambda name: "\0" not in name),
)  # fmt: skip


@cache
def _keys(command: str) -> list[str]:
    """Keys that the command takes, and some that it does not."""
    if command in _SETTINGS:
        keys = _flat(_schema_of(command))
        keys += ["data", "data.root", "data.image_size", "preset", "trainer.devices"]
    elif command in ("pretrain", "lens"):
        keys = _flat(_schema({"method": {"name": "mveb"}, "data": {"name": "imagefolder"}}))
        keys += ["method", "data", "backbone", "optimizer", "trainer", "experiment"]
    else:
        keys = ["name"]
    keys += command_keys(command)
    return [
        *keys,
        "sed",
        "data.",
        ".",
        "hydra.run.dir",
        "hydra/launcher",
        "backbone.options.width",
    ]


def _schema_of(command: str) -> dict[str, Any]:
    from erssl.settings.compose import schema_from

    return schema_from(_SETTINGS[command])


def _flat(schema: dict[str, Any], where: str = "") -> list[str]:
    keys = []
    for key, value in schema.items():
        keys += _flat(value, f"{where}{key}.") if isinstance(value, dict) else [f"{where}{key}"]
    return keys


def _command_lines(command: str) -> st.SearchStrategy[tuple[str, list[str]]]:
    pair = st.tuples(st.sampled_from(_keys(command)), _VALUES).map("=".join)
    flag = st.sampled_from(
        ["--multirun", "-m", "--help", "-x", "+a=1", "~data", "++seed=1", "=", "a"]
    )
    argument = st.one_of(
        pair, pair, pair, pair, flag, names.filter(lambda name: "\0" not in name and name)
    )
    arguments = st.lists(argument, max_size=4)
    sound = _SOUND.get(command, ["checkpoint=run"])
    return st.tuples(st.sampled_from([True, True, True, False]), arguments).map(
        lambda p: (command, [*sound, *p[1]] if p[0] else p[1])
    )


def _act(case: tuple[str, list[str]], folder: Path) -> str | None:
    command, arguments = case
    if any("run" in argument for argument in arguments):
        samples.write_run(folder / "run")
    if command == "zoo" and not arguments:
        arguments = ["mocov2_800ep"]
    try:
        return run_command([command, *arguments])
    finally:
        assert not (folder / "ran").exists(), "an argument was run"


SURFACE = Surface(
    "arguments of the command line",
    st.one_of([_command_lines(command) for command in COMMANDS]),
    _act,
    share=6,
    prepare=samples.run_files,
    connects=True,
    blocked=True,
)


def test_any_arguments_are_taken_or_refused() -> None:
    check(SURFACE, 25)
