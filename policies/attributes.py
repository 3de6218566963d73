"""The table of attributes: which values a condition may hold, and what it is tested on.

Spec: Istio AuthorizationPolicy reference, "Source", "Operation" and
"Authorization Policy Conditions". One row for a key; checking happens at load,
so a test that was built cannot fail on a request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from policies.mesh import Mesh, MeshMode
from policies.path_template import is_template, template_matcher, template_problem
from policies.request import Request
from policies.request_attributes import (
    claim_values,
    filter_metadata_test,
    header_texts,
    joined_header,
    remote_ip,
    request_principal_matcher,
    unmapped,
)
from policies.string_match import (
    TextTest,
    head_of,
    header_matcher,
    host_matcher,
    namespace_matcher,
    namespace_pattern,
    pattern_problem,
    principal_matcher,
    principal_name,
    service_account_matcher,
    text_matcher,
    trust_domain_matcher,
    trust_domain_pattern,
)
from policies.trust_domain import expand_principal, expand_trust_domain
from policies.ztunnel_match import l4_namespace, l4_principal, l4_service_account

RequestTest = Callable[[Request], bool]
"""A predicate over a request."""

_PORT_MAX = 65535
_ACCOUNT_MAX = 320
# "Envoy 1.38: a header matcher is tried on each value of a repeated header."
_EACH_VALUE_SINCE = (1, 38)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the meaning of a value depends on besides the value.

    `wide` says which way to err where Envoy's message does not tell enough:
    a condition that lets requests in must not match by guess, one that keeps
    them out must. It flips under negation.
    """

    mesh: Mesh
    namespace: str
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute: `problem(value)` is why a value is refused, `test` builds the predicate.

    `is_http` says that only HTTP brings it. `is_untranslatable` marks a spelling
    that admission takes and the control plane cannot translate: it never counts.
    """

    problem: Callable[[str], str]
    test: Callable[[str, Scope], RequestTest]
    is_peer: bool = False
    is_token: bool = False
    is_http: bool = False
    is_untranslatable: bool = False


def attribute_for(key: str) -> Attribute | None:
    """Return the row for a key, or None when Istio knows no such key."""
    if key in _TABLE:
        return _TABLE[key]
    for prefix, build in _BRACKETED:
        if key.startswith(prefix):
            return build(key[len(prefix) :])
    return None


def known_keys() -> tuple[str, ...]:
    """Return the spellings a `when` entry may use, for help texts."""
    plain = tuple(key for key in _TABLE if not key.startswith("operation."))
    return plain + tuple(f"{prefix}[...]" for prefix, _ in _BRACKETED)


# -- problems -----------------------------------------------------------------------------------


def _any_text(value: str) -> str:
    return ""


def _cidr_problem(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return "not an IP address or CIDR range"
    # Go's netip knows no dotted netmasks.
    mask = value.partition("/")[2]
    if mask and not re.fullmatch(r"0|[1-9][0-9]{0,2}", mask, re.ASCII):
        return "not an IP address or CIDR range"
    return "an IPv6 zone is not allowed in a range" if "%" in value else ""


def _port_problem(value: str) -> str:
    is_number = re.fullmatch(r"[0-9]{1,10}", value, re.ASCII)
    return "" if is_number and int(value) <= _PORT_MAX else "not a port from 0 to 65535"


def _account_problem(value: str) -> str:
    if "*" in value:
        return "service accounts take no `*`"
    if value.count("/") > 1 or value.startswith("/") or value.endswith("/"):
        return "not of the form `<account>` or `<namespace>/<account>`"
    return f"longer than {_ACCOUNT_MAX} characters" if len(value) > _ACCOUNT_MAX else ""


def _trust_domain_problem(value: str) -> str:
    if value.count("*") > 1:
        return "at most one `*` is allowed"
    if "*" in value and not (value.startswith("*") or value.endswith("*")):
        return "`*` may only stand at the start or the end"
    return pattern_problem(trust_domain_pattern(value)) if len(value) > 1 and "*" in value else ""


def _principal_problem(value: str) -> str:
    # Only a suffix becomes a regex, `spiffe://.*<rest>`.
    return pattern_problem(value) if value.startswith("*") else ""


def _namespace_problem(value: str) -> str:
    return pattern_problem(namespace_pattern(value))


# -- tests --------------------------------------------------------------------------------------


def _on_peer(matcher: Callable[[str, Scope], TextTest]) -> Callable[[str, Scope], RequestTest]:
    """Lift a text test to the peer's identity; without a peer it is false."""

    def build(value: str, scope: Scope) -> RequestTest:
        test = matcher(value, scope)
        return lambda request: request.peer is not None and any(map(test, request.peer.names))

    return build


