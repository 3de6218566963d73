"""Runs test files: each case becomes Envoy's own message and takes the server's walk."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.mould import RepeatedRecord
from audit.record import AuditRecord
from authz.build import load_state
from authz.config_file import load_model
from authz.metrics import Metrics
from authz.peer_settings import mapping_set
from authz.pipeline import Authorizer
from authz.policy_bundle_parts import load_once
from authz.policytest.expect import compare
from authz.policytest.matrix import cases_of
from authz.policytest.message import Messages, broken_test
from authz.policytest.model import Case, PolicyTestFile
from authz.policytest.result import CaseResult, Verdict
from authz.policytest.tokens import TestIssuer
from authz.policytest.why import near_misses
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings
from identity.peer_finding import PeerRules
from identity.token_memory import TokenMemory
from opa_bridge.provider import WatchEngine
from policies.decision import Decision
from policies.diagnostic import LoadError, Location
from policies.documents import YamlList, YamlMap, parse_documents
from policies.mesh import Mesh
from policies.request import Workload

SUFFIX = ".policytest.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A share of a file's tests: the `number`-th of `of`, the tests being cut in order."""

    number: int = 0
    of: int = 1

    def span(self, count: int) -> slice:
        """Return the share of a list of that length."""
        return slice(count * self.number // self.of, count * (self.number + 1) // self.of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How test files are run.

    `mesh` stands in the place of the files' own settings. The tests run whose name `pattern`
    is found in; of those, `part`.
    """

    mesh: Mesh | None = None
    pattern: re.Pattern[str] | None = None
    part: Part = Part()

    def wants(self, name: str) -> bool:
        """Return whether a test of that name is to run."""
        return self.pattern is None or self.pattern.search(name) is not None


class Listener:
    """Hears of everything that a run comes to; this one takes no notice."""

    watch_engine: WatchEngine | None = None
    """Wraps the engine of each Rego provider; None leaves them as they are."""

    def loaded(self, state: ServingState) -> None:
        """Hear of the policies under test, before any case."""

    def decided(self, outcome: Outcome) -> None:
        """Hear of the walk of a case."""


class BrokenPoliciesError(Exception):
    """The policies under test do not load; `diagnostics` are the findings."""

    def __init__(self, cause: LoadError) -> None:
        """Keep the findings."""
        super().__init__(str(cause))
        self.diagnostics = cause.diagnostics


def find_test_files(paths: Sequence[Path]) -> list[Path]:
    """Return the test files: those named, and all below the folders named, in name order.

    Raises:
        LoadError: a path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found.extend(sorted(path.rglob(f"*{SUFFIX}")))
        elif path.is_file():
            found.append(path)
        else:
            raise LoadError([broken_test(Location(str(path)), "no such file or folder")])
    return list(dict.fromkeys(found))


def list_test_file(path: Path) -> Iterator[tuple[str, Location]]:
    """Yield the name of each case and cell with its place; nothing is run.

    Raises:
        LoadError: the test file is wrong.
    """
    suite = load_model(path, PolicyTestFile)
    for case, place in _cases(path, suite):
        yield _name(suite, case), place


def run_test_file(
    path: Path, manner: Manner | None = None, listener: Listener | None = None
) -> Iterator[CaseResult]:
    """Yield the result of each case; without any that is wanted, nothing is even loaded.

    Raises:
        LoadError: the test file itself is wrong.
        BrokenPoliciesError: what it tests does not load.
    """
    manner, listener = manner or Manner(), listener or Listener()
    suite = load_model(path, PolicyTestFile)
    chosen = [each for each in _cases(path, suite) if manner.wants(_name(suite, each[0]))]
    chosen = chosen[manner.part.span(len(chosen))]
    if not chosen:
        return
    state = _load_state(path, suite, manner.mesh or suite.mesh.to_mesh(), listener)
    listener.loaded(state)
    runner = _Runner(suite, state, listener)
    for case, place in chosen:
        yield runner.result(case, place)


class _NoRecord:
    """Where tests are recorded: nowhere."""

    def offer(self, record: AuditRecord | RepeatedRecord) -> None:
        """Forget a record."""


class _Runner:
    """Runs the cases of one file, one after the other."""

    def __init__(self, suite: PolicyTestFile, state: ServingState, listener: Listener) -> None:
        self._suite, self._state, self._listener = suite, state, listener
        self._issuer = TestIssuer()
        self._minted: dict[str, str] = {}
        self._messages = Messages(suite, self._bearer)
        now = suite.clock.timestamp()
        # WHY not the walk alone: an answer that no message can hold is a denial as well.
        self._authorizer = Authorizer(
            state=lambda: state,
            around=Surroundings(
                keys=self._issuer,
                now=lambda: now,
                # A fixture tells all labels there are; where it tells none, there are none.
                static_workload=Workload(namespace=""),
                peer_rules=PeerRules(mappings=mapping_set(suite.mappings)),
                verify_token=TokenMemory().verify,
            ),
            recorder=_NoRecord(),
            metrics=Metrics(),
        )

    def result(self, case: Case, place: Location) -> CaseResult:
        """Return what comes of a case.

        Raises:
            LoadError: it names a fixture that there is none of.
        """
        name = self._suite.metadata.name
        if case.skip:
            return CaseResult(suite=name, case=case.name, location=place, skipped=case.skip)
        message = self._messages.of(case, place)
        begun = time.perf_counter()
        outcome = self._authorizer.outcome(message)
        self._listener.decided(outcome)
        mismatches = tuple(compare(case.expect, outcome))
        return CaseResult(
            suite=name,
            case=case.name,
            location=place,
            verdict=_verdict(outcome.decision),
            mismatches=mismatches,
            pointers=near_misses(case.expect, outcome, self._state) if mismatches else (),
            seconds=time.perf_counter() - begun,
        )

    def _bearer(self, token: str) -> str:
        """Return the compact token of a fixture, minted once."""
        if token not in self._minted:
            suite = self._suite
            self._minted[token] = self._issuer.mint(token, suite.tokens, suite.clock)
        return self._minted[token]


def _verdict(decision: Decision) -> Verdict:
    rule = decision.rule
    return Verdict(
        effect=str(decision.effect),
        status=decision.http_status,
        reason=str(decision.reason),
        detail=decision.detail,
        rule=None if rule is None else rule.name,
        place=None if rule is None else Location(rule.file, rule.line),
    )


def _load_state(path: Path, suite: PolicyTestFile, mesh: Mesh, listener: Listener) -> ServingState:
    base = path.resolve().parent
    providers = tuple(each.made_absolute(base) for each in suite.policies.providers)
    istio = [shown_path(base / each) for each in suite.policies.istio]
    bundles = tuple(each.made_absolute(base) for each in suite.policies.bundles)
    watch = listener.watch_engine
    try:
        return load_once(
            bundles,
            lambda take: load_state(
                istio, mesh, providers, take=take, is_patient=True, watch_engine=watch
            ),
        )
    except LoadError as exc:
        raise BrokenPoliciesError(exc) from exc


def shown_path(path: Path) -> Path:
    """Return a path as people know it: relative to where they stand, when it lies below."""
    resolved, here = path.resolve(), Path.cwd()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else resolved


def _name(suite: PolicyTestFile, case: Case) -> str:
    return f"{suite.metadata.name}/{case.name}"


def _cases(path: Path, suite: PolicyTestFile) -> Iterator[tuple[Case, Location]]:
    """Yield the cases and the cells of matrices, with where they stand; the file was checked."""
    root = parse_documents(path.read_text(encoding="utf-8"), str(path))[0]
    assert isinstance(root, YamlMap)
    yield from zip(suite.cases, _places(root, "cases"), strict=True)
    for matrix, place in zip(suite.matrices, _places(root, "matrices"), strict=True):
        yield from ((case, place) for case in cases_of(matrix))


def _places(root: YamlMap, key: str) -> list[Location]:
    found = root.entries.get(key)
    return [item.location for item in found.items] if isinstance(found, YamlList) else []
