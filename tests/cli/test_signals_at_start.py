"""A signal that comes while a command imports what it needs."""

import os
import signal
import subprocess
import sys

import pytest

from erssl.settings.commands import commands

# Sends the signal when a module is looked for.
CODE = """
import os, signal, sys
number, name, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]

class Finder:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == name:
            os.kill(os.getpid(), number)

from erssl.cli.main import main
sys.meta_path.insert(0, Finder())
sys.exit(main(arguments))
"""


def run_until(number, module, *arguments):
    line = [sys.executable, "-c", CODE, str(int(number)), module, *arguments]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.mark.parametrize("command", commands())
def test_a_signal_before_torch_is_there_ends_a_command_in_a_sentence(command):
    ended = run_until(signal.SIGTERM, "torch", command)
    assert (ended.returncode, ended.stderr) == (143, "erssl: Stopped by SIGTERM.\n")
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("module", "number", "said"),
    [
        ("erssl.run.warning_lines", signal.SIGTERM, "SIGTERM"),
        ("erssl.run.warning_lines", signal.SIGUSR1, "SIGUSR1"),
        ("yaml", signal.SIGINT, "Ctrl-C"),
        ("torchvision", signal.SIGINT, "Ctrl-C"),
    ],
)
def test_a_signal_is_heard_from_the_first_import_on(module, number, said):
    ended = run_until(number, module, "knn")
    assert (ended.returncode, ended.stderr) == (128 + number, f"erssl: Stopped by {said}.\n")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["methods"], ["pretrain", "--help"]]
)
def test_a_pipe_that_nobody_reads_ends_a_command_as_a_signal_does(arguments):
    """``erssl methods | head -1``: 128 + SIGPIPE and no traceback; a study takes it for a stop."""
    command = [sys.executable, "-m", "erssl.cli.main", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        variables = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that output waits for a flush
        ended = subprocess.run(
            command, stdout=nobody, stderr=subprocess.PIPE, env=variables, check=False
        )
    assert ended.stderr == b""
    assert ended.returncode == 128 + signal.SIGPIPE
