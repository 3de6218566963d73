"""What loads, what is refused, and what the refusal says: `loading.yaml`, and hostile texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.diagnostic import LoadError
from policies.documents import parse_documents
from policies.files import read_policy_files
from policies.load import read_resources
from policies.mesh import Mesh
from policies.snapshot import build_snapshot

CASES = yaml.safe_load(Path(__file__).with_name("loading.yaml").read_text())
ONE_ERROR = [
    line.split(" ", 1)
    for line in Path(__file__).with_name("one_error.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
HEAD = (
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: p, namespace: shop}"
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_case(case: dict[str, Any]) -> None:
    """A file is refused for the reasons its case names, at those lines, and for no others."""
    text = "\n".join(HEAD if line == "P" else line for line in case["text"].split("\n"))
    wanted = case.get("errors", {})
    if not wanted:
        read_resources([("f.yaml", text)])
        return

    with pytest.raises(LoadError) as caught:
        read_resources([("f.yaml", text)])

    errors = [found for found in caught.value.diagnostics if found.severity == "error"]
    for line, part in wanted.items():
        assert any(f"f.yaml:{line}:" in str(found) and part in str(found) for found in errors), (
            f"line {line}: {part}\n{caught.value}"
        )
    assert set(wanted) == {found.location.line for found in errors}, str(caught.value)


@pytest.mark.parametrize(("kind", "spec"), ONE_ERROR)
def test_one_fault_is_one_error(kind: str, spec: str) -> None:
    """A wrong type or a misspelt name is told once: nothing follows from it."""
    text = HEAD.replace("AuthorizationPolicy", kind) + f"\nspec: {spec}"
    with pytest.raises(LoadError) as caught:
        read_resources([("f.yaml", text)])

    errors = [found for found in caught.value.diagnostics if found.severity == "error"]
    assert 1 == len(errors), str(caught.value)
    assert 4 == errors[0].location.line
    assert errors[0].path in errors[0].message


def test_one_bad_file_refuses_all() -> None:
    """A set with one bad file loads nothing, and every finding of every file is told."""
    with pytest.raises(LoadError) as caught:
        build_snapshot(
            [("good.yaml", HEAD), ("a.yaml", "a: ["), ("b.yaml", "- x")],
            Mesh(),
        )

    assert ["a.yaml", "b.yaml"] == [found.location.file for found in caught.value.diagnostics]


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [*x]",
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "\n".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]"
            for i in range(8)
        ),
        "[" * 5000,
        "a: \x00",
        "a: {<<: {b: c}}",
        "? [a]\n: b",
    ],
    ids=["recursive alias", "alias bomb", "deep", "NUL", "merge key", "list as key"],
)
def test_hostile_yaml(text: str) -> None:
    """A text made to hurt the reader is refused as any other bad text."""
    with pytest.raises(LoadError):
        parse_documents(text, "f.yaml")


@given(
    st.text(alphabet=st.sampled_from("abP:-[]{}&*!|>'\"#,? \n\t0\u00e9\ud83d\ude00"), max_size=80)
)
@settings(max_examples=300, deadline=None)
def test_any_text(text: str) -> None:
    """Whatever the text, it loads or is refused; nothing else is raised."""
    try:
        read_resources([("f.yaml", text)])
    except LoadError as exc:
        assert exc.diagnostics


def test_files(tmp_path: Path) -> None:
    """Folders are read in name order; hidden ones, tests and other files are left out."""
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "x.policytest.yaml", "notes.txt"):
        (tmp_path / name).write_text(HEAD)
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "c.yaml").write_text(HEAD)

    found = read_policy_files([tmp_path])

    assert ["a.yml", "b.yaml"] == [Path(name).name for name, _ in found]


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "is empty"), (b"\xff\xfe", "not UTF-8"), (None, "cannot be read")]
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, part: str) -> None:
    """A file that holds nothing readable is refused: its DENY rules must not vanish."""
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(LoadError, match=part):
        read_policy_files([path])


def test_a_folder_without_policies_is_refused(tmp_path: Path) -> None:
    """An empty folder is an unmounted volume sooner than a wish to let everybody in."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LoadError, match="holds no policy file"):
        read_policy_files([tmp_path])


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in an unreadable folder is not taken for nothing (root can read any)."""
    (tmp_path / "p.YAML").write_text(HEAD)
    (tmp_path / "locked").mkdir()
    assert 1 == len(read_policy_files([tmp_path]))
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)

    with pytest.raises(LoadError, match="locked.*cannot be listed"):
        read_policy_files([tmp_path])
