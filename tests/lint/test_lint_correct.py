"""No false alarm: policies in the shapes of Istio's public samples and tasks have no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.lint.finding import LintSeverity
from policies.mesh import Mesh
from policies.mesh_config import load_mesh
from tests.lint.linting import lint

HERE = Path(__file__).parent / "correct"
MESH = ".mesh.yaml"
SHAPES = sorted(path for path in HERE.glob("*.yaml") if not path.name.endswith(MESH))


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_a_correct_shape_has_no_error(path: Path) -> None:
    """The shape is read whole, and nothing in it is an error."""
    beside = path.with_name(path.stem + MESH)
    mesh = load_mesh(beside.read_text(), beside.name) if beside.exists() else Mesh()
    result = lint([(path.name, path.read_text())], mesh)
    errors = [found for found in result.findings if found.severity is LintSeverity.ERROR]
    assert errors == []
    assert result.resources


def test_there_are_enough_shapes() -> None:
    """HTTP, TCP, JWT, deny, ingress, trust domains, dry-run, CUSTOM, mTLS, ambient: 60 of them."""
    assert len(SHAPES) >= 60
