"""Warnings: what Istio accepts and does not do as its author thinks.

A warning never changes a decision. Each trap is one row of a table: a code, what to do
about it, and a test that returns the message; the rows of a value are found by the
attribute it is tested on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from policies.attributes import attribute_for
from policies.diagnostic import shown
from policies.documents import YamlList, YamlScalar
from policies.fields import Fields
from policies.model import Action, Clause, Rule
from policies.path_template import is_template


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """One row: `message(value)` is what is wrong with a value, empty when nothing is."""

    code: str
    help: str
    message: Callable[[str], str]


# -- messages about one value -------------------------------------------------------------------


def _literal_star(value: str) -> str:
    inner = value[1:] if value.startswith("*") else value[:-1]
    if "*" not in inner or is_template(value):
        return ""
    return f"the `*` inside `{shown(value)}` is an ordinary character"


def _scheme(value: str) -> str:
    if not value.startswith("spiffe://"):
        return ""
    return f"`{shown(value)}` never matches: principals are written without `spiffe://`"


def _namespace_quirk(value: str) -> str:
    # Istio's pattern is `.*/ns/<value>/.*` over the whole identity, `.../ns/<ns>/sa/<account>`.
    if value in ("*a", "*sa", "*/sa"):
        return f"`{value}` matches every namespace: `/sa/` follows each of them"
    if value == "sa":
        return "`sa` matches the namespace `ns` as well"
    return ""


def _request_principal(value: str) -> str:
    if value == "*":
        return ""
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        if "*" in (value[0], value[-1]):
            return ""
        return f"`{shown(value)}` has no `/`: it asks for this issuer and an empty subject"
    if issuer in ("http:/", "https:/", "http:", "https:"):
        return f"`{shown(value)}` never matches: it is cut at its last `/`, inside the URL's `//`"
    if value.startswith("*") and "*" in subject:
        return f"`{shown(value)}` asks for the very subject `{shown(subject)}`"
    return ""


def _method_case(value: str) -> str:
    if value == value.upper():
        return ""
    return f"`{shown(value)}` never matches: methods are upper case"


def _path_start(value: str) -> str:
    if value.startswith(("/", "*")):
        return ""
    return f"`{shown(value)}` never matches: a path starts with `/`"


def _path_query(value: str) -> str:
    if "?" not in value and "#" not in value:
        return ""
    return f"`{shown(value)}` never matches: the query and the fragment are cut off before"


def _sni_case(value: str) -> str:
    if value == value.lower():
        return ""
    return f"`{shown(value)}` never matches: the requested server name is lower case"


def _host_bits(value: str) -> str:
    try:
        found = ipaddress.ip_interface(value)
    except ValueError:
        return ""
    if found.ip == found.network.network_address:
        return ""
    return f"`{shown(value)}` stands for all of `{found.network}`"


def _mapped_address(value: str) -> str:
    try:
        found = ipaddress.ip_interface(value)
    except ValueError:
        return ""
    if not isinstance(found, ipaddress.IPv6Interface) or found.ip.ipv4_mapped is None:
        return ""
    return f"`{shown(value)}` never matches: Envoy shows such a peer by its IPv4 address"


def _exact_path(value: str) -> str:
    if value[0] == "*" or value[-1] == "*" or is_template(value):
        return ""
    slashed = shown(value.rstrip("/"))
    return f"`{shown(value)}` leaves `{slashed}/`, `{slashed};x` and other spellings out"


def _exact_header(value: str) -> str:
    if "*" in (value[0], value[-1]):
        return ""
    return f"`{shown(value)}` is not met by a header sent twice: its values are joined with `,`"


def _spaced(value: str) -> str:
    if " " not in value:
        return ""
    return f"`{shown(value)}` never matches: the claim is split at its spaces"


def _authority(value: str) -> str:
    return "" if value == "*" else "this condition minds the case of the host, `hosts` does not"


def _unsent_metadata(key: str) -> str:
    name = key.removeprefix(_METADATA).partition("[")[0]
    return f"`{shown(key)}` is never there unless Envoy sends the metadata of `{shown(name)}`"


# -- the table ----------------------------------------------------------------------------------

_STAR = Trap(
    code="literal-star",
    help="only a `*` at the start or, failing that, at the end is a wildcard",
    message=_literal_star,
)
_ADDRESS_TRAPS = (
    Trap(code="host-bits", help="write the range it stands for", message=_host_bits),
    Trap(code="mapped-address", help="write the IPv4 address", message=_mapped_address),
)
_BY_KEY: dict[str, tuple[Trap, ...]] = {
    "source.principal": (
        _STAR,
        Trap(code="principal-scheme", help="remove `spiffe://`", message=_scheme),
    ),
    "source.namespace": (
        Trap(code="namespace-quirk", help="use `principals`", message=_namespace_quirk),
    ),
    "request.auth.principal": (
        Trap(
            code="request-principal-shape",
            help="write `<issuer>/<subject>`; `<issuer>/*` is any subject",
            message=_request_principal,
        ),
    ),
    "source.ip": _ADDRESS_TRAPS,
    "remote.ip": _ADDRESS_TRAPS,
    "destination.ip": _ADDRESS_TRAPS,
    "connection.sni": (
        _STAR,
        Trap(code="sni-case", help="write it in lower case", message=_sni_case),
    ),
    "operation.methods": (
        _STAR,
        Trap(code="method-case", help="write it in upper case", message=_method_case),
    ),
    "operation.hosts": (_STAR,),
    "operation.paths": (
        _STAR,
        Trap(code="path-start", help="put a `/` before it", message=_path_start),
        Trap(
            code="path-query",
            help="`request.headers[:path]` sees the query",
            message=_path_query,
        ),
    ),
    "request.auth.claims[scope]": (
        _STAR,
        Trap(code="split-claim", help="ask for one word", message=_spaced),
    ),
    "request.auth.claims[permission]": (
        _STAR,
        Trap(code="split-claim", help="ask for one word", message=_spaced),
    ),
    "request.headers[:authority]": (
        _STAR,
        Trap(code="authority-case", help="use `to.operation.hosts`", message=_authority),
    ),
    "source.serviceAccount": (),
    "source.trustDomain": (),
    "destination.port": (),
}
# What matters only where a missed match lets a request in.
_EXACT_PATH = Trap(
    code="exact-path",
    help="list what is allowed instead, or add the prefix as well",
    message=_exact_path,
)
_EXACT_HEADER = Trap(
    code="exact-header",
    help="list what is allowed instead, or strip the header at the edge",
    message=_exact_header,
)
_METADATA = "experimental."
_ADDRESSES = ("source.ip", "remote.ip", "destination.ip")
# What hangs on keys, actions and on what is written at all, and on no value.
OF_NO_VALUE = frozenset(
    {"absent-matches", "denies-all-tcp", "empty-list", "unsent-metadata", "untranslatable-key"}
)
"""Codes of warnings that are the same whatever the values are."""
_WHERE_A_MISS_ADMITS: dict[str, tuple[Trap, ...]] = {"operation.paths": (_EXACT_PATH,)}


def warn_of_clause(clause: Clause, action: Action, fields: Fields, names: tuple[str, str]) -> None:
    """Warn of the values of one clause; `names` are its fields, positive and negative."""
    key = clause.key
    for name, values, negated in (
        (names[0], clause.values, False),
        (names[1], clause.not_values, True),
    ):
        admits = _admits(action, negated=negated)
        for trap in value_traps(key, action, negated=negated):
            for value in values:
                message = trap.message(value.text)
                if message:
                    fields.findings.warning(
                        trap.code, message, value.location, trap.help,
                        path=fields.item_path(name, value),
                    )  # fmt: skip
        if admits and key == "operation.hosts":
            _warn_of_ports(name, [value.text for value in values], fields)
        if admits and values and key.startswith(_METADATA):
            # Envoy's ext_authz: "metadata_context_namespaces".
            fields.warning(
                "unsent-metadata", _unsent_metadata(key), "key",
                "list its namespace in the `metadata_context_namespaces` of ext_authz",
            )  # fmt: skip
    attribute = attribute_for(key)
    if attribute is not None and attribute.is_untranslatable:
        fields.warning(
            "untranslatable-key",
            f"`{shown(key)}` is admitted and never translated: "
            + ("the rule lets nothing in" if action is Action.ALLOW else "it asks for nothing"),
            "key", "the `[` follows the name at once: `request.headers[<name>]`",
        )  # fmt: skip
    if key in _ADDRESSES and clause.not_values:
        _warn_of_family(clause, fields, names[1])


def value_traps(key: str, action: Action, *, negated: bool) -> tuple[Trap, ...]:
    """Return what each value under a key is looked at for, alone."""
    traps = _BY_KEY.get(key, (_STAR,))
    if not _admits(action, negated=negated):
        return traps
    if key.startswith("request.headers["):
        return (*traps, _EXACT_HEADER)
    return (*traps, *_WHERE_A_MISS_ADMITS.get(key, ()))


def judges_together(clause: Clause, action: Action) -> bool:
    """Whether what is told of a clause may hang on several of its values."""
    if clause.key == "operation.hosts":
        return _admits(action, negated=False) or bool(clause.not_values)
    return clause.key in _ADDRESSES and bool(clause.not_values)


def _admits(action: Action, *, negated: bool) -> bool:
    """Whether values that are missed let a request in."""
    if negated:
        return action is Action.ALLOW
    return action in (Action.DENY, Action.CUSTOM)


def _warn_of_ports(name: str, hosts: list[str], fields: Fields) -> None:
    """Warn of hosts that a port or a trailing dot walks around."""
    for host in hosts:
        is_open = host.endswith("*") or host.rpartition(":")[2].isdigit()
        if not is_open and f"{host}:*" not in hosts:
            fields.warning(
                "host-port", f"`{shown(host)}` leaves `{shown(host)}:8080` and the like out", name,
                f"add `{shown(host)}:*`, `{shown(host)}.` and `{shown(host)}.:*`",
            )  # fmt: skip


def _warn_of_family(clause: Clause, fields: Fields, name: str) -> None:
    """Warn of an exclusion that holds for IPv4 or for IPv6 only."""
    versions = {6 if ":" in value.text else 4 for value in clause.not_values}
    if len(versions) == 1 and not clause.values:
        other = 6 if versions == {4} else 4
        fields.warning(
            "other-family", f"every IPv{other} address matches: ranges hold for their family only",
            name, f"add `{'::/0' if other == 6 else '0.0.0.0/0'}` to keep IPv{other} out",
        )  # fmt: skip


# -- rules --------------------------------------------------------------------------------------

_TCP_SOURCES = frozenset({"source.principal", "source.namespace", "source.serviceAccount",
                          "source.ip", "remote.ip"})  # fmt: skip


def warn_of_rule(rule: Rule, action: Action, fields: Fields) -> None:
    """Warn of what a rule as a whole does."""
    _warn_of_nothing_written(fields)
    if action is Action.DENY:
        _warn_of_tcp(rule, fields)
    if action is Action.ALLOW:
        _warn_of_absence(rule, fields)


def _warn_of_nothing_written(rule: Fields) -> None:
    """Warn of `from:` and `to:` that are written and hold nothing: they match anything."""
    for key in ("from", "to", "when"):
        node = rule.node.entries.get(key)
        is_null = isinstance(node, YamlScalar) and node.value is None
        if is_null or (isinstance(node, YamlList) and not node.items):
            rule.warning(
                "empty-list", f"`{rule.at(key)}` is empty and reads as absent: it matches any", key,
                "remove it to say so",
            )  # fmt: skip


def _warn_of_tcp(rule: Rule, fields: Fields) -> None:
    """Warn as Istio's webhook does; it counts no `trustDomains` and no `when`."""
    has_tcp_source = any(clause.key in _TCP_SOURCES for source in rule.sources for clause in source)
    has_port = any(clause.key == "destination.port" for each in rule.operations for clause in each)
    only_sources = bool(rule.sources) and not rule.operations and not has_tcp_source
    if only_sources or (rule.operations and not has_port):
        fields.warning(
            "denies-all-tcp",
            "on TCP ports this rule will deny all traffic in its scope: its HTTP fields do not"
            " count there",
            "", "name the HTTP `ports`",
        )  # fmt: skip


