"""Runs test files: each case becomes Envoy's own message and takes the server's walk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from authz.build import load_state
from authz.check_request import decode_check_request
from authz.config_file import load_model
from authz.peer_settings import mapping_set
from authz.policy_bundle_parts import load_once
from authz.policytest.expect import Mismatch, compare
from authz.policytest.matrix import cases_of
from authz.policytest.model import Case, PolicyTestFile, RequestFixture
from authz.policytest.tokens import FixtureError, TestIssuer
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings, walk
from authz.workload import NAMESPACE_EXTENSION, SERVICE_ACCOUNT_EXTENSION
from identity.peer_finding import PeerRules
from identity.token_memory import TokenMemory
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.documents import YamlList, YamlMap, parse_documents
from policies.mesh import Mesh

SUFFIX = ".policytest.yaml"

Fixture = TypeVar("Fixture")


def _everything(name: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case that ran. It passed when nothing mismatches."""

    suite: str
    case: Case
    location: Location
    outcome: Outcome
    mismatches: tuple[Mismatch, ...]
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """`suite/case`, what `--run` looks at."""
        return case_name(self.suite, self.case)

    @property
    def passed(self) -> bool:
        """Whether everything expected held."""
        return not self.mismatches


def case_name(suite: str, case: Case) -> str:
    """Return the name of a case in lists and filters."""
    return f"{suite}/{case.name}"


class BrokenPoliciesError(Exception):
    """The policies under test do not load; `cause` has the findings."""

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
            raise LoadError([_broken(Location(str(path)), "no such file or folder")])
    return list(dict.fromkeys(found))


def list_test_file(path: Path) -> Iterator[tuple[str, Location]]:
    """Yield the name of each case and cell with its place; nothing is run.

    Raises:
        LoadError: the test file is wrong.
    """
    suite = load_model(path, PolicyTestFile)
    for case, place in _cases(path, suite):
        yield case_name(suite.metadata.name, case), place


def run_test_file(
    path: Path, mesh: Mesh | None = None, wanted: Callable[[str], bool] = _everything
) -> Iterator[CaseResult]:
    """Yield the result of each case; a `mesh` stands in the place of the file's own settings.

    `wanted` says by name which cases run; without any, the policies are not even loaded.

    Raises:
        LoadError: the test file itself is wrong.
        BrokenPoliciesError: what it tests does not load.
    """
    suite = load_model(path, PolicyTestFile)
    name = suite.metadata.name
    chosen = [each for each in _cases(path, suite) if wanted(case_name(name, each[0]))]
    if not chosen:
        return
    state = _load_state(path, suite, mesh or suite.mesh.to_mesh())
    issuer = TestIssuer()
    now = suite.clock.timestamp()
    rules = PeerRules(mappings=mapping_set(suite.mappings))
    memory = TokenMemory()
    around = Surroundings(
        keys=issuer, now=lambda: now, peer_rules=rules, verify_token=memory.verify
    )
    minted: dict[str, str] = {}
    for case, place in chosen:
        message = _message(suite, case, place, lambda token: _bearer(token, suite, issuer, minted))
        begun = time.perf_counter()
        outcome = walk(decode_check_request(message), state, around)
        yield CaseResult(
            suite=name,
            case=case,
            location=place,
            outcome=outcome,
            mismatches=tuple(compare(case.expect, outcome)),
            seconds=time.perf_counter() - begun,
        )


def _load_state(path: Path, suite: PolicyTestFile, mesh: Mesh) -> ServingState:
    base = path.resolve().parent
    providers = tuple(each.made_absolute(base) for each in suite.policies.providers)
    istio = [_shown(base / each) for each in suite.policies.istio]
    bundles = tuple(each.made_absolute(base) for each in suite.policies.bundles)
    try:
        return load_once(
            bundles, lambda take: load_state(istio, mesh, providers, take=take, is_patient=True)
        )
    except LoadError as exc:
        raise BrokenPoliciesError(exc) from exc


def _shown(path: Path) -> Path:
    """Return a path as people know it: relative to where they stand, when it lies below."""
    resolved, here = path.resolve(), Path.cwd()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else resolved


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


def _bearer(token: str, suite: PolicyTestFile, issuer: TestIssuer, minted: dict[str, str]) -> str:
    """Return the compact token of a fixture, minted once."""
    if token not in minted:
        minted[token] = issuer.mint(token, suite.tokens, suite.clock)
    return minted[token]


def _message(
    suite: PolicyTestFile, case: Case, place: Location, mint: Callable[[str], str]
) -> bytes:
    """Return the CheckRequest that Envoy would send for a case."""
    peer = _fixture(case.from_, suite.defaults.from_, suite.identities, "identity", place)
    workload = _fixture(case.to, suite.defaults.to, suite.workloads, "workload", place)
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = peer.spiffe
    attributes.source.address.socket_address.address = peer.ip
    attributes.destination.address.socket_address.port_value = workload.port
    attributes.destination.labels.update(workload.labels)
    attributes.context_extensions[NAMESPACE_EXTENSION] = workload.namespace
    attributes.context_extensions[SERVICE_ACCOUNT_EXTENSION] = workload.service_account
    attributes.request.time.FromDatetime(suite.clock)
    token = case.token if "token" in case.model_fields_set else suite.defaults.token
    bearer = ""
    if token is not None:
        try:
            bearer = mint(token)
        except FixtureError as exc:
            raise LoadError([_broken(place, str(exc))]) from exc
    _fill_http(message, case.request, bearer)
    return bytes(message.SerializeToString())


def _fill_http(message: CheckRequest, request: RequestFixture, bearer: str) -> None:
    http = message.attributes.request.http
    http.method, http.path, http.host = request.method, request.path, request.host
    http.scheme, http.protocol = "https", "HTTP/1.1"
    headers: list[tuple[str, str]] = [
        (":method", request.method),
        (":path", request.path),
        (":authority", request.host),
    ]
    for name, value in request.headers.items():
        values = (value,) if isinstance(value, str) else value
        headers.extend((name.lower(), each) for each in values)
    if bearer:
        headers.append(("authorization", f"Bearer {bearer}"))
    for name, value in headers:
        http.header_map.headers.add(key=name, raw_value=value.encode())


def _fixture(
    name: str | None, default: str, known: Mapping[str, Fixture], kind: str, place: Location
) -> Fixture:
    wanted = name or default
    if wanted not in known:
        raise LoadError(
            [_broken(place, f"no {kind} `{wanted}` is defined", f"known: {', '.join(known)}")]
        )
    return known[wanted]


def _broken(location: Location, message: str, help_: str = "") -> Diagnostic:
    return Diagnostic(code="broken-test", message=message, location=location, help=help_)
