"""Runs of a comparison end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from erssl.run.children import silent_children
from erssl.run.launch import run_one

# A child in the place of the command line: it says who it is, and which signal ended it.
CHILD = """
import os, pathlib, sys, time
from erssl.errors import Stopped
from erssl.run.children import end_with_parent
from erssl.run.signals import ended_by_signals
folder = pathlib.Path(sys.argv[1])
try:
    with ended_by_signals():
        end_with_parent()
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(180)
except Stopped as end:
    (folder / "ended").write_text(str(int(end.signal)))
"""
PARENT = """
import subprocess, sys
from erssl.run import children
from erssl.run.signals import ended_by_signals
start = subprocess.Popen
def child(command, **keywords):
    return start([sys.executable, "-c", sys.argv[1], sys.argv[2]], **keywords)
subprocess.Popen = child
with ended_by_signals(), children.Children().ended_together() as running:
    running.run([])
"""


def wait_for(file, seconds=60):
    until = time.monotonic() + seconds
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < until, f"{file} did not appear"
        time.sleep(0.02)
    return int(file.read_text())


@pytest.mark.parametrize(
    ("number", "heard"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGKILL, signal.SIGTERM),
    ],
)
def test_a_run_ends_with_the_process_that_started_it(number, heard, tmp_path):
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    child = wait_for(tmp_path / "pid")
    assert os.getsid(child) != os.getsid(parent.pid)  # a terminal's Ctrl-C reaches the parent alone
    parent.send_signal(number)
    parent.wait(60)
    assert wait_for(tmp_path / "ended") == heard


def test_silent_processes_print_nothing_and_are_heard(capfd):
    with silent_children(True):
        ended = run_one(["no_such_command"])
    assert ended.status == 2 and "There is no command 'no_such_command'" in ended.sentence
    assert capfd.readouterr() == ("", "")
