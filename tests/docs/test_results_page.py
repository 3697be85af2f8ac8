"""The tables of docs/results.md are those of the records that they are written from."""

from benchmarks._pages import with_tables
from benchmarks.method_table import PAGE, tables


def test_the_page_has_the_tables_of_its_records():
    text = PAGE.read_text(encoding="utf-8")
    assert with_tables(text, tables()) == text
    assert text.count("| ") > 200
