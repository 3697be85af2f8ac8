"""Every command that README, the pages of docs/ and a command's help show is one that is taken."""

import re
import shlex
from pathlib import Path

import pytest

from erssl.settings.commands import commands
from erssl.settings.names import check_names

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"```(?:bash|console)\n(.*?)```", re.DOTALL)
_EXAMPLES = re.compile(r"^# Examples:\n((?:#  .*\n)+)", re.MULTILINE)


def typed(text):
    """The arguments of each ``erssl`` in shell commands; what follows a pipe is not ours."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\||;|\bdone\b", line):
            arguments = shlex.split(part, comments=True)
            places = [i for i, each in enumerate(arguments) if each.rpartition("/")[2] == "erssl"]
            if places and places[0] + 1 < len(arguments):
                yield arguments[places[0] + 1 :]


def examples(file):
    """Of a command's help; what stands behind two spaces says what the example does."""
    (text,) = _EXAMPLES.findall(file.read_text(encoding="utf-8")) or ("",)
    lines = [line.removeprefix("#   ") for line in text.splitlines()]
    return "\n".join(re.split(r"(?<=\S) {2,}(?=\S)", line)[0] for line in lines)


PAGES = {
    page.relative_to(ROOT).as_posix(): "\n".join(_BLOCK.findall(page.read_text(encoding="utf-8")))
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
} | {file.name: examples(file) for file in sorted((ROOT / "configs").glob("*.yaml"))}
SHOWN = [(page, arguments) for page, text in PAGES.items() for arguments in typed(text)]


@pytest.mark.parametrize(
    ("page", "shown"), SHOWN, ids=[f"{page}-{' '.join(shown)[:60]}" for page, shown in SHOWN]
)
def test_a_command_that_is_shown_is_taken(page, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()  # the reader's own images
    command, *arguments = shown
    if {"--help", "--version"} & set(shown):
        return
    assert command in commands(), page
    check_names(command, [each for each in arguments if each != "…"])


def test_commands_are_shown():
    assert len(SHOWN) > 80
    commands_shown = {command for _, (command, *_) in SHOWN}
    assert {command for command in commands() if command != "zoo"} <= commands_shown
