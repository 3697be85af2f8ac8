"""The notebooks run, and show what they give."""

import pytest

from .notebooks import NOTEBOOKS, execute, outputs, read

LARGEST = 250_000  # bytes of a notebook with its outputs


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_gives(path, tmp_path):
    kept = outputs(read(path))
    assert any(kept), f"{path} shows nothing; python -m tests.docs.notebooks writes its outputs"
    assert path.stat().st_size < LARGEST
    assert outputs(execute(path, tmp_path)) == kept
