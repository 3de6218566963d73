"""The linter on 2,000 policies in several shapes, held against loading the same policies.

Each shape is linted whole, semantic rules and witnesses included, as `policy lint` does it. A
goal is a ratio to the plain load of the same texts in the same run; the seconds are printed
beside it, and they have to stay below twenty as well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Final

from authz.lint_sources import Given, gather
from bench.harness import Contestant, Goal, judge, measure, publish
from opa_bridge import lint_loading, lint_meaning
from policies.lint.run import LintResult, lint_texts
from policies.load import inspect_resources
from policies.mesh import Mesh

RULE_FILES: Final = (lint_loading, lint_meaning)
"""The files whose import enters the rules about Rego."""

POLICIES: Final = 2000
SECONDS_MOST: Final = 20.0
_DAY: Final = date(2026, 1, 1)
Text = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A way to write 2,000 policies; lint takes at most `limit` times as long as loading them."""

    name: str
    policy: Callable[[int], str]
    limit: float
    workloads: int = 0

    def texts(self) -> list[Text]:
        """Return the files: ten policies in each, and the workloads in one of their own."""
        policies = [self.policy(number) for number in range(POLICIES)]
        files = [
            (f"p{place}.yaml", "---\n".join(policies[place : place + 10]))
            for place in range(0, POLICIES, 10)
        ]
        return [*files, *self._workloads()]

    def _workloads(self) -> Iterator[Text]:
        if self.workloads:
            yield "workloads.yaml", "---\n".join(map(_deployment, range(self.workloads)))


def _policy(number: int, namespace: str, app: str, action: str, rules: str) -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata:\n  name: p{number}\n  namespace: {namespace}\n"
        f"spec:\n  selector:\n    matchLabels:\n      app: {app}\n  action: {action}\n"
        f"  rules:\n{rules}"
    )


def _deployment(number: int) -> str:
    return (
        "apiVersion: apps/v1\nkind: Deployment\n"
        f"metadata:\n  name: app{number}\n  namespace: ns{number % 50}\n"
        f"spec:\n  template:\n    metadata:\n      labels:\n        app: app{number}\n"
        f"    spec:\n      serviceAccountName: app{number}\n"
    )


def _rule(principals: list[str], paths: list[str], methods: str = '"GET"') -> str:
    who = "".join(f"        - cluster.local/ns/{each}\n" for each in principals)
    what = "".join(f"        - {each}\n" for each in paths)
    return (
        f"  - from:\n    - source:\n        principals:\n{who}"
        f"    to:\n    - operation:\n        methods: [{methods}]\n        paths:\n{what}"
    )


def _one_workload(number: int) -> str:
    rule = _rule([f"web/sa/caller{number}"], [f"/api/v{number}/*"])
    return _policy(number, "shop", "orders", "ALLOW", rule)


def _spread(number: int) -> str:
    app = number % 200
    action = "DENY" if number % 10 == 9 else "ALLOW"
    rule = _rule([f"ns{number % 50}/sa/app{number % 97}"], [f"/part{number}/*"])
    return _policy(number, f"ns{app % 50}", f"app{app}", action, rule)


def _long_lists(number: int) -> str:
    paths = [f"/part{number}/item{place}/*" for place in range(60)]
    principals = [f"web/sa/c{number}-{place}" for place in range(40)]
    app = number % 200
    return _policy(number, f"ns{app % 50}", f"app{app}", "ALLOW", _rule(principals, paths))


def _shadows(number: int) -> str:
    path = "/api/*" if number % 20 == 0 else f"/api/part{number}"
    app = number // 20 % 100
    return _policy(number, f"ns{app % 50}", f"app{app}", "ALLOW", _rule(["web/sa/front"], [path]))


def _exclusions(number: int) -> str:
    rule = f"  - from:\n    - source:\n        notNamespaces: [ns{number}]\n"
    return _policy(number, "shop", "orders", "ALLOW" if number % 2 else "DENY", rule)


def _prefixes(number: int) -> str:
    rules = "".join(
        f"  - to:\n    - operation:\n        paths: [/{number}/part{place}/*]\n"
        f"        methods: [GET, POST]\n        ports: ['8080']\n"
        for place in range(4)
    )
    return _policy(number, "shop", "orders", "DENY" if number % 2 else "ALLOW", rules)


SHAPES: Final = (
    Shape(name="one workload", policy=_one_workload, limit=5.0),
    Shape(name="200 workloads, 50 namespaces", policy=_spread, limit=6.0, workloads=200),
    Shape(name="100 values a policy", policy=_long_lists, limit=5.0, workloads=200),
    Shape(name="1,900 shadows", policy=_shadows, limit=10.0, workloads=100),
    Shape(name="exclusions alone", policy=_exclusions, limit=8.0),
    Shape(name="8,000 rules on prefixes", policy=_prefixes, limit=6.0),
)


def lint(texts: list[Text], mesh: Mesh) -> LintResult:
    """Lint as the command does."""
    return lint_texts(texts, gather(texts, mesh, Given()), _DAY)


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed."""
    contestants: list[Contestant] = []
    goals: list[Goal] = []
    is_late = False
    for shape in SHAPES:
        texts, mesh = shape.texts(), Mesh()
        begin = time.perf_counter()
        result = lint(texts, mesh)
        seconds = time.perf_counter() - begin
        is_late = is_late or seconds > SECONDS_MOST
        print(f"{shape.name}: {POLICIES} policies linted in {seconds:.1f} s "
              f"(at most {SECONDS_MOST:.0f}), {len(result.findings)} findings")  # fmt: skip
        contestants += [
            Contestant(f"load: {shape.name}", partial(inspect_resources, texts, mesh)),
            Contestant(f"lint: {shape.name}", partial(lint, texts, mesh)),
        ]
        goals.append(
            Goal(
                name=f"lint over load: {shape.name}",
                numerator=f"lint: {shape.name}",
                denominator=f"load: {shape.name}",
                limit=shape.limit,
                kind="at_most",
            )
        )
    missed = publish(judge("lint", measure(contestants, rounds=3), goals))
    return missed or int(is_late)


if __name__ == "__main__":
    sys.exit(main())
