"""The linter as tests call it: texts in, findings out, by the server's own evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from authz.lint_sources import Given, gather
from opa_bridge import lint_loading, lint_meaning
from policies.lint.facts import Known
from policies.lint.run import LintResult, lint_texts
from policies.mesh import Mesh
from policies.mesh_config import load_mesh

TODAY = date(2026, 11, 21)
REGO_RULES = (lint_loading, lint_meaning)
"""The files whose import enters the rules about Rego."""

Texts = Sequence[tuple[str, str]]


def known_of(texts: Texts, mesh: Mesh | None = None, given: Given | None = None) -> Known:
    """Return what the linter knows beside the resources."""
    return gather(texts, mesh or Mesh(), given or Given())


def lint(texts: Texts, mesh: Mesh | None = None, given: Given | None = None) -> LintResult:
    """Return what the linter finds."""
    return lint_texts(texts, known_of(texts, mesh, given), TODAY)


def lint_text(text: str, mesh: Mesh | None = None) -> LintResult:
    """Return what the linter finds in one file."""
    return lint([("p.yaml", text)], mesh)


def example(code: str, name: str) -> tuple[Texts, Mesh, Given]:
    """Return an example of a code, with the mesh and the revision before that stand beside it."""
    folder = Path(__file__).parent / code
    mesh, before = folder / "mesh.yaml", folder / "before.yaml"
    return (
        [(name, (folder / name).read_text())],
        load_mesh(mesh.read_text(), "mesh.yaml") if mesh.exists() else Mesh(),
        Given(before=[("before.yaml", before.read_text())] if before.exists() else None),
    )
