"""The package as others get it: the wheel, the lazy import, lightly's own benchmark contract."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from twine.commands.check import check

import erssl
from erssl.cli.main import COMMANDS
from erssl.methods import METHODS, available_methods

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the sdist and of the wheel, which is built from the sdist."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(target), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


def test_wheel_holds_every_module_and_config(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "erssl").rglob("*.py")}
    modules |= {
        f"erssl/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "downstream").rglob("*.py")
    }
    configs = {
        f"erssl/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*.yaml")
    }
    tables = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("erssl/[!c]*/**/*.yaml")}
    assert modules | configs | tables | {"erssl/py.typed"} <= inside
    licences = {name.rpartition("/")[2] for name in inside if "/licenses/" in name}
    assert licences == {"LICENSE"}
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/"))]


def test_sdist_holds_what_a_release_needs(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "downstream").rglob("*.py")}
    sources |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.yaml")}
    pages = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert sources | pages <= inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/"))]


def test_an_index_would_take_the_release(built):
    files = [str(file) for file in built.iterdir()]
    assert len(files) == 2
    assert check(files, strict=True) is False  # whether something is wrong


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == erssl.__version__ == version("erssl")


def test_python_in_a_checkout_finds_its_configs_though_erssl_is_installed_elsewhere():
    code = (
        "import erssl.downstream.transfer, importlib.resources as r;"
        "print(r.files('erssl.configs') / 'pretrain.yaml', erssl.downstream.transfer.__file__)"
    )
    # -S: without this environment's packages, an editable erssl among them
    command = [sys.executable, "-S", "-c", code]
    here = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / "configs" / "pretrain.yaml", ROOT / "downstream" / "transfer" / "__init__.py"]
    assert here.stdout.split() == [str(file) for file in files]


def test_built_wheel_runs_from_another_folder(wheel, tmp_path):
    # Only the wheel is installed; what it depends on is borrowed from this environment, without
    # this environment's own (editable) erssl, whose .pth file a plain path entry does not run.
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(environment)}, scheme="venv")
    borrowed = sysconfig.get_path("purelib")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    (Path(site) / "borrowed.pth").write_text(borrowed + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def call(*arguments):
        return subprocess.run(
            arguments, cwd=elsewhere, env=variables, capture_output=True, text=True, check=True
        ).stdout

    code = "from erssl.downstream.transfer import datasets as m; print(m.__file__)"
    assert str(environment) in call(str(python), "-c", code)
    call(
        str(environment / "bin" / "erssl"),
        "pretrain",
        "method=mveb",
        "epochs=1",
        "backbone=timm",
        "backbone.name=test_resnet",
        "trainer.limit_train_batches=2",
        "method.projection_dim=8",
        "evaluation.linear=false",
        "evaluation.untrained=false",
        "data.num_workers=0",
        "run_dir=run",
        "evaluation.every_n_epochs=0",
    )
    assert (elsewhere / "run" / "results.json").is_file()


def test_import_is_lazy():
    code = (
        "import sys, erssl; print([m for m in ('torch', 'lightly', 'hydra') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert answer.stdout.strip() == "[]"
    import erssl

    assert erssl.loss.MVEBLoss is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = erssl.nothing


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_does_not_wait_for_torch(command):
    arguments = [command, "--help"] if command else ["--help"]
    code = f"import sys; from erssl.cli.main import main; status = main({arguments}); "
    code += "sys.exit(status or any(m in sys.modules for m in ('torch', 'sklearn', 'matplotlib')))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert f"erssl {command or 'COMMAND'}" in answer.stdout


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "erssl", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0 and erssl.__version__ in answer.stdout, answer.stderr


def test_garbage_is_collected_again_once_a_command_runs():
    code = "import gc, sys; from erssl.cli.main import main; status = main(['knn', 'k=x']); "
    code += "sys.exit(status - 2 or 'torch' not in sys.modules or not gc.isenabled() "
    code += "or gc.get_freeze_count() < 100_000)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_imports_run_one_way():
    """Entropy <- loss <- methods <- protocols; evaluation and downstream know no methods.

    Calls and cli import protocols by their names alone.
    """
    ground = {
        "announced",
        "errors",
        "escaping",
        "files",
        "former_names",
        "layers",
        "limits",
        "paths",
        "recipes",
        "yaml_text",
    }
    measured = {"evaluation", "entropy", "models", "data"}
    below = {
        "entropy": set(),
        "loss": {"entropy"},
        "run": set(),
        "models": {"data"},
        "data": set(),
        "evaluation": {"entropy", "models", "data"},
        "callbacks": {"loss", "run"} | measured,
        "methods": {"entropy", "loss", "models", "data"},
        "downstream": {"run"} | measured,
        "settings": {"run", "methods", "downstream"} | measured,
        "studies": {"run", "settings", "data", "evaluation"},
        "protocols": {"settings", "run", "studies", "methods", "downstream", "callbacks"}
        | measured,
        "calls": {"settings", "run", "methods", "models", "data"},
        "commands": {"calls", "settings", "run", "methods", "data"},
        "cli": {"settings", "run"},
    }
    for package, allowed in below.items():
        folder = ROOT / package if package == "downstream" else ROOT / "erssl" / package
        files = list(folder.rglob("*.py")) or list(folder.parent.glob(f"{folder.name}.py"))
        assert files, f"{folder} has no modules"
        for file in files:
            for line in file.read_text().splitlines():
                statement = line.split()
                is_import = len(statement) > 1 and statement[0] in ("from", "import")
                if is_import and "erssl" in statement[1]:
                    parts = statement[1].split(".")
                    reached = parts[1] if len(parts) > 1 else package
                    assert reached in {package} | allowed | ground, f"{file}: {line}"


def test_what_can_stand_in_a_list_or_dictionary_is_not_unpacked_into_it():
    """Neither ``[*("a", "b")]`` nor ``{**{"a": 1}}``."""
    folders = (ROOT / name for name in ("erssl", "downstream", "tests", "benchmarks"))
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        text = file.read_text()
        if not re.search(r"[\[({,]\s*\*\*?[\[({]", text):  # what is parsed takes time
            continue
        for node in ast.walk(ast.parse(text)):
            unpacked = []
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                unpacked = [value for key, value in pairs if key is None]
            elif isinstance(node, ast.Starred):
                unpacked = [node.value]
            literal = [
                each for each in unpacked if isinstance(each, ast.Dict | ast.List | ast.Tuple)
            ]
            assert not literal, f"{file}:{node.lineno}"


def test_modules_with_an_underscore_are_imported_by_their_own_package_alone():
    private = re.compile(r"^\s*from (erssl[\w.]*)\._\w+ import", re.MULTILINE)
    for folder in ("erssl", "downstream"):
        for file in (ROOT / folder).rglob("*.py"):
            package = "erssl" if folder == "erssl" else "erssl.downstream"
            own = ".".join([package, *file.relative_to(ROOT / folder).parent.parts])
            others = {package for package in private.findall(file.read_text()) if package != own}
            # the losses are thin modules over the entropies, whose kernels are nobody else's
            assert not others - ({"erssl.entropy"} if own == "erssl.loss" else set()), file


def test_precision_is_set_by_the_helpers_alone():
    for folder in ("methods", "loss", "callbacks"):
        for file in (ROOT / "erssl" / folder).glob("*.py"):
            assert "enabled=False" not in file.read_text(), f"{file}: use outside_autocast"


def test_every_method_has_a_config_and_the_docs_name_no_other():
    page = (ROOT / "docs" / "methods.md").read_text()
    for name in available_methods():
        assert (ROOT / "configs" / "method" / f"{name}.yaml").is_file()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert len(rows) > 20 and set(rows) <= set(available_methods())
    recipes = {p.stem for p in (ROOT / "configs" / "experiment").glob("*.yaml")}
    assert set(re.findall(r"experiment=(\w+)", page)) <= recipes


def test_the_docs_say_of_a_method_what_the_command_says():
    page = (ROOT / "docs/methods.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    cells = {row.split("|")[1].strip(" `"): row for row in reversed(rows)}  # the first table's
    for name in set(available_methods()) & set(cells):
        info = METHODS[name]["model"].info
        row = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cells[name]).replace("`", "")
        assert f"| {info.entropy} | {info.reconstruction} |" in row, name


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"test_command=\$\((.*)\)\n", script).group(1)
    command = subprocess.run(
        ["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert command.strip().endswith("-m pytest -q -n 2")
    assert command.count("\n") == 1
