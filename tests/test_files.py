import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from erssl.files import PARTIAL, remove_remains, replacing, write_rows, write_text

ROOT = Path(__file__).resolve().parent.parent


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("keep_suffix", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_breaks_off_leaves_the_file_before(tmp_path, error, keep_suffix):
    file = tmp_path / "weights.pt"
    file.write_text("before")
    with pytest.raises(error), replacing(file, keep_suffix=keep_suffix) as partial:
        assert partial.suffix == (".pt" if keep_suffix else PARTIAL)
        partial.write_text("half")
        raise error
    assert file.read_text() == "before"
    assert names(tmp_path) == ["weights.pt"]


def test_a_fault_of_the_place_names_the_file_and_others_stay_as_they_are(tmp_path):
    file = tmp_path / "table.csv"
    with pytest.raises(OSError) as full, replacing(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(file)
    with pytest.raises(ConnectionResetError) as lost, replacing(file):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert lost.value.filename is None
    assert names(tmp_path) == []


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path):
    file = tmp_path / "results.json"
    contents = [f"{number}" * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_text(file, content), contents))
    assert file.read_text() in contents
    assert names(tmp_path) == ["results.json"]


def test_a_folder_replaces_its_own_files_and_leaves_others(tmp_path):
    folder = tmp_path / "model"
    for _ in range(2):  # made, then replaced
        with replacing(folder, keep_suffix=True) as partial:
            partial.mkdir()
            (partial / "config.json").write_text("{}")
        (folder / "notes.txt").write_text("mine")
    assert names(folder) == ["config.json", "notes.txt"]
    assert names(tmp_path) == ["model"]


def test_remains_of_killed_writers_go_and_those_of_other_files_stay(tmp_path):
    file = tmp_path / "run [1].ckpt"
    for name in (f"{file.name}.1{PARTIAL}", f"run 1.ckpt.1{PARTIAL}"):
        (tmp_path / name).touch()
    remove_remains(file)
    assert names(tmp_path) == [f"run 1.ckpt.1{PARTIAL}"]


def test_rows_are_read_back_by_any_reader(tmp_path):
    write_rows(tmp_path / "a.csv", [["name", "value"], ["a, b", 1.5]])
    assert (tmp_path / "a.csv").read_bytes() == b'name,value\n"a, b",1.5\n'


def test_nothing_else_writes_under_a_temporary_name():
    for folder in ("erssl", "downstream"):
        for module in (ROOT / folder).rglob("*.py"):
            own = module == ROOT / "erssl" / "files.py"
            assert own or '.partial"' not in module.read_text(), module
