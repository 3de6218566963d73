"""Rego unit tests: the rules `test_*` of a set of modules, on the engine that serves.

Theory of operation. The engine's own `with input as ...` does not survive rules that call
rules, while replacing data works. So for a test run `input` is a document of `data`, in every
module alike, and a test replaces that; so is the time, which stands still until one does.
What a test says in the end is asked as `[data.package.test_x]`, which tells a rule without a
value from one that failed.

Spec: OPA, "Policy Testing": a test passes when its rule is true; `todo_test_*` is skipped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opa_bridge.capabilities import check_modules
from opa_bridge.polyfills import supply_polyfills
from opa_bridge.probe import QUERY_SECONDS, Answer, Probe
from opa_bridge.rego_marks import SIGN, MarkedModules, mark_modules
from opa_bridge.rego_module import Module, chains_of, scan_module
from opa_bridge.scanner import Token, scan_tokens
from opa_bridge.statements import branches_of, rules_of
from policies.diagnostic import Diagnostic, LoadError, Location, Severity, shown

CLOCK: Final = "time.now_ns"
"""The only built-in that `with` may replace in a test, beside anything of `data` and `input`."""
NOW_NS: Final = 1_768_471_200_000_000_000
"""The time of a test that replaces none: 2026-01-15T10:00:00Z, as in `*.policytest.yaml`."""
_TEST: Final = re.compile(r"(todo_)?test_\w*")
_INPUT: Final = "data.meshwarden_test.input"
_NOW: Final = "data.meshwarden_test.now_ns"
_VALUE: Final = "data.meshwarden_test_run.value"
_RUN: Final = "meshwarden_test_run"
_RESERVED: Final = ("meshwarden_test", _RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoTest:
    """One test rule: its package as a dotted path, its name, where it stands.

    Of several clauses each is a test: `test_x`, `test_x#01`. `asked` is the name in the run.
    """

    package: str
    rule: str
    location: Location
    asked: str

    @property
    def is_todo(self) -> bool:
        """Whether it is written down and not yet to be run."""
        return self.rule.startswith("todo_")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoTestResult:
    """What came of a test: `got` is what its rule was, `error` why it could not be told.

    `stops` are the statements at which the test, and rules it came to, went no further.
    """

    test: RegoTest
    passed: bool
    got: str = ""
    error: str = ""
    seconds: float = 0.0
    stops: tuple[Location, ...] = ()


@dataclass(slots=True)
class RegoTests:
    """The tests of some modules (file, source) over one data document.

    A test is stopped after `query_seconds`.
    `hits` counts, after a run that measures, how often each of `marked` was reached.
    """

    modules: Sequence[tuple[str, str]]
    data: Mapping[str, Any]
    query_seconds: float = QUERY_SECONDS
    hits: Counter[int] = field(default_factory=Counter)
    marked: MarkedModules = field(init=False)
    tests: tuple[RegoTest, ...] = field(init=False)
    _named: list[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        """Check the modules.

        Raises:
            LoadError: one cannot be read, or uses what the engine does not have.
        """
        scanned = [scan_module(file, source) for file, source in self.modules]
        modules = [found for found in scanned if isinstance(found, Module)]
        problems = [found for found in scanned if isinstance(found, Diagnostic)]
        problems += check_modules(modules, {CLOCK})
        problems += [_reserved(each) for each in modules if each.package in _RESERVED]
        if any(found.severity is Severity.ERROR for found in problems):
            raise LoadError([each for each in problems if each.severity is Severity.ERROR])
        clauses: Counter[tuple[str, str]] = Counter()
        found = [(module, list(_tests_of(module, clauses))) for module in modules]
        self.tests = tuple(test for _, tests in found for test, _ in tests)
        # Each clause gets a name of its own, as OPA gives it.
        self._named = [
            (module.file, _renamed(module.source, {place: test.asked for test, place in tests}))
            for module, tests in found
        ]
        self.marked = mark_modules(self._named, [file for file, _ in self._named])

    def run(self, tests: Sequence[RegoTest], *, measures: bool = False) -> Iterator[RegoTestResult]:
        """Yield the result of each test; `measures` fills `hits` as well.

        Raises:
            LoadError: the modules do not compile.
        """
        results = [
            _result(test, answer)
            for test, answer in zip(tests, self._ask(self._named, tests), strict=True)
        ]
        # WHY apart: what is told of a test must not hang on how its way is followed.
        followed = [each.test for each in results if measures or not each.passed]
        stops = self._follow(followed)
        for each in results:
            found = stops.get(each.test, ())
            yield each if each.passed or not found else replace(each, stops=found)

    def _ask(
        self, modules: Iterable[tuple[str, str]], tests: Sequence[RegoTest]
    ) -> Iterator[Answer]:
        probe = _probe(modules, self.data, tests)
        probe = replace(probe, query_seconds=self.query_seconds)
        return probe.ask([(n, None) for n in range(len(tests))])

    def _follow(self, tests: Sequence[RegoTest]) -> dict[RegoTest, tuple[Location, ...]]:
        """Return where each test stopped, and count what they came to."""
        found: dict[RegoTest, tuple[Location, ...]] = {}
        try:
            for test, answer in zip(tests, self._ask(self.marked.modules, tests), strict=True):
                ways = ways_printed(answer.printed)
                self.hits.update(number for number, count in ways.items() if count)
                found[test] = tuple(self._stops(ways, test))
        except LoadError:
            # The same modules compiled without marks: the verdicts stand, their way is not known.
            return found
        return found

    def _stops(self, ways: Mapping[int, int], test: RegoTest) -> Iterator[Location]:
        """Yield the statements behind which nothing was reached, those of the test first."""
        marks = self.marked.marks
        numbers = [n for n, count in ways.items() if count and ways.get(n + 1, 1) == 0]
        own = [n for n in numbers if marks[n].file == test.location.file]
        for number in (*own, *(n for n in numbers if n not in own)):
            # The mark of a head follows that of its last statement, and nothing follows it.
            if not marks[number].is_head:
                yield Location(marks[number].file, marks[number].line)


def ways_printed(lines: Iterable[str]) -> dict[int, int]:
    """Return for each mark that was printed, by number, whether a way led there: 1 or 0."""
    found: dict[int, int] = {}
    for line in lines:
        parts = line.split(" ")
        if parts[0] == SIGN and len(parts) == 3:  # sign, mark, ways
            found[int(parts[1])] = max(found.get(int(parts[1]), 0), int(parts[2]))
    return found


def _tests_of(
    module: Module, clauses: Counter[tuple[str, str]]
) -> Iterator[tuple[RegoTest, Token]]:
    """Yield each test of a module with the token of its name; `clauses` counts those before."""
    for rule in rules_of(module.tokens):
        name = rule[0]
        if not _TEST.fullmatch(name.text):
            continue
        number = clauses[module.package, name.text]
        clauses[module.package, name.text] += 1
        test = RegoTest(
            package=module.package.replace("/", "."),
            rule=f"{name.text}#{number:02}" if number else name.text,
            location=Location(module.file, name.line),
            asked=f"{name.text}_{_RUN}_{number}" if number else name.text,
        )
        yield test, name


def _renamed(source: str, names: Mapping[Token, str]) -> str:
    """Return a source with other names where those tokens stand."""
    for token in sorted(names, key=lambda each: each.start, reverse=True):
        source = source[: token.start] + names[token] + source[token.end :]
    return source


def _result(test: RegoTest, answer: Answer) -> RegoTestResult:
    got = "undefined"
    if isinstance(answer.value, list) and answer.value:
        got = _shown(answer.value[0])
    return RegoTestResult(
        test=test,
        passed=answer.value == [True] and answer.value[0] is True,
        got="" if answer.error else got,
        error=answer.error,
        seconds=answer.seconds,
    )


def _shown(value: Any) -> str:
    return shown(json.dumps(value, ensure_ascii=False))


def _probe(
    modules: Iterable[tuple[str, str]], data: Mapping[str, Any], tests: Sequence[RegoTest]
) -> Probe:
    written = [(file, _with_input_as_data(source)) for file, source in modules]
    scanned = (scan_module(file, source) for file, source in written)
    supplied = supply_polyfills(found for found in scanned if isinstance(found, Module))
    return Probe(
        modules=(*supplied, (f"{_RUN}.rego", _run_module(tests))),
        data={**data, "meshwarden_test": {"now_ns": NOW_NS}},
        entrypoints=tuple(f"{_RUN}/t{number}" for number in range(len(tests))),
    )


def _run_module(tests: Sequence[RegoTest]) -> str:
    lines = [f"package {_RUN}", "import rego.v1", "value(x) := x"]
    for number, test in enumerate(tests):
        lines += [f"default t{number} := []", f"t{number} := [data.{test.package}.{test.asked}]"]
    return "\n".join(lines) + "\n"


def _with_input_as_data(source: str) -> str:
    """Return a module whose input and time are documents of data, and whose mocks are calls."""
    tokens = scan_tokens(source)
    edits = [
        (chain.start, chain.start + len("input"), _INPUT)
        for chain in chains_of(tokens)
        if chain.root == "input"
    ]
    for chain in chains_of(tokens):
        if chain.text == CLOCK:
            called = chain.next_sign == "("
            end = tokens[chain.following + 1].end if called else chain.end
            edits.append((chain.start, end, _NOW))
    for rule in rules_of(tokens):
        edits.extend(_wrapped_mocks(rule))
        edits.extend(_braces(rule))
    for begin, end, text in sorted(edits, reverse=True):
        source = source[:begin] + text + source[end:]
    return source


def _wrapped_mocks(tokens: tuple[Token, ...]) -> Iterator[tuple[int, int, str]]:
    """Yield the edits that put names behind `as` into a call.

    WHY: the engine leaves a mock without a value when it is the bare name of a rule.
    """
    for chain in chains_of(tokens):
        if chain.before == "as" and chain.next_sign not in ("(", "[") and chain.root != "input":
            yield chain.start, chain.start, f"{_VALUE}("
            yield chain.end, chain.end, ")"


def _braces(rule: tuple[Token, ...]) -> Iterator[tuple[int, int, str]]:
    """Yield the edits that put bodies without braces into some.

    WHY: the engine does not read `if not ... with ...` without them.
    """
    for branch in branches_of(rule):
        if branch.body and not branch.in_braces:
            yield branch.body[0].start, branch.body[0].start, "{ "
            # Behind whatever else is put in at the same place: edits are made from behind.
            yield branch.body[-1].end, branch.body[-1].end, "}"


def _reserved(module: Module) -> Diagnostic:
    return Diagnostic(
        code="rego.reserved",
        message=f"the package `{module.package}` is reserved for test runs",
        location=Location(module.file, 1),
        help="choose another name",
    )
