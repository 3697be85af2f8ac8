"""The commands: a file ``<command>.yaml`` of ``erssl.configs`` each.

The first line of such a file is ``# erssl <command>: what it does``. Nothing else lists them: the
engine of a command is ``run`` in ``erssl/protocols/<command>.py``.
"""

from __future__ import annotations

import re
from importlib.resources import files

_FIRST_LINE = re.compile(r"# erssl ([a-z]+): (.+)")
_EVALUATES = "  - evaluate\n"  # in the file's ``defaults``


def commands() -> dict[str, str]:
    """What each command does, by its name: ``pretrain``, then the others in alphabetical order."""
    does: dict[str, str] = {}
    for file in files("erssl.configs").iterdir():
        if file.name.endswith(".yaml"):
            with file.open(encoding="utf-8") as lines:
                if first := _FIRST_LINE.match(lines.readline()):
                    does[first[1]] = first[2]
    return {name: does[name] for name in sorted(does, key=lambda n: (n != "pretrain", n))}


def evaluations() -> list[str]:
    """Names of the commands that evaluate a backbone: their files build on ``evaluate.yaml``."""
    folder = files("erssl.configs")
    texts = {name: (folder / f"{name}.yaml").read_text(encoding="utf-8") for name in commands()}
    return [name for name, text in texts.items() if _EVALUATES in text]