def _on_workload(matcher: Callable[[str, Scope], TextTest]) -> Callable[[str, Scope], RequestTest]:
    """Lift a text test to the names that tell the peer's workload, which mappings may make."""

    def build(value: str, scope: Scope) -> RequestTest:
        test, wide = matcher(value, scope), scope.wide
        return lambda request: (
            request.peer is not None and any(map(test, request.peer.workload_names(wide=wide)))
        )

    return build


def _or_in_ztunnel(
    in_proxies: Callable[[str, Scope], RequestTest], in_ztunnel: Callable[[str, Scope], RequestTest]
) -> Callable[[str, Scope], RequestTest]:
    """Return the builder for proxies, and in ztunnel's mode the other one."""

    def build(value: str, scope: Scope) -> RequestTest:
        is_ztunnel = scope.mesh.mode is MeshMode.ZTUNNEL
        return in_ztunnel(value, scope) if is_ztunnel else in_proxies(value, scope)

    return build


def _any_of(tests: list[TextTest]) -> TextTest:
    return tests[0] if len(tests) == 1 else lambda text: any(test(text) for test in tests)


# WHY classes: nearly every principal is a whole name and every path a prefix, a set has thousands
# of either, and such a predicate takes a fifth of the memory of a function.


@dataclass(frozen=True, slots=True)
class PeerIs:
    """Whether a peer has one name."""

    name: str

    def __call__(self, request: Request) -> bool:
        """Whether it is among those of the request's peer."""
        return request.peer is not None and self.name in request.peer.names


@dataclass(frozen=True, slots=True)
class PathBegins:
    """Whether a path begins with a text."""

    head: str

    def __call__(self, request: Request) -> bool:
        """Whether that of the request does."""
        return bool(request.path) and request.path_only.startswith(self.head)


def _principal(value: str, scope: Scope) -> RequestTest:
    expanded = expand_principal(value, scope.mesh.trust_domains)
    if len(expanded) == 1 and not _is_open(expanded[0]):
        return PeerIs(principal_name(expanded[0]))
    test = _any_of([principal_matcher(each) for each in expanded])
    return lambda request: request.peer is not None and any(map(test, request.peer.names))


def _is_open(value: str) -> bool:
    return value.startswith("*") or value.endswith("*")


def _trust_domain(value: str, scope: Scope) -> TextTest:
    expanded = expand_trust_domain(value, scope.mesh.trust_domains)
    return _any_of([trust_domain_matcher(each) for each in expanded])


def _ip_test(value: str, address: Callable[[Request, Scope], str | None]) -> Callable[..., bool]:
    network = ipaddress.ip_network(value, strict=False)

    def test(request: Request, scope: Scope) -> bool:
        text = address(request, scope)
        if text is None:
            return scope.wide
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            return False
        # Envoy compares within one family only.
        return found.version == network.version and found in network

    return test


def _ip(address: Callable[[Request, Scope], str | None]) -> Callable[[str, Scope], RequestTest]:
    def build(value: str, scope: Scope) -> RequestTest:
        test = _ip_test(value, address)
        return lambda request: test(request, scope)

    return build


def _port(value: str, scope: Scope) -> RequestTest:
    number = int(value)
    # Port 0 is also what a Unix socket has, which has no port.
    return lambda request: (
        request.destination_port == number and (number > 0 or bool(request.destination_ip))
    )


def _host(value: str, scope: Scope) -> RequestTest:
    test = host_matcher(value)
    # "`*` = header present": an empty `:authority` is present.
    return lambda request: (
        (bool(request.host) or ":authority" in request.headers) and test(request.host)
    )


def _method(value: str, scope: Scope) -> RequestTest:
    test = header_matcher(value)
    return lambda request: bool(request.method) and test(request.method)


def _path(value: str, scope: Scope) -> RequestTest:
    if value.endswith("*") and not value.startswith("*") and not is_template(value):
        return PathBegins(head_of(value))
    test = template_matcher(value) if is_template(value) else text_matcher(value)
    # "Missing :path (CONNECT)" never matches.
    return lambda request: bool(request.path) and test(request.path_only)


def _sni(value: str, scope: Scope) -> RequestTest:
    test = text_matcher(value)
    return lambda request: (
        scope.wide if request.sni_unknown else bool(request.sni) and test(request.sni)
    )


def _request_principal(value: str, scope: Scope) -> RequestTest:
    test = request_principal_matcher(value)
    return lambda request: (
        request.claims is not None and test(request.claims.issuer, request.claims.subject)
    )


def _claim(*path: str) -> Callable[[str, Scope], RequestTest]:
    def build(value: str, scope: Scope) -> RequestTest:
        test = text_matcher(value)
        return lambda request: any(test(text) for text in claim_values(request.claims, path))

    return build


def _header(name: str) -> Attribute:
    def build(value: str, scope: Scope) -> RequestTest:
        test = header_matcher(value)
        if scope.mesh.envoy_version < _EACH_VALUE_SINCE:
            return lambda request: (text := joined_header(request, name)) is not None and test(text)
        commas = value.count(",")
        return lambda request: any(
            test(text) for text in header_texts(request, name, wide=scope.wide, commas=commas)
        )

    return Attribute(problem=_any_text, test=build, is_http=True)


