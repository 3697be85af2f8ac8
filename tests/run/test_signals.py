"""What a signal does before a training, in it, and after its last step."""

import os
import signal

import pytest

from erssl.errors import Stopped
from erssl.run.signals import SIGNALS, SignalWatch


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_in_a_training_and_is_not_forgotten_at_its_end(number, tmp_path):
    before = signal.getsignal(number)
    watch = SignalWatch(tmp_path)
    with watch.installed(), pytest.raises(Stopped, match="before the first checkpoint") as stopped:
        watch.training_begins()
        os.kill(os.getpid(), number)  # after the last step has looked
        assert watch.heard_here
        watch.training_ends()
    assert stopped.value.signal == number
    assert signal.getsignal(number) == before


def test_a_training_without_signals_ends_as_usual(tmp_path):
    watch = SignalWatch(tmp_path)
    with watch.installed():
        watch.training_begins()
        watch.training_ends()
        with pytest.raises(Stopped) as stopped:  # and the next one ends the run at once
            os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.signal == signal.SIGTERM


def test_the_second_signal_does_not_wait(tmp_path):
    watch = SignalWatch(tmp_path)
    with watch.installed(), pytest.raises(Stopped):
        watch.training_begins()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second signal was waited for")
