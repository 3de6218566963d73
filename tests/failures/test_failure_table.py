"""The failure table itself: every row has its test, every mark its row, and the page is current."""

from __future__ import annotations

import pytest

from tests.failures.table import PAGE, page, proofs, rows


def test_every_row_is_proved() -> None:
    """A row without a test is a promise that nobody keeps."""
    assert set(rows()) - set(proofs()) == set()


def test_every_mark_has_its_row() -> None:
    """A test of a failure that the table does not tell of keeps it from operators."""
    assert set(proofs()) - set(rows()) == set()


def test_the_page_is_current() -> None:
    """`python -m tests.failures.table` writes it."""
    assert page() == PAGE.read_text("utf-8")


@pytest.mark.parametrize("row", rows())
def test_rows_are_whole(row: str) -> None:
    """Each says what a request gets, what is seen and how it ends, in one cell."""
    found = rows()[row]
    for text in (found.fails, found.request, found.operator, found.heals):
        assert text
        assert "|" not in text
        assert "\n" not in text.strip()
