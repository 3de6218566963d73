"""A baseline: the findings of the day the linter came, so that only new ones are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from policies.diagnostic import Diagnostic, LoadError, Location
from policies.lint.finding import LintFinding

_VERSION = 1


def render_baseline(findings: Iterable[LintFinding]) -> str:
    """Return the JSON text of a baseline that covers `findings`."""
    counts = Counter(found.fingerprint for found in findings)
    return json.dumps({"version": _VERSION, "findings": dict(sorted(counts.items()))}, indent=2)


def parse_baseline(text: str, file: str) -> Counter[str]:
    """Return how many findings of each fingerprint a baseline covers.

    Raises:
        LoadError: the text is no baseline.
    """
    try:
        body = json.loads(text)
        counts = body["findings"] if body["version"] == _VERSION else None
        if isinstance(counts, dict) and all(type(each) is int for each in counts.values()):
            return Counter(counts)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    message = "not a baseline of the linter"
    help_ = "write one with `--write-baseline FILE`"
    raise LoadError(
        [Diagnostic(code="bad-baseline", message=message, location=Location(file), help=help_)]
    )


def new_findings(findings: Iterable[LintFinding], known: Counter[str]) -> tuple[LintFinding, ...]:
    """Return the findings that go beyond the baseline, in their order."""
    left = Counter(known)
    new: list[LintFinding] = []
    for found in findings:
        if left[found.fingerprint] > 0:
            left[found.fingerprint] -= 1
        else:
            new.append(found)
    return tuple(new)
