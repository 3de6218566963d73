"""What does a case of a policy test cost, beside the walk that it tests?

The goal of `policy test` is a matrix of 10,000 cells in under five seconds, start and report
included; as a ratio: a case costs no more than a few times the walk itself, so that what
people wait for is their policies.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from authz.policytest.run import Listener, run_test_file
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings, walk
from bench.harness import Contestant, Goal, judge, measure, publish
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from policies.request import Request

_PATHS = 500
_CELLS = 10_000
_SECONDS = 5.0
_RATIO = 3.0
_ISSUER = "https://idp.test"


class _NoKeys:
    """No tokens are in the requests that are walked alone."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return nothing."""
        return None


class _Kept(Listener):
    """Keeps the state of a run, and the requests it saw."""

    def __init__(self) -> None:
        self.state: ServingState | None = None
        self.requests: list[Request] = []

    def loaded(self, state: ServingState) -> None:
        """Keep the policies."""
        self.state = state

    def decided(self, outcome: Outcome) -> None:
        """Keep the request."""
        self.requests.append(outcome.request)


def resources() -> Iterator[dict[str, Any]]:
    """Yield the policies: tokens are verified, one DENY, and an ALLOW for every tenth path."""
    # The test's own key stands for whatever is there.
    rules = [{"issuer": _ISSUER, "jwksUri": f"{_ISSUER}/keys"}]
    yield _resource("RequestAuthentication", "idp", {"jwtRules": rules})
    deny = {"to": [{"operation": {"methods": ["DELETE"], "notPaths": ["/p0"]}}]}
    yield _resource("AuthorizationPolicy", "deny", {"action": "DENY", "rules": [deny]})
    for number in range(0, _PATHS, 10):
        rule = {
            "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": [f"/p{number}"]}}],
            "when": [{"key": "request.auth.claims[sub]", "values": ["alice"]}],
        }
        yield _resource("AuthorizationPolicy", f"allow-{number}", {"rules": [rule]})


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def suite(paths: int, tokens: list[str | None]) -> dict[str, Any]:
    """Return a test file with one matrix of ten cells for each path and token."""
    matrix = {
        "name": "who reads what",
        "from": ["web", "nobody"],
        "token": tokens,
        "method": ["GET", "HEAD", "POST", "PUT", "DELETE"],
        "path": [f"/p{number}" for number in range(paths)],
        "allow": [
            {"from": "web", "token": "alice", "method": "GET", "path": f"/p{number}"}
            for number in range(0, paths, 10)
            if "alice" in tokens
        ],
    }
    return {
        "apiVersion": "policy.test/v1",
        "kind": "PolicyTest",
        "metadata": {"name": "bench"},
        "policies": {"istio": ["policies.yaml"]},
        "workloads": {"shop": {"namespace": "shop"}},
        "identities": {
            "web": {"spiffe": "spiffe://cluster.local/ns/shop/sa/web"},
            "nobody": {"plaintext": True},
        },
        "tokens": {"alice": {"issuer": _ISSUER, "sub": "alice"}},
        "defaults": {"to": "shop"},
        "matrices": [matrix],
    }


def write(folder: Path, tokens: list[str | None]) -> Path:
    """Write policies and test file; return the test file."""
    folder.mkdir()
    (folder / "policies.yaml").write_text(yaml.safe_dump_all(resources()), encoding="utf-8")
    file = folder / "bench.policytest.yaml"
    file.write_text(yaml.safe_dump(suite(_PATHS, tokens)), encoding="utf-8")
    return file


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="meshwarden-bench-") as name:
        folder = Path(name)
        # A walk alone has no issuer to verify tokens by, so the two are compared without.
        code = _against_the_walk(write(folder / "bare", [None]))
        seconds, busy = _whole_command(write(folder / "whole", ["alice", None]))
    told = f"{seconds:.1f} s, {busy:.1f} s of it a processor's, goal {_SECONDS:.0f} s"
    Console().print(f"{_CELLS} cells, start and report included: {told}")
    return code if seconds <= _SECONDS else 1


def _against_the_walk(file: Path) -> int:
    kept = _Kept()
    results = list(run_test_file(file, listener=kept))
    assert all(result.passed for result in results)
    assert kept.state is not None
    state, around = kept.state, Surroundings(keys=_NoKeys())
    requests = itertools.cycle(kept.requests)
    running = itertools.chain.from_iterable(run_test_file(file) for _ in itertools.count())
    next(running)
    goal = Goal(
        name="case over walk",
        numerator="run a case",
        denominator="walk its request",
        limit=_RATIO,
        kind="at_most",
    )
    contestants = [
        Contestant("walk its request", lambda: walk(next(requests), state, around)),
        Contestant("run a case", lambda: next(running)),
    ]
    return publish(judge("policytest", measure(contestants), [goal]))


def _whole_command(file: Path) -> tuple[float, float]:
    """Return the seconds of `policy test` in a process of its own, and those of a processor."""
    command = [str(Path(sys.executable).with_name("policy")), "test", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    begun, before = time.perf_counter(), _busy_seconds()
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, busy = time.perf_counter() - begun, _busy_seconds() - before
    assert ran.stdout.splitlines()[-1] == f"{_CELLS} passed, 0 failed"
    return seconds, busy


def _busy_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