# -- keys with brackets -------------------------------------------------------------------------


def _header_attribute(rest: str) -> Attribute | None:
    if len(rest) < 3 or not (rest.startswith("[") and rest.endswith("]")):
        return _untranslatable(rest)
    return _header(rest[1:-1].lower())


def _untranslatable(rest: str, *, is_token: bool = False) -> Attribute | None:
    """Return the row of `request.headersX[y]`, which admission takes, or None for the others."""
    # Admission looks for the prefix and for brackets, translation wants them next to each other.
    prefix, bracket, name = rest.partition("[")
    is_admitted = bool(prefix) and bool(bracket) and rest.endswith("]") and len(name) > 1
    if not is_admitted:
        return None
    return Attribute(
        problem=_any_text,
        test=lambda value, scope: lambda request: False,
        is_http=True,
        is_token=is_token,
        is_untranslatable=True,
    )


def _claim_attribute(rest: str) -> Attribute | None:
    path = claim_path(rest)
    if path is None:
        return _untranslatable(rest, is_token=True)
    return Attribute(problem=_any_text, test=_claim(*path), is_token=True, is_http=True)


def claim_path(brackets: str) -> tuple[str, ...] | None:
    """Return the claim names of `[a][b]`, or None when the brackets make no sense.

    Any irregular text between one outer pair is one literal name, as in Istio.

    >>> claim_path("[a][b]"), claim_path("[a[b]]"), claim_path("[a][b")
    (('a', 'b'), ('a[b]',), None)
    """
    if re.fullmatch(r"(\[[^\[\]]+\])+", brackets):
        return tuple(re.findall(r"\[([^\[\]]+)\]", brackets))
    is_wrapped = len(brackets) > 2 and brackets.startswith("[") and brackets.endswith("]")
    return (brackets[1:-1],) if is_wrapped and "[]" not in brackets else None


def _filter_attribute(rest: str) -> Attribute | None:
    name, bracket, key = rest.removesuffix("]").partition("[")
    if not (rest.endswith("]") and bracket and key):
        return None
    namespace = "envoy.filters." + name

    def build(value: str, scope: Scope) -> RequestTest:
        return filter_metadata_test(namespace, key, value)

    return Attribute(problem=_any_text, test=build)


_BRACKETED: tuple[tuple[str, Callable[[str], Attribute | None]], ...] = (
    ("request.headers", _header_attribute),
    ("request.auth.claims", _claim_attribute),
    ("experimental.envoy.filters.", _filter_attribute),
)

_TABLE: dict[str, Attribute] = {
    "source.principal": Attribute(
        problem=_principal_problem,
        test=_or_in_ztunnel(_principal, lambda value, scope: l4_principal(value)),
        is_peer=True,
    ),
    "source.namespace": Attribute(
        problem=_namespace_problem,
        test=_or_in_ztunnel(
            _on_workload(lambda value, scope: namespace_matcher(value)),
            lambda value, scope: l4_namespace(value, wide=scope.wide),
        ),
        is_peer=True,
    ),
    "source.serviceAccount": Attribute(
        problem=_account_problem,
        test=_or_in_ztunnel(
            _on_workload(lambda value, scope: service_account_matcher(value, scope.namespace)),
            lambda value, scope: l4_service_account(value, scope.namespace, wide=scope.wide),
        ),
        is_peer=True,
    ),
    "source.trustDomain": Attribute(
        problem=_trust_domain_problem, test=_on_peer(_trust_domain), is_peer=True
    ),
    "source.ip": Attribute(
        problem=_cidr_problem, test=_ip(lambda request, scope: unmapped(request.source_ip))
    ),
    "remote.ip": Attribute(
        problem=_cidr_problem,
        test=_ip(lambda request, scope: remote_ip(request, scope.mesh)),
    ),
    "destination.ip": Attribute(
        problem=_cidr_problem, test=_ip(lambda request, scope: unmapped(request.destination_ip))
    ),
    "destination.port": Attribute(problem=_port_problem, test=_port),
    "connection.sni": Attribute(problem=_any_text, test=_sni),
    "request.auth.principal": Attribute(
        problem=_any_text, test=_request_principal, is_token=True, is_http=True
    ),
    "request.auth.audiences": Attribute(
        problem=_any_text, test=_claim("aud"), is_token=True, is_http=True
    ),
    "request.auth.presenter": Attribute(
        problem=_any_text, test=_claim("azp"), is_token=True, is_http=True
    ),
    "operation.hosts": Attribute(problem=_any_text, test=_host, is_http=True),
    "operation.methods": Attribute(problem=_any_text, test=_method, is_http=True),
    "operation.paths": Attribute(problem=template_problem, test=_path, is_http=True),
}
