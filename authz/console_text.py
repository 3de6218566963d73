"""Text for terminals in which nothing acts on the terminal: what others wrote is only shown."""

from __future__ import annotations

import re
from typing import Final

from rich.text import Text

# C0, DEL and C1, line and paragraph separators, and what turns the direction of writing.
_ACTING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_STAND_IN: Final = "\ufffd"


def visible(text: Text) -> Text:
    """Return the text on one line, each character that would act replaced; styles stay."""
    # As many characters as before, so that the spans of styles still fit.
    text.plain = visible_plain(text.plain)
    return text


def visible_plain(text: str) -> str:
    """Return a text on one line, each character that would act on a terminal replaced."""
    return _ACTING.sub(_STAND_IN, text)
