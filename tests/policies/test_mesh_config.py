"""Mesh files, ours and Istio's, as data: `mesh_files.yaml`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.diagnostic import LoadError
from policies.mesh import ExtensionProvider, Mesh
from policies.mesh_config import load_mesh

CASES = yaml.safe_load(Path(__file__).with_name("mesh_files.yaml").read_text())


def frozen(value: Any) -> Any:
    """Return lists as tuples, all the way down; mappings stay."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_mesh_file(case: dict[str, Any]) -> None:
    """A mesh file gives what its case says, or is refused with all of what it says."""
    if "refused" in case:
        with pytest.raises(LoadError) as caught:
            load_mesh(case["text"], "m.yaml")
        missing = [part for part in case["refused"] if part not in str(caught.value)]
        assert [] == missing, str(caught.value)
        return
    wanted = {key: frozen(value) for key, value in case.get("want", {}).items()}
    providers = tuple(
        ExtensionProvider(**{key: frozen(value) for key, value in each.items()})
        for each in case.get("providers", ())
    )

    assert Mesh(**wanted, extension_providers=providers) == load_mesh(case["text"], "m.yaml")


def test_every_setting_has_a_case() -> None:
    """No field of Mesh or of a provider goes untried."""
    tried = {key for case in CASES for key in case.get("want", {})} | {"extension_providers"}
    of_providers = {key for case in CASES for each in case.get("providers", ()) for key in each}

    assert {field.name for field in fields(Mesh)} == tried
    assert {field.name for field in fields(ExtensionProvider)} == of_providers


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever a file holds, it is mesh settings or a LoadError."""
    try:
        assert isinstance(load_mesh(text, "m.yaml"), Mesh)
    except LoadError as exc:
        assert exc.diagnostics
