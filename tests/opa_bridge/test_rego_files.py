"""Data files beside modules: each value is the one that OPA takes it for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from opa_process import MISSING, opa_binary

from opa_bridge.rego_files import read_data, read_data_tree
from policies.diagnostic import LoadError

# Each of these is another value in YAML 1.1, or none that JSON has.
TEXT = """
mtls: yes
mode: 0o17
port: 1:30
since: 2024-01-01
1: a number for a key
base: &base {region: eu}
shop: {<<: *base, name: on}
"""
VALUE: dict[str, Any] = {
    "mtls": "yes",
    "mode": 15,
    "port": "1:30",
    "since": "2024-01-01",
    "1": "a number for a key",
    "base": {"region": "eu"},
    "shop": {"region": "eu", "name": "on"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A data file in a folder of its own."""
    file = tmp_path / "data.yaml"
    file.write_text(TEXT, "utf-8")
    return file


def test_yaml_means_what_opa_takes_it_for(file: Path) -> None:
    """`yes` is a text, whichever way the file is read."""
    assert read_data([file])[0] == VALUE
    assert read_data_tree(file.parent) == VALUE


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
def test_opa_takes_it_for_the_same(file: Path) -> None:
    """`opa eval` prints what is expected here."""
    command = [str(opa_binary()), "eval", "--format", "raw", "-d", str(file), "data"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert json.loads(ran.stdout) == VALUE


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("d.yaml", "a: [1\n", "is no YAML"),
        ("d.yaml", "a: .nan\n", "`.nan`"),
        ("d.yaml", "a: !!python/none x\n", "has the tag"),
        ("d.yaml", "- 1\n", "not an object"),
        ("d.json", '{"a": 1e999}', "not finite"),
        ("d.json", '{"a": NaN}', "cannot be read"),
        ("d.json", "[" * 100_000, "nested deeper"),
    ],
)
def test_what_is_no_data_is_refused(name: str, text: str, why: str, tmp_path: Path) -> None:
    """The error names the file and says what is wrong with it."""
    file = tmp_path / name
    file.write_text(text, "utf-8")
    with pytest.raises(LoadError) as caught:
        read_data([file])

    (found,) = caught.value.diagnostics
    assert str(file) == found.location.file
    assert why in found.message
