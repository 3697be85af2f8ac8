"""The errors that erssl raises on purpose: one sentence each, before work starts.

The command line prints the sentence and exits with status 2; anything else is a defect.
"""

from collections.abc import Iterable, Sequence

_NAMED = 5  # names that a sentence lists
_BEGIN, _END = 900, 300  # characters of a longer sentence that are shown; what to do is at its end


def printable(text: str) -> str:
    """Give a text in one line and without what a terminal would obey or a file could not hold.

    Bytes of a file name that are no UTF-8 are among that; they become such as ``\\udce9``.
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


def counted(count: int, thing: str) -> str:
    """Give a number of things in words, such as ``1 epoch`` and ``2 epochs``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def named(names: Iterable[object]) -> str:
    """List at most five names, and how many there are beyond them."""
    every = [str(name) for name in names]
    more = f", and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def listed_and(names: Sequence[str]) -> str:
    """Join names as a sentence does: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def installing(extra: str) -> str:
    """How to install what an extra of erssl brings; erssl is on no package index."""
    return f"install the extra {extra}, as by pip install '.[{extra}]' in a clone of erssl"


class ErsslError(Exception):
    """Base of every error that erssl raises about its input."""

    def __str__(self) -> str:
        """The sentence in one line, whatever the names and messages that it quotes may hold."""
        text = super().__str__()
        if text.startswith("Caught "):  # a loader process's traceback, whose last line is ours
            return text
        if len(text) > _BEGIN + _END:
            text = f"{text[:_BEGIN]} … {text[-_END:]}"
        return printable(text)


class ConfigError(ErsslError, ValueError):
    """A configuration key or value that cannot be used."""


class DataError(ErsslError, ValueError):
    """Images, folders or splits that cannot be used."""


class RunError(ErsslError, OSError):
    """A run directory that cannot be written, or must not be overwritten."""


class ErsslWarning(UserWarning):
    """What a user should know of a run that goes on: one sentence."""


class Stopped(BaseException):
    """A signal has ended a run; no error, so that nothing but the command line catches it.

    Attributes:
        sentence: What happened and how to go on; empty where another process says it.
        signal: The signal's number.
    """

    def __init__(self, sentence: str, signal: int) -> None:
        """Keep the sentence and the signal."""
        super().__init__(sentence)
        self.sentence = sentence
        self.signal = signal


def was_interrupted(end: BaseException) -> bool:
    """Whether it is Ctrl-C, or the SystemExit that Lightning makes of it."""
    return isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt)


def own_sentence(error: ErsslError) -> str:
    """The sentence of an error of ours, also where a loader process met it.

    Such a process puts its traceback before.
    """
    sentence = str(error)
    if sentence.startswith("Caught "):
        return sentence.strip().splitlines()[-1].partition("Error: ")[2]
    return sentence
