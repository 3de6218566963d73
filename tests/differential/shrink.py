"""From a difference to the least that still shows it: one policy, one request, no more.

Each round makes every candidate that has one thing less, tries all of them, and goes
on with the first that still differs in the same way. Policy candidates go to Envoy in
one push a round; request candidates need none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from tests.differential.known import explanation
from tests.differential.model import Difference, PolicySet, Probe
from tests.differential.trial import Standing

_ROUNDS = 40
_IN_ONE_PUSH = 40
_PARTS = (
    "tokens", "sni", "client", "destination", "method", "host", "source", "target", "peer",
    "scheme",
)  # fmt: skip
_KEPT_KEYS = frozenset(
    {"apiVersion", "kind", "metadata", "name", "namespace", "key", "spec", "issuer", "jwks"}
)


class Sides(Protocol):
    """Both sides of a trial, as far as the shrinker needs them."""

    def stand(self, sets: Sequence[PolicySet], /) -> list[Standing]:
        """Put policy sets up on both sides, those that neither refuses."""
        ...

    def compare(self, standing: Standing, probe: Probe, /) -> Difference | None:
        """Return the difference that one probe shows, if any."""
        ...


def shrink(trial: Sides, found: Difference, seconds: float = 60.0) -> Difference:
    """Return the least difference of this kind, as far as rounds and seconds go."""
    end = time.monotonic() + seconds
    for _ in range(_ROUNDS):
        if time.monotonic() > end:
            break
        smaller = _smaller(trial, found)
        if smaller is None:
            break
        found = smaller
    return found


def _smaller(trial: Sides, found: Difference) -> Difference | None:
    """Return the difference on a smaller policy set with the least request for it, or None."""
    standing = trial.stand([found.policies])
    if not standing:
        return None
    shrunk = _least_probe(trial, standing[0], found)
    candidates = list(policy_candidates(found.policies))
    for at in range(0, len(candidates), _IN_ONE_PUSH):
        for smaller in trial.stand(candidates[at : at + _IN_ONE_PUSH]):
            difference = _same(trial, smaller, shrunk.probe, found)
            if difference is not None:
                return difference
    return shrunk if shrunk.probe != found.probe else None


def _least_probe(trial: Sides, standing: Standing, found: Difference) -> Difference:
    """Return the difference with the least request on this policy set."""
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for probe in probe_candidates(found.probe):
            difference = _same(trial, standing, probe, found)
            if difference is not None:
                found, is_smaller = difference, True
                break
    return found


def _same(trial: Sides, standing: Standing, probe: Probe, found: Difference) -> Difference | None:
    """Return the difference if both sides answer as they did, and it is as unexplained."""
    now = trial.compare(standing, probe)
    if now is None or explanation(now) != explanation(found):
        return None
    statuses = (now.envoy.status, now.ours.status)
    return now if statuses == (found.envoy.status, found.ours.status) else None


def probe_candidates(probe: Probe) -> Iterator[Probe]:
    """Yield requests with one thing less than this one."""
    for number in range(len(probe.headers)):
        yield replace(probe, headers=probe.headers[:number] + probe.headers[number + 1 :])
    yield from _with_a_default(probe)
    yield from _with_a_shorter_text(probe)
    for number, token in enumerate(probe.tokens):
        for claim in token.get("claims", {}):
            kept = {key: value for key, value in token["claims"].items() if key != claim}
            tokens = (
                *probe.tokens[:number],
                {**token, "claims": kept},
                *probe.tokens[number + 1 :],
            )
            yield replace(probe, tokens=tokens)


def _with_a_default(probe: Probe) -> Iterator[Probe]:
    """Yield requests in which one part is as in a request that says nothing."""
    default = Probe()
    for name in _PARTS:
        if getattr(probe, name) == getattr(default, name):
            continue
        smaller = replace(probe, **{name: getattr(default, name)})
        if name == "source":
            smaller = replace(smaller, destination="", client="")
        if name == "destination":
            smaller = replace(smaller, client="")
        if name == "peer":
            smaller = replace(smaller, sni="")
        yield smaller


def _with_a_shorter_text(probe: Probe) -> Iterator[Probe]:
    """Yield requests with a character less in target or header; texts with tokens stay."""
    if "?" in probe.target:
        yield replace(probe, target=probe.target.partition("?")[0])
    if "{token" not in probe.target:
        for at in range(1, len(probe.target)):
            yield replace(probe, target=probe.target[:at] + probe.target[at + 1 :])
    for number, (name, value) in enumerate(probe.headers):
        if "{token" in value:
            continue
        for at in range(len(value)):
            headers = list(probe.headers)
            headers[number] = (name, value[:at] + value[at + 1 :])
            yield replace(probe, headers=tuple(headers))


def policy_candidates(policies: PolicySet) -> Iterator[PolicySet]:
    """Yield policy sets with one thing less than this one."""
    for name in policies.mesh:
        if name != "tcp":
            yield replace(
                policies, mesh={key: v for key, v in policies.mesh.items() if key != name}
            )
    plain = [dict(each) for each in policies.resources]
    for smaller in _without_one(plain):
        yield replace(policies, resources=tuple(smaller))


def _without_one(value: Any) -> Iterator[Any]:
    """Yield the value with one list item or one key less, outermost first."""
    if isinstance(value, list):
        for at in range(len(value)):
            if len(value) > 1 or isinstance(value[at], dict):
                yield value[:at] + value[at + 1 :]
        for at, item in enumerate(value):
            for smaller in _without_one(item):
                yield [*value[:at], smaller, *value[at + 1 :]]
    elif isinstance(value, dict):
        for key in value:
            if key not in _KEPT_KEYS:
                yield {name: item for name, item in value.items() if name != key}
        for key, item in value.items():
            for smaller in _without_one(item):
                yield {**value, key: smaller}
