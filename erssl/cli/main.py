"""``erssl``: finds the sub-command, and turns our errors into one sentence and status 2."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import erssl
from erssl.errors import ErsslError, Stopped, own_sentence, printable, was_interrupted

COMMANDS = {
    "pretrain": "train a backbone without labels and say how good it is",
    "knn": "evaluate a backbone by its nearest neighbours",
    "linear": "evaluate it by a linear classifier on frozen features",
    "semi": "evaluate it by training on a part of the labels",
    "finetune": "evaluate it by training on all labels",
    "transfer": "evaluate it on eleven other data sets, linear or fine-tuned",
    "detect": "evaluate it by detection on COCO, with Detectron2 or torchvision",
    "lens": "read entropy and reconstruction of a checkpoint, or draw those of several runs",
    "embed": "write the features of any images to an array, a table or Parquet",
    "predict": "write the classes of any images, by a classifier that was trained",
    "export": "write a backbone as torchvision, timm, Hugging Face or Detectron2 reads it",
    "study": "re-make a paper's table or answer a question by a grid of runs",
    "report": "put any number of results into one table",
    "methods": "list the methods with their paper, family, views and target branch",
    "zoo": "list published checkpoints, fetch them by name, add your own",
}
_LISTS = ("methods", "zoo")  # which print what there is, and come to no result
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
    # Loader processes and torch's threads share the cores: threads that spin while they wait make
    # a run much slower there. Read when torch is loaded, hence before anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        commands = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
        print(_HELP.format(version=erssl.__version__, commands=commands), end="")
        return 0
    if arguments[0] == "--version":
        print(f"erssl {erssl.__version__}")
        return 0
    from erssl.run.children import end_with_parent
    from erssl.run.signals import ended_by_signals
    from erssl.run.warning_lines import clean_warnings

    with clean_warnings(), ended_by_signals() as ending:
        end_with_parent()
        try:
            return _status(arguments)
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
    except Stopped as stopped:
        if stopped.sentence:
            _say(stopped.sentence)
        return 128 + stopped.signal
    except (KeyboardInterrupt, SystemExit) as end:
        if not was_interrupted(end):
            raise
        _say(_sentence_of(end))
        return 130
    except BrokenPipeError:  # erssl methods | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 0
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
        from erssl.cli.help_texts import help_text

        print(help_text(command), end="")
        return 0
    if "torch" not in sys.modules:  # else the settings themselves are read as quickly
        from erssl.settings.names import check_names

        check_names(command, arguments)
    if command in _LISTS:
        status: int = importlib.import_module(f"erssl.cli.{command}").run(arguments)
        return status
    from erssl.run.console import Terminal

    importlib.import_module(f"erssl.protocols.{command}").run(arguments, Terminal())
    return 0


if __name__ == "__main__":
    sys.exit(main())
