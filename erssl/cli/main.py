"""``erssl``: finds the sub-command, and turns our errors into one sentence and status 2."""

from __future__ import annotations

import gc
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import erssl
from erssl.cli.help_texts import help_text
from erssl.errors import ErsslError, Stopped, own_sentence, printable, was_interrupted
from erssl.settings.commands import commands

COMMANDS = commands()
_HELP = """erssl {version}: information-theoretic self-supervised learning beside lightly

Usage: erssl COMMAND [key=value ...]

Commands:
{commands}

erssl COMMAND --help shows settings and examples.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Returns:
        0, 2 where the input was wrong, or 128 and the number of the signal that ended it, such as
        130 of Ctrl-C.
    """
    from erssl.run.streams import discard_output, nobody_reads, spelling_out

    try:
        with spelling_out():  # which writes out what is buffered at its end
            return _main(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:
        if not nobody_reads():
            raise
        discard_output()
        return 128 + signal.SIGPIPE


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
        print(_HELP.format(version=erssl.__version__, commands=listed), end="")
        return 0
    if arguments[0] == "--version":
        print(f"erssl {erssl.__version__}")
        return 0
    try:
        return _hearing_signals(arguments)
    except Stopped as again:  # by a second signal, while the first was told of
        return 128 + again.signal


def _hearing_signals(arguments: list[str]) -> int:
    from erssl.run.signals import ended_by_signals

    with ended_by_signals() as ending:  # before anything else is imported
        try:
            from erssl.run.children import end_with_parent
            from erssl.run.warning_lines import clean_warnings

            with clean_warnings():
                end_with_parent()
                return _status(arguments)
        except Stopped as stopped:
            if stopped.sentence:
                _say(stopped.sentence)
            return 128 + stopped.signal
        except Exception:  # what a library has made of a signal, such as an import that failed
            if ending.number is None:
                raise
            _say(ending.sentence)
            return 128 + ending.number


def _status(arguments: list[str]) -> int:
    """Run a command and give its exit status; say what ended it."""
    try:
        return _run(arguments[0], arguments[1:])
    except ErsslError as error:
        _say(own_sentence(error))
        return 2
    except (KeyboardInterrupt, SystemExit) as end:
        if not was_interrupted(end):
            raise
        _say(_sentence_of(end))
        return 130
    except OSError as error:
        from erssl.files import FAULTS_OF_PLACES

        if error.errno not in FAULTS_OF_PLACES:
            raise
        place = error.filename2 or error.filename  # of a file that is moved, where it was to go
        where = f" {place}" if place else ""
        _say(f"{error.strerror}:{where}; make room or name another place.")
        return 2


def _say(sentence: str) -> None:
    print(f"erssl: {printable(sentence)}", file=sys.stderr)


def _sentence_of(end: BaseException) -> str:
    told = isinstance(end, KeyboardInterrupt) and str(end)
    return told or "Stopped by Ctrl-C."


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        import difflib

        from erssl.errors import ConfigError

        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"There is no command {command!r}{hint}; choose from: {', '.join(COMMANDS)}."
        )
    if {"-h", "--help"} & set(arguments):
        print(help_text(command), end="")
        return 0
    started = "torch" in sys.modules
    if not started:  # else the settings themselves are read as quickly
        from erssl.settings.names import check_names
        from erssl.settings.waiting import let_threads_sleep

        check_names(command, arguments)
        let_threads_sleep(command, arguments)
    from erssl.run.console import Terminal

    with nullcontext() if started else _all_that_is_made_stays():
        engine = importlib.import_module(f"erssl.protocols.{command}")
    from erssl.run.faults import naming_faults

    with naming_faults():
        engine.run(arguments, Terminal())
    return 0


@contextmanager
def _all_that_is_made_stays() -> Iterator[None]:
    """Collect no garbage while torch and what is built on it are imported.

    Each collection goes through all objects of the libraries, which stay; it takes more than a
    fourth of the imports. Frozen, they cost later collections nothing either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
