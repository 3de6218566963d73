"""Texts of strangers, made so that they can be looked at."""

from __future__ import annotations


def make_visible(value: object) -> str:
    """Return a text whose control and direction signs can be seen and do nothing."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{{{ord(letter):x}}}" for letter in text)
