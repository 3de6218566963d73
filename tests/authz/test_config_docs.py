"""The published pages and schemas of the configuration are those of the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.cli import main

SCHEMAS = {
    "serve": "meshwarden.schema.json",
    "ca": "ca.schema.json",
    "policytest": "policytest.schema.json",
}


@pytest.mark.parametrize(("kind", "name"), SCHEMAS.items())
def test_published_schema(kind: str, name: str, repository: Path) -> None:
    """`meshwarden config schema --of KIND` prints what the repository holds."""
    printed = CliRunner().invoke(main, ["config", "schema", "--of", kind])

    assert 0 == printed.exit_code
    assert json.loads((repository / "docs" / name).read_text()) == json.loads(printed.output)


def test_published_page(repository: Path) -> None:
    """`meshwarden config docs` prints what the repository holds."""
    printed = CliRunner().invoke(main, ["config", "docs"])

    assert (repository / "docs/configuration.md").read_text(encoding="utf-8") == printed.output


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_setting_is_described(kind: str) -> None:
    """No key of any file goes without a word on its meaning."""
    schema = json.loads(CliRunner().invoke(main, ["config", "schema", "--of", kind]).output)

    bare = [
        key
        for node in (schema, *schema["$defs"].values())
        for key, field in node.get("properties", {}).items()
        if "description" not in field
    ]

    assert not bare
