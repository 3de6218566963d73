"""Rego unit tests in `policy test`: which modules go together, and what came of each test.

The modules of a test are those of the smallest folder around it in which a package that the
test speaks of is defined, up to the folder that was named; with them their `data.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from authz.policytest.result import CaseResult, Mismatch, Pointer
from authz.policytest.run import Manner, shown_path
from opa_bridge.rego_files import read_data_tree, read_tests_with_modules
from opa_bridge.rego_module import Module, chains_of, scan_module
from opa_bridge.rego_tests import RegoTest, RegoTestResult, RegoTests

SUFFIX: Final = "_test.rego"
_TODO: Final = "todo"


@dataclass(frozen=True, slots=True)
class Unit:
    """Rego tests that are run together: all of some files, with the modules below a folder."""

    folder: Path
    files: list[str] = field(default_factory=list)

    def load(self) -> RegoTests:
        """Return the modules of the unit with their tests.

        Raises:
            LoadError: a module or a data file is wrong.
        """
        return RegoTests(read_tests_with_modules(self.folder), read_data_tree(self.folder))

    def chosen(self, loaded: RegoTests, manner: Manner) -> list[RegoTest]:
        """Return the tests that are wanted, in the order of files and lines."""
        named = [test for test in loaded.tests if test.location.file in self.files]
        return [test for test in named if manner.wants(_name(test))]


def find_units(paths: Sequence[Path]) -> list[Unit]:
    """Return the units below the paths, each file in one of them, in name order."""
    folders: dict[str, Path] = {}
    for path in paths:
        found = [path] if path.name.endswith(SUFFIX) and path.is_file() else []
        if path.is_dir():
            found = sorted(each for each in path.rglob(f"*{SUFFIX}") if not _is_hidden(each, path))
        bound = path if path.is_dir() else path.parent
        for file in found:
            folders.setdefault(str(shown_path(file)), shown_path(_home(file, bound)))
    units: dict[Path, Unit] = {}
    for name, folder in sorted(folders.items()):
        units.setdefault(folder, Unit(folder)).files.append(name)
    return list(units.values())


def list_unit(unit: Unit) -> Iterator[tuple[str, str]]:
    """Yield the name and the place of each test of a unit; nothing is run.

    Raises:
        LoadError: a module is wrong.
    """
    for test in unit.chosen(unit.load(), Manner()):
        yield _name(test), str(test.location)


def run_unit(
    loaded: RegoTests, tests: Sequence[RegoTest], *, measures: bool
) -> Iterator[CaseResult]:
    """Yield the result of each test; `measures` also counts what they came to.

    Raises:
        LoadError: the modules do not compile.
    """
    ran = loaded.run([test for test in tests if not test.is_todo], measures=measures)
    for test in tests:
        if test.is_todo:
            yield CaseResult(
                suite=test.package, case=test.rule, location=test.location, skipped=_TODO
            )
        else:
            yield _result(next(ran))


def _result(result: RegoTestResult) -> CaseResult:
    mismatches: tuple[Mismatch, ...] = ()
    if not result.passed:
        mismatches = (Mismatch("rule", "true", result.error or result.got),)
    return CaseResult(
        suite=result.test.package,
        case=result.test.rule,
        location=result.test.location,
        mismatches=mismatches,
        pointers=tuple(Pointer("went no further than this", place) for place in result.stops),
        seconds=result.seconds,
    )


def _name(test: RegoTest) -> str:
    return f"{test.package}/{test.rule}"


def _is_hidden(file: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(below).parts)


def _home(file: Path, bound: Path) -> Path:
    """Return the folder whose modules a test is run with."""
    test = _scanned(file)
    if test is None:
        return file.parent
    spoken = {
        chain.text.removeprefix("data.").replace(".", "/")
        for chain in chains_of(test.tokens)
        if chain.root == "data"
    }
    spoken.add(test.package)
    folder = file.parent
    while folder != bound and not any(_speaks_of(spoken, each) for each in _packages(folder)):
        folder = folder.parent
    return folder


def _speaks_of(spoken: set[str], package: str) -> bool:
    return any(f"{each}/".startswith(f"{package}/") for each in spoken)


def _packages(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.rego"):
        if not file.name.endswith(SUFFIX):
            module = _scanned(file)
            if module is not None:
                yield module.package


def _scanned(file: Path) -> Module | None:
    try:
        found = scan_module(str(file), file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        # Who loads the module says what is wrong with it.
        return None
    return found if isinstance(found, Module) else None
