"""Records as one HTML page that a person can read, with nothing fetched from anywhere.

Every text of a record is a stranger's: the template escapes all of it, and the
page's own Content-Security-Policy allows only the one style and the one script
whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, TextIO

import jinja2
from markupsafe import Markup

from audit.export.columns import (
    name_destination,
    name_peer,
    name_rule,
    name_shadow,
    name_subject,
)
from audit.export.summary import summarize
from audit.time_range import TimeRange
from audit.verify import VerifyReport


def export(
    records: Iterable[Mapping[str, Any]],
    out: TextIO,
    *,
    title: str,
    range: TimeRange,
    verification: VerifyReport | None,
) -> int:
    """Write the page and return how many records it speaks of.

    The totals count every record, the table shows the newest `summary.MAX_ROWS`.
    """
    style, script = _read("report.css"), _read("report.js")
    summary = summarize(records)
    page = _environment().get_template("report.html.j2")
    pieces = page.generate(
        title=title,
        range=str(range),
        summary=summary,
        verification=verification,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    out.writelines(pieces)
    return summary.total


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "peer": name_peer,
        "subject": name_subject,
        "destination": name_destination,
        "rule": name_rule,
        "shadow": name_shadow,
        "visible": make_visible,
    }
    return environment


def make_visible(value: object) -> str:
    """Return a text whose control and direction signs can be seen and do nothing."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{{{ord(letter):x}}}" for letter in text)


def _read(name: str) -> str:
    return files("audit.export").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return base64.b64encode(digest).decode("ascii")
