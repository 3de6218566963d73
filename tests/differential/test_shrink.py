"""The comparison can fail: a side that lies is found, and what shows it is cut to the least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import yaml

from tests.differential.cases import case_of
from tests.differential.model import Answer, Difference, PolicySet, Probe
from tests.differential.policy_maker import make_set
from tests.differential.probe_maker import make_probes
from tests.differential.shrink import shrink
from tests.differential.trial import Standing

BIG = PolicySet(
    name="big",
    mesh={"trust_domain": "td1", "path_normalization": "NONE"},
    resources=(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p0", "namespace": "foo"},
            "spec": {
                "rules": [
                    {"from": [{"source": {"namespaces": ["foo", "bar"]}}]},
                    {
                        "to": [
                            {"operation": {"paths": ["/a"]}},
                            {
                                "operation": {
                                    "hosts": ["x.example", "Shop.test"],
                                    "ports": ["80"],
                                }
                            },
                        ]
                    },
                ]
            },
        },
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p1", "namespace": "foo"},
            "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["PUT"]}}]}]},
        },
    ),
)
PROBE = Probe(
    method="POST",
    target="/some/where?x=1",
    host="shop.TEST",
    headers=(("x-role", "admin"), ("x-token", "abc")),
    peer="sleep",
    sni="a.example",
    tokens=({"claims": {"iss": "a", "sub": "b"}},),
)


def hosts_of(value: Any) -> list[str]:
    """Every host that any rule of plain data allows."""
    if isinstance(value, dict):
        own = value.get("hosts", [])
        return [*own, *(host for item in value.values() for host in hosts_of(item))]
    if isinstance(value, list | tuple):
        return [host for item in value for host in hosts_of(item)]
    return []


@dataclass
class LyingSides:
    """Two sides that know hosts only; ours does not fold case, as Envoy does."""

    pushes: int = 0

    def stand(self, sets: Sequence[PolicySet], /) -> list[Standing]:
        """Take every set."""
        self.pushes += 1
        missing = cast(Any, None)
        return [
            Standing(policies=each, snapshot=missing, native=missing, ours=missing) for each in sets
        ]

    def compare(self, standing: Standing, probe: Probe, /) -> Difference | None:
        """Answer both sides from the hosts alone."""
        hosts = hosts_of(list(standing.policies.resources))
        host = probe.host or ""
        envoy = 200 if host.lower() in [each.lower() for each in hosts] else 403
        ours = 200 if host in hosts else 403
        if envoy == ours:
            return None
        return Difference(
            policies=standing.policies,
            probe=probe,
            envoy=Answer(status=envoy),
            ours=Answer(status=ours),
        )


def test_a_lie_is_shrunk_to_what_shows_it() -> None:
    """One policy, one rule, one host and the host of the request are left, and nothing else."""
    sides = LyingSides()
    (standing,) = sides.stand([BIG])
    found = sides.compare(standing, PROBE)
    assert found is not None

    least = shrink(sides, found)

    assert {"host": "shop.TEST"} == least.probe.plain()
    (policy,) = least.policies.resources
    assert [{"to": [{"operation": {"hosts": ["Shop.test"]}}]}] == policy["spec"]["rules"]
    assert {} == least.policies.mesh
    assert (200, 403) == (least.envoy.status, least.ours.status)


def test_a_found_difference_prints_as_a_case() -> None:
    """What is printed can be put into `cases/` as it stands, and is the same trial again."""
    found = Difference(
        policies=BIG,
        probe=PROBE,
        envoy=Answer(status=200),
        ours=Answer(status=403, why="deny"),
    )

    (plain,) = yaml.safe_load(str(found))
    case = case_of(plain)

    assert (BIG, ((PROBE, None),)) == (case.policies, case.requests)


def test_a_seed_names_sets_and_requests_for_good() -> None:
    """Two runs with one seed try the same."""
    first, second = make_set("seed-1"), make_set("seed-1")

    assert first == second
    assert make_probes(first, 20, "p") == make_probes(second, 20, "p")
    assert make_set("seed-2") != first


def test_a_probe_survives_its_case() -> None:
    """Whatever the generator makes can be written down and read back."""
    for number in range(20):
        policies = make_set(f"written-{number}")
        for probe in make_probes(policies, 10, "p"):
            found = Difference(
                policies=policies, probe=probe, envoy=Answer(status=0), ours=Answer(status=1)
            )
            case = case_of(yaml.safe_load(str(found))[0])

            assert (policies, ((probe, None),)) == (case.policies, case.requests)
