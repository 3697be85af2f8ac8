"""Benchmarks run rarely: what they import is there, and what they train by composes."""

import ast
import importlib
from pathlib import Path

from erssl.settings.pretrain import read_settings

ROOT = Path(__file__).parents[1]


def test_every_name_that_a_benchmark_imports_of_erssl_is_there():
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert files
    missing = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("erssl")
            for alias in node.names if ours else ():
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ImportError:
                        missing.append(f"{file.name}: {node.module}.{alias.name}")
    assert missing == []


def test_benchmarks_whose_runs_are_stored_train_by_what_those_had(tmp_path):
    """Defaults have changed since: recipes name the earlier ones."""
    from benchmarks import cifar_curves, er_figure, same_learning

    runs = {**er_figure.RUNS, **cifar_curves.RUNS}
    had = {
        "mveb": {"score_rows": None, "shrink_to": "zero"},
        "simclr": {"loss_scale": 1.0, "output_norm": False},
        "simclr_er": {"output_norm": False},
        "entrec": {"output_norm": False},
        "byol": {"loss_scale": 1.0},
        "dino": {"head_norm": True},
        "dino_er": {"head_norm": True, "local_view_weight": 1.0},
    }
    composed = set()
    for name, overrides in {**runs, "same learning": same_learning.SETTING}.items():
        (chosen,) = (o.removeprefix("method=") for o in overrides if o.startswith("method="))
        kind = (chosen, frozenset(override.partition("=")[0] for override in overrides))
        if kind in composed:
            continue
        composed.add(kind)
        given = [*er_figure.COMMON, *overrides, f"data.train_dir={tmp_path}"]
        method, expected = read_settings(given)[0].method, had.get(chosen, {})
        assert {key: method[key] for key in expected} == expected, name
    assert had.keys() <= {chosen for chosen, _ in composed}
