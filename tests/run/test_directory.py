import subprocess
from pathlib import Path

import pytest

from erssl.run.directory import environment, read_lens, write_lens

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the tests do not lie in a checkout")
def test_the_environment_names_the_commit_of_the_checkout():
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert environment()["git_commit"] == commit


def test_readings_of_the_lens_come_back_as_they_were_written(tmp_path):
    readings = [{"step": 1.0, "entropy": -0.1}, {"step": 2.0, "alignment": 1 / 3}]
    write_lens(tmp_path / "lens.csv", readings)
    assert read_lens(tmp_path / "lens.csv") == readings
