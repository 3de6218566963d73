"""What else a decision saw, so that it can be made again under other policies.

A record shows people what happened; a replay needs every value that policies look at. What
is a secret, or looks like one, is left out, and its name is kept: a replay then knows that it
does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from audit.redact import Redactor
from audit.secret_text import JSON_START, MASK

_STRICT = ConfigDict(extra="forbid")
_ABSENT: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFacts:
    """What a decision saw besides what the record shows, unmasked as yet.

    `looked_at_*` are what the policies name. `rules_headers` are the headers as the DENY and
    ALLOW policies saw them. `sni` is None where nobody knows it. `token` is `none`,
    `verified` or `refused`; `token_rules` digests all rules that were tried, `token_rule` the
    one that verified. `labels_untold`: nobody said which the workload has.
    `is_token_moved` says that a provider left other tokens than came.
    `asked` are the providers that were asked, each with the revision of its policy;
    `default_provider` is asked where no policy sends a request to another. `paths` is what was
    done to the path before it was matched, empty for nothing.
    """

    is_http: bool = True
    scheme: str = ""
    destination_address: str = ""
    sni: str | None = ""
    headers_merged: bool = False
    rules_headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    looked_at_headers: frozenset[str] = frozenset()
    looked_at_claims: frozenset[tuple[str, ...]] = frozenset()
    looked_at_metadata: frozenset[tuple[str, str]] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    peer_names: tuple[str, ...] = ()
    peer_sure: tuple[str, ...] | None = None
    peer_possible: tuple[str, ...] = ()
    peer_over_mtls: bool = True
    service: tuple[str, str, str] | None = None
    labels_untold: bool = False
    token: str = "none"  # noqa: S105 - a state, no secret
    token_rules: str = ""
    token_rule: str = ""
    is_token_moved: bool = False
    asked: tuple[tuple[str, str], ...] = ()
    default_provider: str = ""
    paths: str = ""


@with_config(_STRICT)
class AskedPart(TypedDict):
    """A provider that was asked, and the digest of its policy."""

    provider: str
    revision: str


@with_config(_STRICT)
class ServicePart(TypedDict):
    """The service that a request to a waypoint was for."""

    kind: str
    namespace: str
    name: str


@with_config(_STRICT)
class ReplayPart(TypedDict):
    """What `policy replay` needs besides; what is absent was empty, or is shown elsewhere."""

    http: bool
    scheme: NotRequired[str]
    destination: NotRequired[str]
    sni: NotRequired[Annotated[str | None, Field(description="null: nobody knows")]]
    merged: NotRequired[Annotated[bool, Field(description="repeated headers came joined")]]
    headers: NotRequired[
        Annotated[dict[str, list[str]], Field(description="headers that policies look at")]
    ]
    hidden_headers: NotRequired[
        Annotated[list[str], Field(description="headers whose values are not in the record")]
    ]
    rewritten: NotRequired[
        Annotated[
            dict[str, list[str] | None],
            Field(description="headers as DENY and ALLOW policies saw them; null: taken away"),
        ]
    ]
    hidden_rewritten: NotRequired[list[str]]
    claims: NotRequired[
        Annotated[dict[str, Any], Field(description="claims that policies look at")]
    ]
    hidden_claims: NotRequired[
        Annotated[list[str], Field(description="claims that are not in the record, or in part")]
    ]
    metadata: NotRequired[dict[str, dict[str, Any]]]
    hidden_metadata: NotRequired[list[str]]
    peer_names: NotRequired[list[str]]
    peer_sure: NotRequired[list[str]]
    peer_possible: NotRequired[list[str]]
    peer_hidden: NotRequired[bool]
    peer_plaintext: NotRequired[bool]
    service: NotRequired[ServicePart]
    labels_untold: NotRequired[Annotated[bool, Field(description="nobody said which there are")]]
    token: NotRequired[str]
    token_rules: NotRequired[str]
    token_rule: NotRequired[str]
    token_moved: NotRequired[Annotated[bool, Field(description="a provider left other tokens")]]
    asked: NotRequired[list[AskedPart]]
    default_provider: NotRequired[str]
    paths: NotRequired[
        Annotated[str, Field(description="how the path was normalized before it was matched")]
    ]


def replay_part(  # noqa: PLR0913 - keyword-only parts of one record
    facts: ReplayFacts,
    *,
    headers: Mapping[str, tuple[str, ...]],
    shown: Mapping[str, list[str]],
    carriers: frozenset[str],
    claims: Mapping[str, Any],
    shown_claims: Mapping[str, Any],
    redactor: Redactor,
) -> ReplayPart:
    """Return the written form; `shown` and `shown_claims` are what the record holds anyway."""
    seen = SeenHeaders(redactor, carriers, facts.looked_at_headers)
    beside, hidden = seen.beside(headers, shown)
    rewritten, hidden_rewritten = seen.changed(headers, facts.rules_headers)
    told = {
        "headers": beside,
        "hidden_headers": hidden,
        "rewritten": rewritten,
        "hidden_rewritten": hidden_rewritten,
    }
    part: dict[str, Any] = {"http": facts.is_http} | _filled(told)
    part |= claims_part(facts, claims, shown_claims, redactor)
    part |= metadata_part(facts, redactor) | standing_part(facts, redactor)
    return cast(ReplayPart, part)  # built of the declared keys


def claims_part(
    facts: ReplayFacts, claims: Mapping[str, Any], shown: Mapping[str, Any], redactor: Redactor
) -> dict[str, Any]:
    """Return what is written of the claims beside those that the record shows anyway."""
    found, hidden = _claims(facts, claims, shown, redactor)
    return _filled({"claims": found, "hidden_claims": hidden})


def metadata_part(facts: ReplayFacts, redactor: Redactor) -> dict[str, Any]:
    """Return what is written of the filter metadata."""
    found, hidden = _metadata(facts, redactor)
    return _filled({"metadata": found, "hidden_metadata": hidden})


def standing_part(facts: ReplayFacts, redactor: Redactor) -> dict[str, Any]:
    """Return what is written of everything else: what a connection's requests have in common."""
    part: dict[str, Any] = {}
    names = (*facts.peer_names, *(facts.peer_sure or ()), *facts.peer_possible)
    if names and any(redactor.text(name) != name for name in names):
        part["peer_hidden"] = True
    else:
        part["peer_names"] = list(facts.peer_names)
        if facts.peer_sure is not None:
            part |= {"peer_sure": list(facts.peer_sure), "peer_possible": list(facts.peer_possible)}
    if facts.service is not None:
        part["service"] = dict(zip(("kind", "namespace", "name"), facts.service, strict=True))
    part |= {
        "scheme": redactor.text(facts.scheme),
        "destination": facts.destination_address,
        "merged": facts.headers_merged,
        "labels_untold": facts.labels_untold,
        "peer_plaintext": not facts.peer_over_mtls,
        "token": "" if facts.token == "none" else facts.token,  # noqa: S105 - a state
        "token_rules": facts.token_rules,
        "token_rule": facts.token_rule,
        "token_moved": facts.is_token_moved,
        "asked": [{"provider": name, "revision": revision} for name, revision in facts.asked],
        "default_provider": facts.default_provider,
        "paths": facts.paths,
    }
    kept = _filled(part)
    if facts.sni != "":
        kept["sni"] = None if facts.sni is None else redactor.text(facts.sni)
    return kept


