"""What is wrong with policy texts: what loading finds, and what the mesh makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from identity.errors import KeySourceError
from identity.jwks import parse_jwk_set
from policies.diagnostic import Diagnostic, LoadError
from policies.load import read_resources
from policies.mesh import Mesh
from policies.model import RequestAuthentication, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The findings in reading order, and how many resources there are when none is an error."""

    findings: tuple[Diagnostic, ...]
    resources: int = 0


def validate_texts(texts: Iterable[tuple[str, str]], mesh: Mesh) -> Validation:
    """Return every finding about `(file name, text)` pairs in a mesh."""
    try:
        loaded = read_resources(texts, mesh)
    except LoadError as exc:
        return Validation(findings=exc.diagnostics)
    findings = [*loaded.warnings]
    for resource in loaded.resources:
        findings.extend(_unusable_keys(resource))
    return Validation(
        findings=tuple(sorted(findings, key=lambda found: found.location)),
        resources=len(loaded.resources),
    )


def _unusable_keys(resource: Resource) -> Iterator[Diagnostic]:
    """Yield an error for each inline key set that the server would not take."""
    if not isinstance(resource, RequestAuthentication):
        return
    for index, rule in enumerate(resource.jwt_rules):
        try:
            if rule.jwks:
                parse_jwk_set(rule.jwks, is_inline=True)
        except KeySourceError as exc:
            yield Diagnostic(
                code="bad-jwks",
                message=str(exc),
                location=resource.metadata.location,
                path=f"spec.jwtRules[{index}].jwks",
                resource=_name(resource),
            )


def _name(resource: Resource) -> str:
    metadata = resource.metadata
    return f"{type(resource).__name__}/{metadata.namespace}/{metadata.name}"
