"""A rule's conditions, each with a value that should satisfy it."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Callable, Sequence

from tests.differential import vocabulary as words
from tests.differential.draft import Draft, Plain, concrete, encoded_value, fits
from tests.differential.identities import CLIENTS, is_ipv6
from tests.differential.model import NO_CERTIFICATE, PLAINTEXT


def aim(draft: Draft, rule: Plain) -> None:
    """Give the draft values that satisfy the rule, as far as this is easy."""
    rng = draft.rng
    if rule.get("from"):
        for name, values in rng.choice(rule["from"])["source"].items():
            _meet(draft, name, values)
    if rule.get("to"):
        for name, values in rng.choice(rule["to"])["operation"].items():
            _meet(draft, name, values)
    for condition in rule.get("when", ()):
        _meet(draft, condition["key"], condition.get("values", ()))
        if rng.random() < 0.2:
            _meet(draft, condition["key"], condition.get("notValues", ()))


def _meet(draft: Draft, name: str, values: Sequence[str]) -> None:
    """Satisfy one list of values; a `not` list is met one time in five, which fails it."""
    if name.startswith("not") and draft.rng.random() < 0.8:
        return
    if not values:
        return
    bare = name[3:4].lower() + name[4:] if name.startswith("not") else name
    value = draft.rng.choice(list(values))
    for prefix, meet in _MEET:
        if bare.startswith(prefix):
            meet(draft, bare, value)
            return


def _meet_peer(pattern: Callable[[str], str]) -> Callable[[Draft, str, str], None]:
    def meet(draft: Draft, name: str, value: str) -> None:
        wanted = pattern(value)
        fitting = [
            peer
            for peer, shape in CLIENTS.items()
            if any(fnmatch.fnmatchcase(uri, wanted) for uri in shape.uris)
        ]
        draft.peer = draft.rng.choice(fitting or [*CLIENTS])

    return meet


def _account_pattern(value: str) -> str:
    namespace, slash, account = value.partition("/")
    return f"*/ns/{namespace}/*sa/{account}*" if slash else f"*/ns/*/sa/{value}*"


def _meet_source(draft: Draft, name: str, value: str) -> None:
    network = ipaddress.ip_network(value, strict=False)
    fitting = [each for each in words.SOURCES if ipaddress.ip_address(each) in network]
    if fitting:
        draft.source = draft.rng.choice(fitting)
        if draft.destination and not fits(draft.source, draft.destination):
            draft.destination = ""


def _meet_remote(draft: Draft, name: str, value: str) -> None:
    network = ipaddress.ip_network(value, strict=False)
    draft.headers = [pair for pair in draft.headers if pair[0] != "x-forwarded-for"]
    inside = str(network.network_address)
    joined = draft.rng.choice(
        (inside, f"198.51.100.7, {inside}", f"{inside}, 198.51.100.7", f"{inside},x", f" {inside}")
    )
    draft.headers.append(("x-forwarded-for", joined))


def _meet_destination_ip(draft: Draft, name: str, value: str) -> None:
    network = ipaddress.ip_network(value, strict=False)
    fitting = [
        each
        for each in words.DESTINATIONS
        if each and ipaddress.ip_address(each.rpartition(":")[0].strip("[]")) in network
    ]
    if fitting:
        draft.destination = draft.rng.choice(fitting)
        draft.source = "::1" if draft.destination.startswith("[") else "127.0.0.1"


def _meet_port(draft: Draft, name: str, value: str) -> None:
    where = "[2001:db8::5]" if is_ipv6(draft.source) else "10.1.2.3"
    draft.destination = f"{where}:{int(value)}"


def _meet_sni(draft: Draft, name: str, value: str) -> None:
    if draft.peer == PLAINTEXT:
        draft.peer = draft.rng.choice([*CLIENTS, NO_CERTIFICATE])
    filled = "x.example" if value == "*" else value.replace("*", "x").strip(".")
    draft.sni = filled.replace("/", "") or "x"


def _meet_request_principal(draft: Draft, name: str, value: str) -> None:
    draft.has_token = True
    text = "https://issuer.example/alice" if value == "*" else concrete(draft.rng, value)
    issuer, slash, subject = text.rpartition("/")
    draft.claims["iss"] = issuer if slash else text
    draft.claims["sub"] = subject if slash else draft.rng.choice(("", "alice"))
    if draft.rng.random() < 0.5:
        near = [each for each in words.ISSUERS if each.startswith(draft.claims["iss"][:6])]
        draft.claims["iss"] = draft.rng.choice(near or words.ISSUERS)


def _meet_claim(*path: str) -> Callable[[Draft, str, str], None]:
    def meet(draft: Draft, name: str, value: str) -> None:
        draft.has_token = True
        text = concrete(draft.rng, value)
        filled = draft.rng.choice((text, text, [text], ["other", text], f"{text} other"))
        names = path or tuple(name.partition("[")[2].removesuffix("]").split("]["))
        draft.claims[names[0]] = filled
        for outer in reversed(names[1:]):
            draft.claims[names[0]] = {outer: draft.claims[names[0]]}

    return meet


def _meet_header(draft: Draft, name: str, value: str) -> None:
    header = name.partition("[")[2].removesuffix("]")
    text = concrete(draft.rng, value)
    if header in words.WRITTEN_HEADERS:
        # Only a claim can write it: the client's own is taken away.
        draft.has_token = True
        claim = draft.rng.choice(("sub", "azp", "nested"))
        draft.claims[claim] = {"a": text} if claim == "nested" else text
    draft.set_header(header, text)


def _meet_metadata(draft: Draft, name: str, value: str) -> None:
    rng = draft.rng
    word = concrete(rng, value[1:-1] if value.startswith("[") else value)
    draft.headers.append(("x-meta", rng.choice((word, concrete(rng, value)))))
    found = rng.choice((word, [word], [5, word], [[word]], {"x": word}))
    draft.headers.append(("x-meta-value", encoded_value(found)))


def _set(attribute: str) -> Callable[[Draft, str, str], None]:
    def meet(draft: Draft, name: str, value: str) -> None:
        setattr(draft, attribute, concrete(draft.rng, value))

    return meet


_PRINCIPAL = _meet_peer(lambda value: "*" if value == "*" else f"spiffe://{value}")
_NAMESPACE = _meet_peer(lambda value: f"*/ns/{value}/*")
_ACCOUNT = _meet_peer(_account_pattern)
_DOMAIN = _meet_peer(lambda value: f"spiffe://{value}*")
_MEET: tuple[tuple[str, Callable[[Draft, str, str], None]], ...] = (
    ("principals", _PRINCIPAL),
    ("source.principal", _PRINCIPAL),
    ("namespaces", _NAMESPACE),
    ("source.namespace", _NAMESPACE),
    ("serviceAccounts", _ACCOUNT),
    ("source.serviceAccount", _ACCOUNT),
    ("trustDomains", _DOMAIN),
    ("source.trustDomain", _DOMAIN),
    ("ipBlocks", _meet_source),
    ("source.ip", _meet_source),
    ("remoteIpBlocks", _meet_remote),
    ("remote.ip", _meet_remote),
    ("destination.ip", _meet_destination_ip),
    ("destination.port", _meet_port),
    ("ports", _meet_port),
    ("connection.sni", _meet_sni),
    ("requestPrincipals", _meet_request_principal),
    ("request.auth.principal", _meet_request_principal),
    ("request.auth.audiences", _meet_claim("aud")),
    ("request.auth.presenter", _meet_claim("azp")),
    ("request.auth.claims", _meet_claim()),
    ("request.headers", _meet_header),
    ("experimental", _meet_metadata),
    ("hosts", _set("host")),
    ("methods", _set("method")),
    ("paths", _set("path")),
)
