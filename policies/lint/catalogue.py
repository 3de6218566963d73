"""The catalogue of findings: what each code means, read from `catalogue.yaml`.

A code is found either by a rule of this package or by the loader; for the latter the
catalogue says which finding of the loader it names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from policies.diagnostic import Diagnostic
from policies.lint.finding import LintSeverity

INPUTS = {
    "R": "the resource itself",
    "P": "the other policies",
    "W": "workloads and services",
    "N": "namespaces and service accounts",
    "A": "PeerAuthentication",
    "J": "RequestAuthentication",
    "M": "mesh settings and providers",
    "C": "the CA's registrations and federation",
    "G": "Rego modules",
    "E": "the evaluator",
    "H": "suppressions, today's date and the revision before",
}
"""What a rule may read, by letter."""

_MARK = re.compile(r"(?<=# MW\d{4}):\d+(?=\n|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderMatch:
    """A finding of the loader: its code, and a text its message or help holds (empty: any)."""

    code: str
    says: str = ""

    def fits(self, found: Diagnostic) -> bool:
        """Whether `found` is of this kind."""
        return self.code == found.code and (self.says in found.message or self.says in found.help)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One code. `why` and `fix` are prose; `anchor` names what else finds it.

    `mend` says what `--fix` writes and what that decides, empty where it does nothing.
    """

    code: str
    severity: LintSeverity
    inputs: frozenset[str]
    title: str
    why: str
    fix: str
    anchor: str = ""
    mend: str = ""
    loader: tuple[LoaderMatch, ...] = ()

    @property
    def help(self) -> str:
        """`fix` as messages have it: no capital, no full stop."""
        return f"{self.fix[0].lower()}{self.fix[1:].removesuffix('.')}"


@cache
def load_catalogue() -> dict[str, Entry]:
    """Return every entry by its code, in the order of the codes."""
    text = resources.files("policies.lint").joinpath("catalogue.yaml").read_text("utf-8")
    rows: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return {code: _entry(code, row) for code, row in sorted(rows.items())}


def _entry(code: str, row: dict[str, Any]) -> Entry:
    return Entry(
        code=code,
        severity=LintSeverity(row["severity"]),
        inputs=frozenset(row["inputs"]),
        title=row["title"],
        why=row["why"].strip(),
        fix=row["fix"].strip(),
        anchor=row.get("anchor", ""),
        mend=row.get("mend", ""),
        loader=tuple(
            LoaderMatch(code=each["code"], says=each.get("says", ""))
            for each in row.get("loader", ())
        ),
    )


def entry_for(found: Diagnostic) -> Entry | None:
    """Return the entry that names a finding of the loader; the one that says more wins."""
    fitting = [
        (len(match.says), entry)
        for entry in load_catalogue().values()
        for match in entry.loader
        if match.fits(found)
    ]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def render_page(entry: Entry, bad: str = "", good: str = "", beside: str = "") -> str:
    """Return the page of a code, in Markdown, with its examples where there are any.

    `beside` is what the examples need beside them.
    """
    inputs = ", ".join(INPUTS[letter] for letter in INPUTS if letter in entry.inputs)
    parts = [
        f"# {entry.code}: {entry.title}",
        f"Severity: {entry.severity}. It reads: {inputs}.",
        "## Why",
        entry.why,
        *(("## Example", _yaml(bad)) if bad else ()),
        *(("Beside it:", _yaml(beside)) if beside else ()),
        "## Fix",
        entry.fix,
        *((f"`policy lint --fix` does it: {entry.mend}",) if entry.mend else ()),
        *((_yaml(good),) if good else ()),
        "## Who else finds it",
        entry.anchor or "No tool that we know of.",
    ]
    return "\n\n".join(parts) + "\n"


def _yaml(text: str) -> str:
    # The marks say the column as well, which a reader sees.
    return f"```yaml\n{_MARK.sub('', text.rstrip())}\n```"


def render_index() -> str:
    """Return the page that lists every code, in Markdown."""
    rows = [
        f"| [{entry.code}]({entry.code}.md) | {entry.severity} | {entry.title} |"
        for entry in load_catalogue().values()
    ]
    head = ["# What `policy lint` finds", "", "| code | severity | what |", "|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"
