"""The formats of test reports that other tools read.

Spec: TAP version 14; the JUnit XML that CI servers read (testsuites, testsuite, testcase
with failure or error); GitHub workflow commands; SARIF 2.1.0 (OASIS).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.etree import ElementTree

from authz.policytest.report import BrokenFile, Report, TestRun, Trouble, json_document, told
from authz.policytest.result import CaseResult
from policies.diagnostic import Location

# XML 1.0 section 2.2: what is no Char cannot be written, not even as a reference.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FAILED: Final = "case-failed"
_SARIF_RULES: Final = {
    _FAILED: "A policy test case failed",
    str(Trouble.TEST_FILE): "A policy test file cannot be used",
    str(Trouble.POLICIES): "The policies under test do not load",
    str(Trouble.COVERAGE): "The coverage of Rego cannot be measured",
}


def as_json(run: TestRun) -> str:
    """Return the run as one JSON object."""
    return json.dumps(json_document(run), indent=2, ensure_ascii=False) + "\n"


def as_junit(run: TestRun) -> str:
    """Return JUnit XML: a suite for each test suite, and one for each file that is broken."""
    root = ElementTree.Element("testsuites", name="policy test")
    for suite, results in itertools.groupby(run.results, key=lambda each: each.suite):
        cases = list(results)
        element = _suite(root, suite, cases)
        for result in cases:
            case = ElementTree.SubElement(
                element,
                "testcase",
                name=xml_text(result.case),
                classname=xml_text(suite),
                file=xml_text(result.location.file),
                line=str(result.location.line),
                time=f"{result.seconds:.6f}",
            )
            if result.skipped:
                ElementTree.SubElement(case, "skipped", message=xml_text(result.skipped))
            elif result.failed:
                failure = ElementTree.SubElement(
                    case, "failure", message=xml_text(told(result).splitlines()[0]), type=_FAILED
                )
                failure.text = xml_text(told(result))
    for broken in run.broken:
        name = xml_text(str(broken.file))
        element = ElementTree.SubElement(
            root, "testsuite", name=name, tests="1", failures="0", errors="1", time="0"
        )
        case = ElementTree.SubElement(
            element, "testcase", name=broken.message, classname=name, time="0"
        )
        error = ElementTree.SubElement(
            case, "error", message=broken.message, type=str(broken.trouble)
        )
        error.text = xml_text("\n".join(map(str, broken.diagnostics)))
    root.set("tests", str(len(run.results) + len(run.broken)))
    root.set("failures", str(len(run.failed)))
    root.set("errors", str(len(run.broken)))
    root.set("skipped", str(run.skipped))
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )


def _suite(root: ElementTree.Element, name: str, cases: list[CaseResult]) -> ElementTree.Element:
    return ElementTree.SubElement(
        root,
        "testsuite",
        name=xml_text(name),
        tests=str(len(cases)),
        failures=str(sum(each.failed for each in cases)),
        errors="0",
        skipped=str(sum(bool(each.skipped) for each in cases)),
        time=f"{sum(each.seconds for each in cases):.6f}",
    )


def xml_text(text: str) -> str:
    """Return a text without what XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)


def as_tap(run: TestRun) -> str:
    """Return TAP version 14; what a failure has to say stands in its YAML block."""
    lines = ["TAP version 14", f"1..{len(run.results) + len(run.broken)}"]
    for number, result in enumerate(run.results, 1):
        word = "not ok" if result.failed else "ok"
        skip = f" # SKIP {_tap(result.skipped)}" if result.skipped else ""
        lines.append(f"{word} {number} - {_tap(result.name)}{skip}")
        if result.failed:
            lines += _block({"message": told(result), "at": str(result.location)})
    for number, broken in enumerate(run.broken, len(run.results) + 1):
        lines.append(f"not ok {number} - {_tap(f'{broken.file}: {broken.message}')}")
        lines += _block({"message": "\n".join(map(str, broken.diagnostics))})
    return "\n".join(lines) + "\n"


def _tap(text: str) -> str:
    """Return a description: on one line, and with nothing in it that reads as a directive."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")


def _block(facts: Mapping[str, str]) -> list[str]:
    # Every JSON string is a YAML one.
    return ["  ---", *(f"  {key}: {json.dumps(text)}" for key, text in facts.items()), "  ..."]


def as_github(run: TestRun) -> str:
    """Return workflow commands that mark the failing case, and nothing where none failed."""
    lines = [
        _command(result.location, f"policy test: {result.name}", told(result))
        for result in run.failed
    ]
    for broken in run.broken:
        lines += [
            _command(found.location, broken.message, f"{found.message} {found.help}".strip())
            for found in broken.diagnostics
        ]
    return "".join(f"{line}\n" for line in lines)


def _command(place: Location, title: str, message: str) -> str:
    properties = {"file": place.file, "title": title}
    if place.line:
        properties |= {"line": str(place.line), "col": str(place.column or 1)}
    written = ",".join(f"{key}={_property(text)}" for key, text in properties.items())
    return f"::error {written}::{_data(message)}"


def _data(text: str) -> str:
    # WHY all line ends: what one reader takes for the end of a command, another may not.
    return "\n".join(text.replace("%", "%25").splitlines()).replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_sarif(run: TestRun) -> str:
    """Return SARIF 2.1.0: a result for each failure, with the deciding rule beside it."""
    results = [*map(_failure, run.failed)]
    for broken in run.broken:
        results += _breakages(broken)
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "meshwarden policy test",
                        "rules": [
                            {"id": code, "shortDescription": {"text": text}}
                            for code, text in _SARIF_RULES.items()
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": results,
            }
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _failure(result: CaseResult) -> dict[str, Any]:
    found: dict[str, Any] = _sarif(_FAILED, f"{result.name}\n{told(result)}", result.location)
    related = [(each.told, each.location) for each in result.pointers if each.location.file]
    verdict = result.verdict
    if verdict is not None and verdict.place is not None and verdict.place.file:
        related.insert(0, (f"decided by {verdict.rule}", verdict.place))
    if related:
        found["relatedLocations"] = [
            {**_physical(place), "message": {"text": text}} for text, place in related
        ]
    return found


def _breakages(broken: BrokenFile) -> Iterator[dict[str, Any]]:
    for found in broken.diagnostics:
        text = f"{broken.message}: {found.message}" + (f" ({found.help})" if found.help else "")
        yield _sarif(str(broken.trouble), text, found.location)


def _sarif(code: str, text: str, place: Location) -> dict[str, Any]:
    found: dict[str, Any] = {"ruleId": code, "level": "error", "message": {"text": text}}
    return {**found, "locations": [_physical(place)]} if place.file else found


def _physical(place: Location) -> dict[str, Any]:
    """Return a location: files by URI, relative where the path is."""
    path = Path(place.file)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if place.line:
        physical["region"] = {"startLine": place.line, "startColumn": place.column or 1}
    return {"physicalLocation": physical}


FORMATS: Final[Mapping[str, Report]] = {
    "json": as_json,
    "junit": as_junit,
    "tap": as_tap,
    "github": as_github,
    "sarif": as_sarif,
}
"""Every format but the one for people, by its name."""
