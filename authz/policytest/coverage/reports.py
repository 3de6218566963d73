"""The formats of coverage that people and other tools read.

Spec: LCOV's geninfo(1), "Files"; Cobertura's coverage-04.dtd.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from authz.console_text import visible_plain
from authz.policytest.coverage.items import FileTally, Item, Kind, Tally, by_file, shown_percent
from authz.policytest.coverage.page import as_html
from authz.policytest.report_formats import xml_text

_DOCTYPE: Final = (
    '<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">'
)


def as_text(tally: Tally) -> str:
    """Return a line for each file, and one for each thing that no test came to."""
    files = by_file(tally)
    lines = [f"coverage: {shown_percent(tally.percent)} ({tally.reached} of {len(tally)})"]
    for each in files:
        share = 100.0 * each.reached / len(each.items)
        lines.append(
            f"  {shown_percent(share):>6}  {each.file} ({each.reached} of {len(each.items)})"
        )
    missed = list(_missed(files))
    if missed:
        lines.append("no test came to:")
        lines += [f"  {place}  {told}" for place, told in missed]
    return "".join(f"{visible_plain(line)}\n" for line in lines)


def _missed(files: list[FileTally]) -> Iterator[tuple[str, str]]:
    """Yield place and words of what was not come to; lines of Rego that follow as one."""
    for each in files:
        missing = [item for item, count in each.items if not count]
        start = 0
        while start < len(missing):
            item, end = missing[start], start + 1
            if item.kind is Kind.LINE:
                while end < len(missing) and missing[end].location.line == item.location.line + (
                    end - start
                ):
                    end += 1
            first, last = item.location.line, missing[end - 1].location.line
            place = f"{each.file}:{first}-{last}" if last > first else str(item.location)
            yield place, "lines of Rego" if last > first else item.told
            start = end


def as_json(tally: Tally) -> str:
    """Return one JSON object; `version` changes when a key changes its meaning."""
    document: dict[str, Any] = {
        "version": 1,
        "summary": {**_sums(tally), "kinds": _kinds(tally)},
        "files": [
            {
                "file": each.file,
                "reached": each.reached,
                "total": len(each.items),
                "items": [_as_object(item, count) for item, count in each.items],
            }
            for each in by_file(tally)
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _sums(tally: Tally) -> dict[str, Any]:
    return {
        "reached": tally.reached,
        "total": len(tally),
        "percent": round(tally.percent, 2),
    }


def _kinds(tally: Tally) -> dict[str, dict[str, int]]:
    total = Counter(str(item.kind) for item, _ in tally)
    reached = Counter(str(item.kind) for item, count in tally if count)
    return {kind: {"reached": reached[kind], "total": total[kind]} for kind in sorted(total)}


def _as_object(item: Item, count: int) -> dict[str, Any]:
    return {
        "kind": str(item.kind),
        "line": item.location.line,
        "column": item.location.column,
        "owner": item.owner,
        "text": item.text,
        "count": count,
    }


def as_lcov(tally: Tally) -> str:
    """Return an LCOV tracefile: rules are its functions, alternatives its branches."""
    lines: list[str] = []
    for each in by_file(tally):
        rules = [(item, count) for item, count in each.items if item.kind is Kind.RULE]
        lines += ["TN:", f"SF:{visible_plain(str(Path(each.file).resolve()))}"]
        lines += [f"FN:{item.location.line},{visible_plain(item.owner)}" for item, _ in rules]
        lines += [f"FNDA:{count},{visible_plain(item.owner)}" for item, count in rules]
        lines += [f"FNF:{len(rules)}", f"FNH:{sum(count > 0 for _, count in rules)}"]
        branches: list[tuple[int, int, int]] = []
        counts: list[tuple[int, int]] = []
        for line, found in each.by_line():
            ways = [count for item, count in found if _is_branch(item)]
            branches += [(line, number, count) for number, count in enumerate(ways)]
            counts.append((line, max(count for _, count in found)))
        lines += [f"BRDA:{line},0,{number},{count}" for line, number, count in branches]
        lines += [f"BRF:{len(branches)}", f"BRH:{sum(count > 0 for _, _, count in branches)}"]
        lines += [f"DA:{line},{count}" for line, count in counts]
        lines += [f"LF:{len(counts)}", f"LH:{sum(count > 0 for _, count in counts)}"]
        lines.append("end_of_record")
    return "".join(f"{line}\n" for line in lines)


def _is_branch(item: Item) -> bool:
    return item.kind in (Kind.ENTRY, Kind.VALUE, Kind.NOT)


def as_cobertura(tally: Tally) -> str:
    """Return Cobertura XML: a package for each folder, a class for each file."""
    files = by_file(tally)
    rest = {"complexity": "0", "version": "1", "timestamp": "0"}
    root = ElementTree.Element("coverage", {**_rates(files), **rest})
    sources = ElementTree.SubElement(root, "sources")
    ElementTree.SubElement(sources, "source").text = str(Path.cwd())
    packages = ElementTree.SubElement(root, "packages")
    for folder, group in groupby(files, key=lambda each: str(Path(each.file).parent)):
        within = list(group)
        package = ElementTree.SubElement(
            packages, "package", {"name": xml_text(folder), **_shares(within)}, complexity="0"
        )
        classes = ElementTree.SubElement(package, "classes")
        for each in within:
            _add_class(classes, each)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_DOCTYPE}\n{text}\n'


def _add_class(classes: ElementTree.Element, each: FileTally) -> None:
    names = {"name": xml_text(Path(each.file).name), "filename": xml_text(each.file)}
    found = ElementTree.SubElement(classes, "class", {**names, **_shares([each])}, complexity="0")
    ElementTree.SubElement(found, "methods")
    lines = ElementTree.SubElement(found, "lines")
    for line, items in each.by_line():
        ways = [count for item, count in items if _is_branch(item)]
        element = ElementTree.SubElement(
            lines,
            "line",
            number=str(line),
            hits=str(max(count for _, count in items)),
            branch="true" if ways else "false",
        )
        if ways:
            taken = sum(count > 0 for count in ways)
            share = f"{100 * taken // len(ways)}% ({taken}/{len(ways)})"
            element.set("condition-coverage", share)


def _rates(files: list[FileTally]) -> dict[str, str]:
    lines, branches = _line_counts(files), _branch_counts(files)
    return {
        **_shares(files),
        "lines-covered": str(sum(lines)),
        "lines-valid": str(len(lines)),
        "branches-covered": str(sum(branches)),
        "branches-valid": str(len(branches)),
    }


def _shares(files: list[FileTally]) -> dict[str, str]:
    return {
        "line-rate": _share(_line_counts(files)),
        "branch-rate": _share(_branch_counts(files)),
    }


def _share(hits: list[bool]) -> str:
    return f"{sum(hits) / len(hits):.4f}" if hits else "1.0000"


def _line_counts(files: list[FileTally]) -> list[bool]:
    return [any(count for _, count in found) for each in files for _, found in each.by_line()]


def _branch_counts(files: list[FileTally]) -> list[bool]:
    return [count > 0 for each in files for item, count in each.items if _is_branch(item)]


FORMATS: Final[Mapping[str, Callable[[Tally], str]]] = {
    "text": as_text,
    "json": as_json,
    "lcov": as_lcov,
    "cobertura": as_cobertura,
    "html": as_html,
}
"""Every format of coverage, by its name."""