def _filled(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part without what is empty, but for the one list that says something then too."""
    return {name: value for name, value in part.items() if value or name == "peer_sure"}


@dataclass(frozen=True, slots=True)
class SeenHeaders:
    """Which headers may be written with their values."""

    redactor: Redactor
    carriers: frozenset[str]
    looked_at: frozenset[str]

    def beside(
        self, headers: Mapping[str, tuple[str, ...]], shown: Mapping[str, list[str]]
    ) -> tuple[dict[str, list[str]], list[str]]:
        """Return what the record does not show and policies look at, and what stays hidden."""
        more: dict[str, list[str]] = {}
        hidden: list[str] = []
        for name, values in sorted(headers.items()):
            if shown.get(name) == list(values):
                continue
            if name in self.looked_at and self._is_plain(name, values):
                more[name] = list(values)
            else:
                hidden.append(self.redactor.text(name))
        return more, hidden

    def changed(
        self, headers: Mapping[str, tuple[str, ...]], later: Mapping[str, tuple[str, ...]]
    ) -> tuple[dict[str, list[str] | None], list[str]]:
        """Return the headers that differ later: what policies look at, and what stays hidden."""
        if later is headers:
            return {}, []
        more: dict[str, list[str] | None] = {}
        hidden: list[str] = []
        names = headers.keys() | later.keys()
        for name in sorted([each for each in names if headers.get(each) != later.get(each)]):
            after = later.get(name)
            if after is None:
                more[self.redactor.text(name)] = None
            elif name in self.looked_at and self._is_plain(name, after):
                more[name] = list(after)
            else:
                hidden.append(self.redactor.text(name))
        return more, hidden

    def _is_plain(self, name: str, values: tuple[str, ...]) -> bool:
        is_clean = self.redactor.header(name, values, self.carriers) == list(values)
        # A token's payload that a RequestAuthentication passes on holds every claim.
        holds_object = any(map(JSON_START.search, values))
        return is_clean and not holds_object and self.redactor.text(name) == name


def _claims(
    facts: ReplayFacts, claims: Mapping[str, Any], shown: Mapping[str, Any], redactor: Redactor
) -> tuple[dict[str, Any], list[str]]:
    """Return the claims that policies look at and the record does not show, and what is hidden."""
    found: dict[str, Any] = {}
    complete = {name for name, value in shown.items() if claims.get(name, _ABSENT) == value}
    for path in sorted(facts.looked_at_claims):
        value = _ABSENT if redactor.hashes_claim(path[0]) else _inner(claims, path)
        clean = _ABSENT if value is _ABSENT else redactor.value({path[-1]: value})[path[-1]]
        if path[0] in complete or value is _ABSENT or clean != value or MASK in path:
            continue
        node = found
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
        if len(path) == 1:
            complete.add(path[0])
    # The record shows these two, where they are texts.
    complete |= {
        name
        for name in ("iss", "sub")
        if isinstance(claims.get(name), str) and not redactor.hashes_claim(name)
    }
    return found, [redactor.text(name) for name in sorted(claims) if name not in complete]


def _inner(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = claims
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return _ABSENT
        found = found[name]
    return found


def _metadata(
    facts: ReplayFacts, redactor: Redactor
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the filter metadata that policies look at, and the namespaces with more in them."""
    found: dict[str, dict[str, Any]] = {}
    for namespace, key in sorted(facts.looked_at_metadata):
        section = facts.metadata.get(namespace)
        if isinstance(section, Mapping) and key in section:
            clean = redactor.value({key: section[key]})
            if clean == {key: section[key]}:
                found.setdefault(namespace, {})[key] = section[key]
    hidden = [
        redactor.text(namespace)
        for namespace, section in sorted(facts.metadata.items())
        if isinstance(section, Mapping) and len(section) > len(found.get(namespace, {}))
    ]
    return found, hidden
