"""The failure table: rows of `rows.yaml`, each proved by the tests that are marked with it.

`python -m tests.failures.table` writes docs/failures.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.failures.serving import Answer, House, eventually

_TESTS = Path(__file__).resolve().parents[1]
PAGE = _TESTS.parent / "docs" / "failures.md"
_HEAD = """\
# What fails, and what then

Written by `python -m tests.failures.table` from the rows that tests hold; a test compares. Each row
is brought about on real parts by the test that is named with it, which checks the answer, `/readyz`
and the metrics named here, and that it heals.

Three rules stand behind all of it. What cannot be decided is denied. What served well goes on
serving when something newer cannot be had. A request passes a failure only where `failOpen` or
`audit.mode: best-effort` asked for that by name, and each time it is counted and on record.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One failure.

    `answer` is what the test's request gets meanwhile (`code`, `status`, `reason`; empty:
    nothing answers). `readyz` maps dotted paths of its body to what stands there; `status`
    is the HTTP status. `metrics` are names whose sum is above 0 meanwhile.
    """

    id: str
    part: str
    fails: str
    request: str
    operator: str
    heals: str
    answer: Mapping[str, Any]
    readyz: Mapping[str, Any]
    metrics: tuple[str, ...]

    def is_told(self, house: House) -> None:
        """Raise unless operators come to see what the row promises."""
        status = self.readyz.get("status", 200)
        wanted = {path: value for path, value in self.readyz.items() if path != "status"}
        eventually(house.readyz, lambda seen: seen[0] == status and _shows(seen[1], wanted))
        for name in self.metrics:
            eventually(lambda name=name: house.metric(name), lambda count: count > 0)

    def is_over(self, house: House) -> None:
        """Raise unless what it showed goes away; counters stay."""
        wanted = {path: value for path, value in self.readyz.items() if path != "status"}
        eventually(
            house.readyz, lambda seen: seen[0] == 200 and not (wanted and _shows(seen[1], wanted))
        )
        for name in self.metrics:
            if not name.endswith("_total"):
                eventually(lambda name=name: house.metric(name), lambda count: count == 0)

    def answers(self, got: Answer) -> bool:
        """Return whether an answer is the one that the row promises."""
        return all(getattr(got, name) == value for name, value in self.answer.items())


def _shows(body: Any, wanted: Mapping[str, Any]) -> bool:
    return all(_fits(_at(body, path.split(".")), value) for path, value in wanted.items())


def _at(body: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(body, list):
            body = body[int(step)] if int(step) < len(body) else None
        elif isinstance(body, dict):
            body = body.get(step)
        else:
            return None
    return body


def _fits(found: Any, wanted: Any) -> bool:
    """Return whether a value is as wanted; `has: TEXT` is for a text, not empty, that holds it."""
    if isinstance(wanted, Mapping):
        return isinstance(found, str) and found != "" and wanted["has"] in found
    return bool(found == wanted)


@cache
def rows() -> Mapping[str, Row]:
    """Return every row by its id, in the table's order."""
    found = yaml.safe_load((Path(__file__).parent / "rows.yaml").read_text("utf-8"))
    made = [
        Row(
            **{"answer": {}, "readyz": {}} | each | {"metrics": tuple(each.get("metrics", ()))},
        )
        for each in found
    ]
    assert len({row.id for row in made}) == len(made), "ids are unique"
    return {row.id: row for row in made}


@cache
def proofs() -> Mapping[str, tuple[str, ...]]:
    """Return the tests that are marked with each row's id, as `file::name`."""
    found: dict[str, list[str]] = {}
    for path in sorted(_TESTS.rglob("test_*.py")):
        for row, test in _marked(ast.parse(path.read_text("utf-8"))):
            name = f"{path.relative_to(_TESTS.parent).as_posix()}::{test}"
            found.setdefault(row, []).append(name)
    return {row: tuple(names) for row, names in found.items()}


def _marked(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield row and test of each `@pytest.mark.failure("ROW", ...)`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        for each in node.decorator_list:
            if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.failure":
                yield from ((ast.literal_eval(row), node.name) for row in each.args)


def page() -> str:
    """Return the text of docs/failures.md."""
    tests = proofs()
    lines = [_HEAD]
    for part in dict.fromkeys(row.part for row in rows().values()):
        lines += [
            f"## {part}\n",
            "| fails | a request then | an operator sees | it heals | proof |",
            "|---|---|---|---|---|",
        ]
        for row in rows().values():
            if row.part == part:
                shown = "<br>".join(f"`{name}`" for name in tests.get(row.id, ()))
                cells = (row.fails, row.request, row.operator, row.heals, shown)
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
