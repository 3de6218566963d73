"""What admission says, row by row: the cases of `validation/`, with places and fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.diagnostic import Diagnostic, LoadError, Severity
from policies.load import read_resources
from policies.mesh_config import load_mesh
from policies.traps import known_codes

FOLDER = Path(__file__).with_name("validation")
ROWS: dict[str, str] = yaml.safe_load((FOLDER / "rows.yaml").read_text("utf-8"))
CASES: list[dict[str, Any]] = [
    case
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "rows.yaml"
    for case in yaml.safe_load(path.read_text("utf-8"))
]
HEAD = "apiVersion: security.istio.io/v1\nkind: {}\nmetadata: {{name: p, namespace: shop}}\nspec: "


def rows_of(case: dict[str, Any]) -> list[str]:
    """Return the ids of the rows that a case is about."""
    row = case["row"]
    return row if isinstance(row, list) else [row]


def variants(case: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the text and the mesh file of each variant of a case."""
    repeat = case.get("repeat")
    values = [str(each) for each in case.get("each", [""])]
    if repeat:
        parts = (repeat["text"].replace("#", str(n)) for n in range(repeat["times"]))
        values = [repeat.get("join", ", ").join(parts)]
    mesh = case.get("mesh")
    for kind in case.get("kinds", [case.get("kind", "AuthorizationPolicy")]):
        text = case.get("text")
        if text is None:
            text = HEAD.format(kind) + case["spec"] if "spec" in case else ""
        for value in values:
            yield text.replace("$", value), mesh and mesh.replace("$", value)


def findings_of(text: str, mesh: str | None) -> Sequence[Diagnostic]:
    """Return what is found in a policy file (or without one, in a mesh file)."""
    try:
        settings = None if mesh is None else load_mesh(mesh, "mesh.yaml")
        return read_resources([("policy.yaml", text)], settings).warnings if text else ()
    except LoadError as exc:
        return exc.diagnostics


def of_variant(wanted: Any, number: int) -> Any:
    """Return what is wanted of one variant: a list has one for each."""
    return wanted[number] if isinstance(wanted, list) else wanted


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{rows_of(case)[0]} {case['note']}")
def test_case(case: dict[str, Any]) -> None:
    """A file is accepted, warned of or refused as its case says: once, and naming the field."""
    for number, (text, mesh) in enumerate(variants(case)):
        found = findings_of(text, mesh)
        if case["verdict"] == "accepted":
            assert not found, (text[:500], str(found[0]))
            continue
        wanted = Severity.ERROR if case["verdict"] == "refused" else Severity.WARNING
        least = [each for each in found if each.severity is wanted]
        if wanted is Severity.WARNING:
            assert len(least) == len(found), [str(each) for each in found]
        assert [case["code"]] == [each.code for each in least], (text[:500], list(map(str, found)))
        says, path = of_variant(case["says"], number), of_variant(case["path"], number)
        told = least[0]
        file = "policy.yaml" if text else "mesh.yaml"
        assert str(told).startswith(f"{file}:{of_variant(case['at'], number)}: {wanted}: "), told
        assert (path, says) == (told.path, told.message), told
        assert told.path in told.message
        assert told.help, "a refusal says how to mend it"


def test_every_row_has_a_case() -> None:
    """Each row of the index has a case, and each case names rows of the index."""
    named = {row for case in CASES for row in rows_of(case)}

    assert set(ROWS) - named == set(), "rows without a case"
    assert named - set(ROWS) == set(), "cases that name no row"


def test_every_refusal_has_an_accepted_neighbour() -> None:
    """What is refused stands beside something alike that is not, but where nothing is alike."""
    alone = {"10.1-dry-run-kind", "10.1-internal-annotation"}
    lenient = {row for case in CASES if case["verdict"] != "refused" for row in rows_of(case)}
    groups = {row.partition("-")[0] for row in lenient}

    assert {row.partition("-")[0] for row in set(ROWS) - alone} == groups


def test_every_trap_has_a_case() -> None:
    """Each warning about what Istio takes and does otherwise than it looks has a case."""
    warned = {case["code"] for case in CASES if case["verdict"] == "warned"}

    assert set(known_codes()) - warned == set()


def test_notes_are_unique() -> None:
    """No two cases of a row have one name."""
    names = [(tuple(rows_of(case)), case["note"]) for case in CASES]

    assert len(names) == len(set(names))
