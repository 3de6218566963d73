"""Policy sets read the long way: nothing is cut, formed or shared, each policy compiled alone."""

from __future__ import annotations

from collections.abc import Callable

from policies.diagnostic import Diagnostic, LoadError
from policies.load import read_resources
from policies.matchers import compile_policy
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy, PeerAuthentication, RequestAuthentication
from policies.snapshot import Snapshot

Outcome = Snapshot | tuple[Diagnostic, ...]
"""A set, or why it is refused."""


def outcome(build: Callable[[], Snapshot]) -> Outcome:
    """Return what a build comes to."""
    try:
        return build()
    except LoadError as exc:
        return tuple(exc.diagnostics)


def read_whole(texts: list[tuple[str, str]], mesh: Mesh) -> Snapshot:
    """Return the set of `(file name, text)` pairs.

    Raises:
        LoadError: it is refused.
    """
    loaded = read_resources(texts, mesh)
    found = loaded.resources
    own = [each for each in found if isinstance(each, AuthorizationPolicy)]
    own.sort(key=lambda each: (each.metadata.namespace, each.metadata.name))
    return Snapshot(
        mesh=mesh,
        policies=tuple((each, compile_policy(each, mesh)) for each in own),
        request_authentications=tuple(
            each for each in found if isinstance(each, RequestAuthentication)
        ),
        peer_authentications=tuple(each for each in found if isinstance(each, PeerAuthentication)),
        warnings=loaded.warnings,
    )


def told(found: Outcome) -> str:
    """Return all that a set holds, places included, but for what policies were compiled to."""
    if not isinstance(found, Snapshot):
        return repr(found)
    policies = [policy for policy, _ in found.policies]
    others = (found.request_authentications, found.peer_authentications)
    asked = (found.needs, found.needs_service, sorted(found.label_homes))
    return repr((policies, others, found.warnings, asked))
