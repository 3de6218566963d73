"""Rules about issuers and their keys: weak ones, two for one issuer, and rules nobody reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from identity.jwt_rule import JwtRule
from policies.diagnostic import Location, shown
from policies.lint.facts import Facts, resource_name
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.mesh import MeshMode
from policies.model import RequestAuthentication


def _place(resource: RequestAuthentication, jwt: JwtRule) -> Location:
    origin = jwt.origin
    if origin is None:
        return resource.metadata.location
    return Location(origin.file, origin.line, origin.column)


@rule("MW0710")
def one_name_for_two_keys(facts: Facts) -> Iterator[Spot]:
    """A key set in which two keys have one name; the loader finds the weak ones."""
    for resource in facts.request_authentications:
        for index, jwt in enumerate(resource.jwt_rules):
            names = Counter(key["kid"] for key in _keys(jwt.jwks) if _is_named(key))
            for name in (name for name, number in names.items() if number > 1):
                yield Spot(
                    message=f"`{shown(name)}` names several keys of `{shown(jwt.issuer)}`",
                    location=_place(resource, jwt),
                    resource=resource_name(resource),
                    path=f"spec.jwtRules[{index}].jwks",
                )


def _is_named(key: Mapping[str, Any]) -> bool:
    return isinstance(key.get("kid"), str)


def _keys(text: str) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(text)["keys"] if text else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []


@rule("MW0712")
def issuer_twice(facts: Facts) -> Iterator[Spot]:
    """An issuer that two rules of one scope trust with other keys or for other audiences."""
    seen: dict[Any, tuple[RequestAuthentication, JwtRule]] = {}
    for resource in facts.request_authentications:
        labels = frozenset((resource.attachment.selector or {}).items())
        for index, jwt in enumerate(resource.jwt_rules):
            scope = (resource.metadata.namespace, labels, jwt.issuer)
            if resource.attachment.target_refs or not jwt.issuer:
                continue
            first, earlier = seen.setdefault(scope, (resource, jwt))
            if earlier is not jwt and _trust(earlier) != _trust(jwt):
                yield Spot(
                    message=f"`{shown(jwt.issuer)}` is trusted by two rules of one scope, with"
                    " other keys or audiences",
                    location=_place(resource, jwt),
                    resource=resource_name(resource),
                    path=f"spec.jwtRules[{index}].issuer",
                    related=(Related(message="the other one", location=_place(first, earlier)),),
                )


def _trust(jwt: JwtRule) -> tuple[object, ...]:
    return jwt.jwks, jwt.jwks_uri, frozenset(jwt.audiences)


@rule("MW0715")
def unread_in_ambient(facts: Facts) -> Iterator[Spot]:
    """A RequestAuthentication by selector where only waypoints read any."""
    if facts.mesh.mode not in (MeshMode.WAYPOINT, MeshMode.ZTUNNEL):
        return
    for resource in facts.request_authentications:
        if not resource.attachment.target_refs:
            yield Spot(
                message="in ambient mode nothing reads a RequestAuthentication without"
                " `targetRefs`",
                location=resource.metadata.location,
                resource=resource_name(resource),
                path="spec.targetRefs",
            )
