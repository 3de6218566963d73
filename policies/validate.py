"""What is wrong with policy texts: what loading finds, and what the mesh makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policies.diagnostic import Diagnostic, LoadError
from policies.load import read_resources
from policies.mesh import Mesh


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The findings in reading order, and how many resources there are when none is an error."""

    findings: tuple[Diagnostic, ...]
    resources: int = 0


def validate_texts(texts: Iterable[tuple[str, str]], mesh: Mesh) -> Validation:
    """Return every finding about `(file name, text)` pairs in a mesh."""
    try:
        loaded = read_resources(texts, mesh)
    except LoadError as exc:
        return Validation(findings=exc.diagnostics)
    findings = sorted(loaded.warnings, key=lambda found: found.location)
    return Validation(findings=tuple(findings), resources=len(loaded.resources))
