"""What `--fix` does: findings whose mend is what the author plainly wrote, made in the text.

INVARIANT: only scalars are replaced, each by its position. A mend whose file then holds an error
that it did not hold before is not made.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from policies.lint.finding import LintFinding
from policies.lint.scalars import Edit, Scalar, edited, find_scalars
from policies.lint.values import bare_host, normal_path
from policies.mesh import Mesh

_MEANT: Final = re.compile(r"did you mean `([A-Za-z]+)`\?")
_TRUE: Final = frozenset({"yes", "y", "on", "enabled"})
_FALSE: Final = frozenset({"no", "n", "off", "disabled"})


def _network(text: str, _: Mesh) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return text


def _slashed(text: str, _: Mesh) -> str:
    return f"/{text}"


def _upper(text: str, _: Mesh) -> str:
    return text.upper()


def _host(text: str, _: Mesh) -> str:
    return bare_host(text) or text


def _schemeless(text: str, _: Mesh) -> str:
    return text.removeprefix("spiffe://")


_VALUES: Final[Mapping[str, Callable[[str, Mesh], str]]] = {
    "MW0107": _network,
    "MW0204": _slashed,
    "MW0206": normal_path,
    "MW0211": _upper,
    "MW0216": _host,
    "MW0218": _schemeless,
}
"""What takes the place of a value, by code; the same text where nothing is sure to be right."""

MENDED: Final = frozenset({*_VALUES, "MW0101", "MW0806"})
"""The codes that `--fix` mends."""


def mend_text(text: str, findings: Iterable[LintFinding], mesh: Mesh) -> str:
    """Return the text of a file with what can be mended of its findings."""
    wanted = [found for found in findings if found.code in MENDED]
    if not wanted:
        return text
    scalars = find_scalars(text)
    edits: list[Edit] = []
    for found in wanted:
        place = (found.location.line, found.location.column)
        if place in scalars:
            edits += _edits(found, *scalars[place], mesh)
    return edited(text, edits)


def _edits(
    found: LintFinding, scalar: Scalar, behind: Scalar | None, mesh: Mesh
) -> tuple[Edit, ...]:
    if found.code == "MW0101":
        return _renamed(found, scalar)
    if found.code == "MW0806":
        return _boolean(behind) if behind is not None else ()
    text = _VALUES[found.code](scalar.text, mesh)
    return (Edit(scalar, text),) if text not in ("", scalar.text) else ()


def _renamed(found: LintFinding, key: Scalar) -> tuple[Edit, ...]:
    """Return the edit of a field that misses its `s`, or is spelled in other letters' case."""
    meant = _MEANT.search(found.help)
    name = meant[1] if meant else ""
    is_sure = name == f"{key.text}s" or (name.lower() == key.text.lower() and name != "")
    return (Edit(key, name),) if is_sure else ()


def _boolean(value: Scalar) -> tuple[Edit, ...]:
    """Return the edit of a dry-run annotation that says yes or no in another word."""
    word = value.text.lower()
    if word not in _TRUE | _FALSE or not value.style:
        return ()
    return (Edit(value, "true" if word in _TRUE else "false"),)
