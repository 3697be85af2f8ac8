"""The table of timm's families in docs/checkpoints.md is that of the recorded sweep."""

import json
import re
from pathlib import Path

from benchmarks.timm_sweep import FILE, table

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def test_the_table_is_that_of_the_results():
    report = json.loads(FILE.read_text(encoding="utf-8"))
    section = PAGE.read_text(encoding="utf-8").partition("## timm's families")[2]
    section = section.partition("\n## ")[0]
    assert f"timm {report['timm']}'s families" in section
    told = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert told == table(report["rows"])
    families = re.findall(r"^\| (\w+) \| `", told, re.MULTILINE)
    assert sorted(families) == sorted(report["smallest"])
