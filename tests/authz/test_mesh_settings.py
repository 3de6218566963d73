"""The `mesh:` section and a mesh file of its own: the same keys, read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.config_file import load_model
from authz.mesh_settings import MeshSettings
from policies.diagnostic import LoadError
from policies.mesh import Mesh
from policies.mesh_config import load_mesh

FILES = Path(__file__).parents[1] / "policies" / "mesh_files.yaml"
CASES = [case for case in yaml.safe_load(FILES.read_text()) if case.get("shape") != "file"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_read_alike(case: dict[str, Any], tmp_path: Path) -> None:
    """What a mesh file means, the section means; what is refused there is refused here."""
    path = tmp_path / "m.yaml"
    path.write_text(case["text"])
    if "refused" in case:
        with pytest.raises(LoadError):
            load_model(path, MeshSettings)
    else:
        assert load_mesh(case["text"], "m.yaml") == load_model(path, MeshSettings).to_mesh()


def test_defaults_are_the_same() -> None:
    """Nothing written means the same everywhere."""
    assert Mesh() == MeshSettings().to_mesh()
