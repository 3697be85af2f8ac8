"""The parts of which sentences are made."""

import pytest

from erssl.errors import listed_and


@pytest.mark.parametrize(
    ("names", "text"),
    [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c"), ([], "")],
)
def test_names_are_joined_as_a_sentence_does(names, text):
    assert listed_and(names) == text