def _warn_of_absence(rule: Rule, fields: Fields) -> None:
    """Warn of conditions that hold for requests without the attribute they exclude."""
    warned: set[int] = set()
    for source in rule.sources or ((),):
        clauses = (*source, *rule.when)
        present = {_absence(clause) for clause in clauses if clause.values}
        for clause in clauses:
            missing = _absence(clause)
            if clause.values or not missing or missing in present or id(clause) in warned:
                continue
            warned.add(id(clause))
            fields.findings.warning(
                "absent-matches",
                f"not `{shown(clause.spelled)}` also lets in requests without {missing}",
                clause.location,
                f"ask for {missing} as well, with `*`",
                path=fields.path,
            )


def _absence(clause: Clause) -> str:
    """Return what a request may lack for a clause to have nothing to look at."""
    if clause.key.startswith("request.headers[:"):
        return ""
    if clause.key.startswith("request.headers"):
        return f"the header `{shown(clause.key[16:-1])}`"
    attribute = attribute_for(clause.key)
    if attribute is None:
        return ""
    if attribute.is_peer:
        return "a peer identity"
    return "a valid token" if attribute.is_token else ""


def known_codes() -> Iterable[str]:
    """Return the code of every trap, for the tests that hold each to have a case."""
    rows = [*_BY_KEY.values(), (_EXACT_PATH, _EXACT_HEADER)]
    codes = {trap.code for row in rows for trap in row}
    return sorted(codes | {"host-port", "other-family", "denies-all-tcp", "empty-list",
                           "absent-matches", "unsent-metadata", "untranslatable-key"})  # fmt: skip
