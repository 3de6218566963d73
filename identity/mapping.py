"""Mappings: names that are not of Kubernetes' form, read as namespace and service account.

Theory of operation. A mapping turns the names that fit its pattern, a SPIFFE path or a
DNS name, into namespace, service account and labels. In the trust domains that have
mappings only these speak; everywhere else names are read as Istio reads them.

INVARIANT: two different names of one trust domain never get the same namespace and
service account. Held at load: each variable of a pattern goes into one of the two, each
of the two gives back what it was filled with (see `identity.name_template`), and what
two mappings of one trust domain can produce has nothing in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from identity.errors import MappingError, SpiffeIdError
from identity.name_template import Template, can_meet, parse_template
from identity.peer import MappedWorkload, WorkloadReading
from identity.spiffe_id import SpiffeId, TrustDomain

TRUST_DOMAIN: Final = "{trustDomain}"
"""What stands in a DNS pattern for each of the mapping's trust domains."""
_SPIFFE: Final = "spiffe://"
_OUTSIDE_NAME: Final = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
_COMMON_NAME: Final = re.compile(r"(?:^|,)CN=([^,]*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingRule:
    """One pattern and what it gives: of paths of SPIFFE IDs, or (`is_dns`) of DNS names."""

    trust_domain: TrustDomain
    pattern: Template
    namespace: Template
    service_account: Template
    labels: tuple[tuple[str, Template], ...] = ()
    is_dns: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityMapping:
    """What one entry of the configuration says: its trust domains, and a rule for each pattern."""

    name: str
    trust_domains: tuple[TrustDomain, ...]
    rules: tuple[MappingRule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTexts:
    """A rule as its author writes it; `{trustDomain}` in a DNS pattern is the trust domain's name.

    A variable in `fixed` has that one value and no other.
    """

    pattern: str
    namespace: str
    service_account: str
    labels: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    is_dns: bool = False


def make_mapping(
    name: str, trust_domains: Sequence[TrustDomain], rules: Sequence[RuleTexts]
) -> IdentityMapping:
    """Return the mapping that these rules spell for these trust domains.

    Raises:
        MappingError: a template is wrong, or two names could be given the same words.
    """
    for rule in rules:
        if rule.is_dns and TRUST_DOMAIN not in rule.pattern and len(trust_domains) > 1:
            raise MappingError(
                f"`{rule.pattern}` does not tell the trust domains apart: "
                f"write `{TRUST_DOMAIN}` where the name holds them"
            )
    return IdentityMapping(
        name=name,
        trust_domains=tuple(trust_domains),
        rules=tuple(_rule(texts, domain) for domain in trust_domains for texts in rules),
    )


def _rule(texts: RuleTexts, domain: TrustDomain) -> MappingRule:
    pattern = texts.pattern.replace(TRUST_DOMAIN, domain.name) if texts.is_dns else texts.pattern
    if not texts.is_dns and not pattern.startswith("/"):
        raise MappingError(f"`{pattern}` is no path: expected one that begins with `/`")
    alphabets = parse_template(pattern, lower_labels=texts.is_dns).alphabets
    for name in sorted(set(texts.fixed) - set(alphabets)):
        raise MappingError(f"`{pattern}` has no `{{{name}}}` that a value could be fixed for")

    def image(what: str, text: str) -> Template:
        if not text:
            raise MappingError(f"`{what}` is empty")
        return parse_template(text, alphabets=alphabets, fixed=texts.fixed)

    rule = MappingRule(
        trust_domain=domain,
        pattern=parse_template(pattern, lower_labels=texts.is_dns, fixed=texts.fixed),
        namespace=_part("namespace", image("namespace", texts.namespace)),
        service_account=_part("serviceAccount", image("serviceAccount", texts.service_account)),
        labels=tuple((name, image(name, text)) for name, text in texts.labels.items()),
        is_dns=texts.is_dns,
    )
    kept = rule.namespace.variables | rule.service_account.variables
    for lost in sorted(rule.pattern.variables - kept):
        raise MappingError(
            f"`{pattern}` drops `{{{lost}}}`: names that differ only there would be one "
            f"workload; put it into namespace or serviceAccount, or fix its value"
        )
    return rule


def _part(what: str, template: Template) -> Template:
    """Return a template of a namespace or service account, which is a segment of a path."""
    literal = "".join(each for each in template.pieces if isinstance(each, str))
    if _OUTSIDE_NAME.search(literal):
        raise MappingError(f"`{what}` holds only letters, digits, `.`, `-` and `_`")
    return template


@dataclass(frozen=True, slots=True)
class _Reader:
    """A rule ready to be tried on names of one trust domain."""

    mapping: str
    rule: MappingRule
    pattern: re.Pattern[str]

    def read(self, text: str) -> tuple[str, MappedWorkload] | None:
        """Return what the rule makes of a path or DNS name, or None when it does not fit.

        The text beside it is the name that Istio's conditions on namespaces and
        service accounts are made for.
        """
        found = self.pattern.fullmatch(text)
        if found is None:
            return None
        values, rule = found.groupdict(), self.rule
        workload = MappedWorkload(
            mapping=self.mapping,
            namespace=rule.namespace.filled(values),
            service_account=rule.service_account.filled(values),
            labels=MappingProxyType(
                {name: template.filled(values) for name, template in rule.labels}
            ),
        )
        form = f"{_SPIFFE}{rule.trust_domain}/ns/{workload.namespace}/sa/{workload.service_account}"
        return form, workload


@dataclass(frozen=True, slots=True)
class MappingSet:
    """All mappings, checked against each other; without any, Istio's reading is everyone's."""

    mappings: tuple[IdentityMapping, ...] = ()
    _paths: Mapping[str, tuple[_Reader, ...]] = field(init=False, repr=False, compare=False)
    _names: tuple[_Reader, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare the readers, and refuse mappings that could name two workloads alike."""
        refusal = first_overlap(self.mappings)
        if refusal is not None:
            raise MappingError(refusal[1])
        paths: dict[str, list[_Reader]] = {
            domain.name: [] for mapping in self.mappings for domain in mapping.trust_domains
        }
        names: list[_Reader] = []
        for mapping in self.mappings:
            for rule in mapping.rules:
                reader = _Reader(mapping.name, rule, rule.pattern.pattern())
                (names if rule.is_dns else paths[rule.trust_domain.name]).append(reader)
        object.__setattr__(self, "_paths", {name: tuple(found) for name, found in paths.items()})
        object.__setattr__(self, "_names", tuple(names))

    def read(self, names: Sequence[str]) -> WorkloadReading | None:
        """Return how policies read these names, or None when no mapping concerns any."""
        if not self.mappings:
            return None
        sure: list[str] = []
        possible: list[str] = []
        first: MappedWorkload | None = None
        for name in names:
            found, is_concerned = self._find(name, is_alone=len(names) == 1)
            shown = found[0] if found else name
            possible.append(shown)
            if found or not is_concerned:
                sure.append(shown)
            first = first or (found[1] if found else None)
        if first is None and len(sure) == len(names):
            return None
        return WorkloadReading(sure=tuple(sure), possible=tuple(possible), workload=first)

    def _find(self, name: str, *, is_alone: bool) -> tuple[tuple[str, MappedWorkload] | None, bool]:
        """Return Kubernetes' form and workload of a name, and whether a mapping concerns it."""
        if name[: len(_SPIFFE)].lower() != _SPIFFE:
            # A certificate with better names is not known by its common name (RFC 9525 §2).
            texts = (name, *(_common_name(name) if is_alone else ()))
            found = next((found for text in texts if (found := _first(self._names, text))), None)
            return found, found is not None
        try:
            spiffe_id = SpiffeId.parse(name)
        except SpiffeIdError:
            # WHY concerned: what is nearly an ID of a mapped trust domain (`td:80`, `TD`, a
            # `%`) must not be read as Istio reads the IDs of others.
            return None, True
        readers = self._paths.get(spiffe_id.trust_domain.name)
        return (None, False) if readers is None else (_first(readers, spiffe_id.path), True)


def first_overlap(mappings: Sequence[IdentityMapping]) -> tuple[int, str] | None:
    """Return which mapping gives names that an earlier rule gives too, and why that is wrong."""
    given: dict[TrustDomain, list[tuple[str, MappingRule]]] = {}
    for place, mapping in enumerate(mappings):
        for rule in mapping.rules:
            earlier = given.setdefault(rule.trust_domain, [])
            for name, other in earlier:
                if _overlap(rule, other):
                    return place, (
                        f"mapping `{mapping.name}` could give a name of `{rule.trust_domain}` the "
                        f"namespace and service account that `{name}` gives another"
                    )
            earlier.append((mapping.name, rule))
    return None


def _overlap(first: MappingRule, second: MappingRule) -> bool:
    return can_meet(first.namespace, second.namespace) and can_meet(
        first.service_account, second.service_account
    )


def _first(readers: Iterable[_Reader], text: str) -> tuple[str, MappedWorkload] | None:
    return next((found for each in readers if (found := each.read(text)) is not None), None)


def _common_name(subject: str) -> tuple[str, ...]:
    """Return the one CN of a subject text; of several, or beside escapes, none is the name."""
    if any(each in subject for each in "\\+#"):
        return ()
    found = tuple(_COMMON_NAME.findall(subject))
    return found if len(found) == 1 else ()
