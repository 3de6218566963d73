"""The form of a document that holds one policy, and other policies of that form.

Theory of operation. A document is split into words and what stands between them. To the scanner
of YAML one word is as good as another, so two documents with the same between mean the same,
but for their words. A form is made of a document that was read in full: it knows which words
are inside of values that may differ (the name, the namespace, labels, values of rules) and
holds all other words fast; where each piece of the policy stands it tells by the lengths of the
words before. Each value is put through the checks that the reader puts it through. What a policy
of the same name had is taken over where it is the same, so that two sets share it.

INVARIANT: what a form makes of a text is what `inspect_file` makes of it, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest
from operator import itemgetter
from sys import intern
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from policies.diagnostic import Diagnostic, Location, location_at, shown
from policies.load import Inspected
from policies.model import (
    Attachment,
    AuthorizationPolicy,
    Clause,
    Metadata,
    Rule,
    Value,
    same_or_new,
    selecting,
)

# WHY these: none of them begins or ends anything in YAML, wherever in a word it stands. A hyphen
# or a full stop may, at the start of a line, so no word begins with one.
_WORDS: Final = re.compile(r"([A-Za-z0-9_/][A-Za-z0-9_./-]*)")
# BUDGET: characters of a value. Beyond 1,024 a text stops being a possible key to libyaml.
_VALUE_MAX: Final = 512

Check = Callable[[str], object]
"""Returns something that counts as true for a value that the form does not fit."""


def split(text: str) -> list[str]:
    """Return what stands between words and the words, in turns, beginning with the former.

    >>> split("a: [/b-c/*]")
    ['', 'a', ': [', '/b-c/', '*]']
    """
    return _WORDS.split(text)


def between(parts: Sequence[str]) -> str:
    """Return what stands between the words of a text that was split: the same for one form."""
    # A letter is in no such piece, so that nothing else gives the same.
    return "a".join(parts[::2])


class Span(NamedTuple):
    """Where a value begins and ends: the number of a part, and characters from its start."""

    start: int
    start_more: int
    end: int
    end_more: int


class Place(NamedTuple):
    """Lines from the first of the text; the column lies `more` beyond from part to part."""

    line: int
    part: int
    line_part: int
    more: int


class Slot(NamedTuple):
    """A value that differs, with what it is checked for."""

    span: Span
    checks: tuple[Check, ...]


class ValueForm(NamedTuple):
    """A value of a rule: the number of its slot and of its place."""

    slot: int
    place: int


class ClauseForm(NamedTuple):
    """A clause; `place` is the number of its place."""

    key: str
    spelled: str
    values: tuple[ValueForm, ...]
    not_values: tuple[ValueForm, ...]
    place: int


class RuleForm(NamedTuple):
    """A rule; `place` is the number of its place."""

    sources: tuple[tuple[ClauseForm, ...], ...]
    operations: tuple[tuple[ClauseForm, ...], ...]
    when: tuple[ClauseForm, ...]
    place: int


class FindingForm(NamedTuple):
    """A finding that hangs on no value, and the number of its place."""

    finding: Diagnostic
    place: int


def policy_name(namespace: str, name: str) -> str:
    """Return how a finding names the policy it is about."""
    return f"AuthorizationPolicy/{shown(namespace)}/{shown(name)}"


Policies = Mapping[tuple[str, str], AuthorizationPolicy]
"""Policies by namespace and name."""
NO_POLICIES: Final[Policies] = MappingProxyType({})
"""No policy."""
_NO_RULE: Final = Rule(location=Location(""))
_NO_CLAUSE: Final = Clause(key="", spelled="", location=Location(""))


class Form:
    """What documents of one form have in common. Immutable.

    The first two slots are namespace and name, those after them the values of `labels`.
    """

    __slots__ = (
        "_attachment", "_findings", "_held", "_held_words", "_labels", "_nodes", "_places",
        "_policy", "_rules", "_slots",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - what a form is made of
        self,
        policy: AuthorizationPolicy,
        *,
        words: Sequence[int],
        parts: Sequence[str],
        slots: Sequence[Slot],
        places: Sequence[Place],
        labels: Sequence[str] | None,
        rules: Sequence[RuleForm],
        findings: Sequence[FindingForm],
        nodes: int,
    ) -> None:
        """Keep what is made of a policy; `words` are the numbers of parts that are held fast."""
        # WHY without rules: they would keep a set that serves no more.
        self._policy = replace(policy, rules=())
        self._held: Callable[[Sequence[str]], Any] = itemgetter(*words)
        self._held_words = self._held(parts)
        self._slots = tuple(slots)
        self._places = tuple(places)
        self._labels = None if labels is None else tuple(labels)
        self._attachment = policy.attachment if policy.attachment.target_refs else None
        self._rules = tuple(rules)
        self._findings = tuple(findings)
        self._nodes = nodes

    def fits(self, parts: Sequence[str]) -> bool:
        """Whether a text with the same between has the same words where they are held fast."""
        return bool(self._held(parts) == self._held_words)

    def read(
        self, file: str, text: str, line: int, parts: Sequence[str], before: Policies = NO_POLICIES
    ) -> Inspected | None:
        """Return what a text that fits holds, which begins on `line`; None: read it in full.

        What is the same in the policy of that name `before` is taken from there.
        """
        starts = [0, *accumulate(map(len, parts))]
        texts: list[str] = []
        for (start, start_more, end, end_more), checks in self._slots:
            value = text[starts[start] + start_more : starts[end] + end_more]
            if len(value) > _VALUE_MAX:
                return None
            for check in checks:
                if check(value):
                    return None
            texts.append(intern(value))
        places = [
            location_at(file, line + lines, starts[part] - starts[own] + more)
            for lines, part, own, more in self._places
        ]
        return Inspected(
            resources=(self._filled(texts, places, before.get((texts[0], texts[1]))),),
            findings=tuple(self._found(texts, places)) if self._findings else (),
            nodes=self._nodes,
        )

    def _filled(
        self,
        texts: Sequence[str],
        places: Sequence[Location],
        before: AuthorizationPolicy | None,
    ) -> AuthorizationPolicy:
        policy, old = self._policy, before.rules if before is not None else ()
        rows: Iterator[tuple[RuleForm, Rule | None]]
        rows = zip_longest(self._rules, old[: len(self._rules)])
        return AuthorizationPolicy(
            metadata=self._metadata(texts, places[0], before),
            attachment=self._attachment or self._attached(texts),
            action=policy.action,
            rules=tuple([_rule(form, texts, places, rule) for form, rule in rows]),
            provider=policy.provider,
            dry_run=policy.dry_run,
        )

    def _metadata(
        self, texts: Sequence[str], location: Location, before: AuthorizationPolicy | None
    ) -> Metadata:
        own = self._policy.metadata
        # The policy before has the same namespace and name.
        if before is not None:
            old = before.metadata
            same = old.annotations == own.annotations and old.created_at == own.created_at
            if same and old.location == location:
                return old
        return Metadata(
            namespace=texts[0],
            name=texts[1],
            annotations=own.annotations,
            created_at=own.created_at,
            location=location,
        )

    def _attached(self, texts: Sequence[str]) -> Attachment:
        labels = self._labels
        return selecting(None if labels is None else tuple(zip(labels, texts[2:], strict=False)))

    def _found(self, texts: Sequence[str], places: Sequence[Location]) -> Iterator[Diagnostic]:
        for finding, place in self._findings:
            yield Diagnostic(
                code=finding.code,
                message=finding.message,
                location=places[place],
                help=finding.help,
                severity=finding.severity,
                path=finding.path,
                resource=policy_name(texts[0], texts[1]),
            )


def _rule(
    form: RuleForm, texts: Sequence[str], places: Sequence[Location], old: Rule | None
) -> Rule:
    if old is None:
        old = _NO_RULE
    sources, operations, when, place = form
    rule = Rule(
        sources=_groups(sources, texts, places, old.sources),
        operations=_groups(operations, texts, places, old.operations),
        when=_clauses(when, texts, places, old.when) if when else (),
        location=old.location if old.location == places[place] else places[place],
    )
    return old if rule == old else rule


def _groups(
    forms: Sequence[tuple[ClauseForm, ...]],
    texts: Sequence[str],
    places: Sequence[Location],
    old: tuple[tuple[Clause, ...], ...],
) -> tuple[tuple[Clause, ...], ...]:
    is_alike = len(old) == len(forms)
    found = [
        _clauses(form, texts, places, old[number] if is_alike else ())
        for number, form in enumerate(forms)
    ]
    return same_or_new(old, found)


def _clauses(
    forms: Sequence[ClauseForm],
    texts: Sequence[str],
    places: Sequence[Location],
    old: tuple[Clause, ...],
) -> tuple[Clause, ...]:
    known = old if len(old) == len(forms) else (_NO_CLAUSE,) * len(forms)
    found = []
    for (key, spelled, positive, negative, at), before in zip(forms, known, strict=True):
        place = places[at]
        values = tuple([Value(texts[slot], places[where]) for slot, where in positive])
        not_values = tuple([Value(texts[slot], places[where]) for slot, where in negative])
        if (
            before.values == values
            and before.not_values == not_values
            and before.location == place
            and before.key == key
            and before.spelled == spelled
        ):
            found.append(before)
            continue
        clause = Clause(
            key=key,
            spelled=spelled,
            values=values,
            not_values=not_values,
            location=before.location if before.location == place else place,
        )
        found.append(clause)
    return same_or_new(old, found)
