"""`policy lint --fix`: the mends of the linter, in the files they stand in."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from authz.commands.replacing import replace_text, unified_diff
from authz.lint_sources import Given, gather
from policies.lint.finding import LintFinding, LintSeverity
from policies.lint.mending import MENDED, mend_text
from policies.lint.run import lint_texts
from policies.mesh import Mesh

# BUDGET: a mend may uncover another one: a path gets its slash, and is then normalized.
_ROUNDS = 4

Texts = list[tuple[str, str]]


def mend(texts: Texts, mesh: Mesh, given: Given, *, is_diff: bool) -> Texts:
    """Return the texts mended; the files are written, or with `is_diff` the change is printed.

    Raises:
        LoadError: what was given beside the policies cannot be read.
        OSError: a file cannot be written; those before it are.
    """
    mended = mended_texts(texts, mesh, given)
    for (file, before), (_, after) in zip(texts, mended, strict=True):
        if before == after:
            continue
        if is_diff:
            sys.stdout.write(unified_diff(before, after, file))
        elif not Path(file).is_file():
            raise click.UsageError("--fix needs files; standard input cannot be written")
        else:
            replace_text(Path(file), after)
            click.echo(f"mended {file}", err=True)
    return mended


def mended_texts(texts: Texts, mesh: Mesh, given: Given) -> Texts:
    """Return the texts with every mend that can be made, and no error that was not there."""
    for _ in range(_ROUNDS):
        found = _by_file(_lint(texts, mesh, given))
        mended = [
            (file, _mended(file, text, found.get(file, ()), mesh, given)) for file, text in texts
        ]
        if mended == texts:
            break
        texts = mended
    return texts


def _mended(file: str, text: str, findings: Sequence[LintFinding], mesh: Mesh, given: Given) -> str:
    """Return the text of a file after one round: all mends, or those that do no harm alone."""
    wanted = [found for found in findings if found.code in MENDED]
    for tried in (wanted, *([each] for each in wanted)):
        mended = mend_text(text, tried, mesh)
        if mended != text and not _is_worse(file, text, mended, mesh, given):
            return mended
    return text


def _is_worse(file: str, before: str, after: str, mesh: Mesh, given: Given) -> bool:
    """Whether a mended file holds an error that it did not hold before.

    What the next round mends is none: a field that gets its name shows the faults of its values.
    """
    had, has = (_errors(_lint([(file, text)], mesh, given)) for text in (before, after))
    return any(has[code] > had[code] for code in has.keys() - MENDED)


def _errors(findings: Iterable[LintFinding]) -> Counter[str]:
    return Counter(found.code for found in findings if found.severity is LintSeverity.ERROR)


def _lint(texts: Texts, mesh: Mesh, given: Given) -> tuple[LintFinding, ...]:
    today = datetime.now(tz=UTC).date()
    return lint_texts(texts, gather(texts, mesh, given), today).findings


def _by_file(findings: Iterable[LintFinding]) -> dict[str, list[LintFinding]]:
    found: dict[str, list[LintFinding]] = {}
    for each in findings:
        found.setdefault(each.location.file, []).append(each)
    return found
