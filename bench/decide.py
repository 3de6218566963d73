"""One decision in process, request to verdict, with few and with many policies.

The same kind of policies throughout: each allows one caller some methods on one path,
every fifth denies a path below. All of them apply to the one workload that is asked
about. Requests go round over policies at the front, in the middle and at the end, and
some match nothing. The goal: many policies cost what few cost.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from authz.serving_state import ServingState
from authz.walk import Surroundings, walk
from bench.harness import Contestant, Goal, judge, measure, publish
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from identity.peer import Peer
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot

_SIZES = (10, 1_000, 10_000)
_LOAD_SECONDS = 5.0
_RATIO = 1.3


class _NoKeys:
    """There are no tokens here."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return nothing."""
        return None


def policy_text(count: int) -> str:
    """Return `count` policies as Istio YAML."""
    return "---\n".join(_policy(number) for number in range(count))


def _policy(number: int) -> str:
    if number % 5 == 4:
        return f"""apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: deny-{number}, namespace: shop}}
spec:
  action: DENY
  rules:
  - to:
    - operation: {{paths: ["/api/v1/service-{number}/private/*"]}}
"""
    return f"""apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow-{number}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  rules:
  - from:
    - source: {{principals: ["cluster.local/ns/shop/sa/caller-{number}"]}}
    to:
    - operation: {{methods: [GET, POST], paths: ["/api/v1/service-{number}/*"]}}
    when:
    - key: request.headers[x-tier]
      values: [gold, silver]
"""


def requests(count: int) -> list[Request]:
    """Return requests that allow, that deny by rule and that match nothing, in equal parts."""
    allowed = [number for number in (0, count // 2, count - 3) if number % 5 != 4]
    shapes = [(number, f"/api/v1/service-{number}/orders?x=1") for number in allowed]
    shapes += [(4, "/api/v1/service-4/private/x"), (1, "/api/v1/service-2/orders")]
    return [_request(caller, path) for caller, path in shapes]


def _request(caller: int, path: str) -> Request:
    headers = {
        ":authority": ("orders.shop.example",),
        ":method": ("GET",),
        ":path": (path,),
        "user-agent": ("orders-web/4.2",),
        "x-request-id": ("5e2ab2f8-44a5-4a3b-9d2a-0f6f2b9d6f11",),
        "x-tier": ("gold",),
    }
    return Request(
        method="GET",
        path=path,
        host="orders.shop.example",
        headers=headers,
        source_ip="10.4.2.17",
        destination_ip="10.4.2.9",
        destination_port=8443,
        destination_principal="spiffe://cluster.local/ns/shop/sa/orders",
        destination_labels={"app": "orders", "version": "v2"},
        workload=Workload(namespace="shop"),
        peer=Peer.from_principal(f"spiffe://cluster.local/ns/shop/sa/caller-{caller}"),
    )


def load(count: int) -> tuple[ServingState, float]:
    """Return the serving state of `count` policies, and the seconds that loading took."""
    text = policy_text(count)
    begun = time.perf_counter()
    snapshot = build_snapshot([("policies.yaml", text)], Mesh())
    state = ServingState(snapshot=snapshot, revision="bench")
    # The first question of a workload builds its index: part of the load.
    state.policies_for(Workload(namespace="shop", labels={"app": "orders", "version": "v2"}))
    return state, time.perf_counter() - begun


def contestant(name: str, state: ServingState, count: int) -> Contestant:
    """Return the contestant that decides one request after the other."""
    around = Surroundings(keys=_NoKeys())
    asked = requests(count)
    effects = {walk(request, state, around).decision.reason for request in asked}
    assert len(effects) == 3, effects
    turn: Iterator[Request] = itertools.cycle(asked)
    run: Callable[[], object] = lambda: walk(next(turn), state, around)  # noqa: E731
    return Contestant(name, run)


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed."""
    contestants = []
    seconds = 0.0
    for count in _SIZES:
        state, seconds = load(count)
        print(f"{count:>6} policies loaded in {seconds:.2f} s")
        contestants.append(contestant(f"{count} policies", state, count))
    goal = Goal(
        name="10,000 policies over 10",
        numerator=f"{_SIZES[-1]} policies",
        denominator=f"{_SIZES[0]} policies",
        limit=_RATIO,
        kind="at_most",
    )
    code = publish(judge("decide", measure(contestants), [goal]))
    if seconds > _LOAD_SECONDS:
        Console().print(f"loading {_SIZES[-1]} policies: {seconds:.2f} s, goal {_LOAD_SECONDS} s")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
