"""Forms of documents, learned from those that were read in full.

Theory of operation. A document is learned when a second one has the same between its words:
whoever writes each policy another way pays for no forms. What YAML gives a further meaning to
(escapes, anchors, tags, block scalars, anything but plain ASCII) has no form, nor has a policy
with a finding that hangs on its values: those are read in full, as ever.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Final

from policies.attributes import attribute_for
from policies.diagnostic import Location
from policies.documents import YamlMap, YamlNode, YamlScalar, is_text, iter_documents
from policies.form import (
    NO_POLICIES,
    Check,
    ClauseForm,
    FindingForm,
    Form,
    Place,
    Policies,
    RuleForm,
    Slot,
    Span,
    ValueForm,
    between,
    policy_name,
    split,
)
from policies.load import Inspected, inspect_file
from policies.load_metadata import FIXED_CODES, is_name, is_namespace, label_problem
from policies.model import AuthorizationPolicy, Clause, Value
from policies.traps import OF_NO_VALUE, judges_together, value_traps

# BUDGET: characters of a document; a policy has some hundred, and few that are so long are alike.
_LONGEST: Final = 16 * 1024
# BUDGET: forms that are known, 10 KB each; whatever has one of these numbers begins anew.
_FORMS_MAX: Final = 256
# BUDGET: documents that are tried in vain, each twice the work of reading it.
_TRIES_MAX: Final = 1024
# BUDGET: documents that no other is like yet, 60 bytes each.
_SEEN_MAX: Final = 20_000
# BUDGET: tries of documents that share what stands between their words.
_ALIKE_MAX: Final = 8
_PLAIN_TEXT: Final = re.compile(r"[\n\x20-\x7e]*")
# Escapes, anchors, tags, directives, block scalars, complex keys, and what is reserved.
_DEEPER: Final = re.compile(r"[\\&!%|>?@`]")


class FormMemory:
    """Reads documents of forms that were met before. For one thread."""

    def __init__(self) -> None:
        """Know no form."""
        self._alike: dict[str, _Alike] = {}
        self._forms = self._tries = 0
        self._seen: set[int] = set()

    def read(
        self, file: str, text: str, line: int, before: Policies = NO_POLICIES
    ) -> Inspected | None:
        """Return what a document holds that begins on `line`, or None: read it in full.

        What is the same in the policy of that name `before` is taken from there.
        """
        if len(text) > _LONGEST:
            return None
        parts = split(text)
        key = between(parts)
        alike = self._alike.get(key)
        if alike is None:
            if not self._is_second(key):
                return None
            alike = self._alike[key] = _Alike()
        for form in alike.forms:
            if form.fits(parts):
                return form.read(file, text, line, parts, before)
        if alike.tries >= _ALIKE_MAX or not _PLAIN_TEXT.fullmatch(text) or _DEEPER.search(text):
            return None
        return self._learn(alike, file, text, line)

    def _is_second(self, key: str) -> bool:
        digest = hash(key)
        if digest in self._seen:
            return True
        if len(self._seen) >= _SEEN_MAX:
            self._seen.clear()
        self._seen.add(digest)
        return False

    def _learn(self, alike: _Alike, file: str, text: str, line: int) -> Inspected:
        """Read a document in full, and have its form from now on, where it has one."""
        found = inspect_file(file, text, line)
        alike.tries += 1
        self._tries += 1
        if (form := _form_of(text, line, found)) is not None:
            alike.forms.append(form)
            self._forms += 1
        if self._forms >= _FORMS_MAX or self._tries >= _TRIES_MAX:
            self._alike.clear()
            self._seen.clear()
            self._forms = self._tries = 0
        return found


class _Alike:
    """Documents with the same between: their forms, and how many were tried for one."""

    __slots__ = ("forms", "tries")

    def __init__(self) -> None:
        self.forms: list[Form] = []
        self.tries = 0


def _form_of(text: str, line: int, found: Inspected) -> Form | None:
    """Return the form of a document in which something was found, or None where it has none."""
    try:
        return _FormMaker(text, line, found).form() if _is_regular(found) else None
    except _Irregular:
        return None


def _is_regular(found: Inspected) -> bool:
    """Whether there is one policy, and nothing is told that hangs on its values."""
    resource = found.resources[0] if len(found.resources) == 1 else None
    if not isinstance(resource, AuthorizationPolicy):
        return False
    metadata = resource.metadata
    own = policy_name(metadata.namespace, metadata.name)
    return all(
        each.code in OF_NO_VALUE | FIXED_CODES and each.resource == own for each in found.findings
    )


class _Irregular(Exception):
    """A document has no form."""


class _FormMaker:
    """Makes the form of one document that holds one policy."""

    def __init__(self, text: str, line: int, found: Inspected) -> None:
        """Take a text that begins on `line` and what was read of it."""
        self._text = text
        self._line = line
        self._found = found
        self._parts = split(text)
        self._starts = [0, *accumulate(map(len, self._parts))]
        self._line_starts = [0, *(each.end() for each in re.finditer("\n", text))]
        self._slots: list[Slot] = []
        self._places: list[Place] = []

    def form(self) -> Form:
        """Return the form.

        Raises:
            _Irregular: there is none.
        """
        (policy,) = self._found.resources
        assert isinstance(policy, AuthorizationPolicy)
        documents = list(iter_documents(self._text, "", self._line))
        if len(documents) != 1:
            raise _Irregular
        metadata = _map_at(documents[0], "metadata")
        self._scalar(metadata, "namespace", lambda text: not is_namespace(text))
        self._scalar(metadata, "name", lambda text: not is_name(text))
        self._place(policy.metadata.location)
        labels = self._labels(policy, documents[0])
        return Form(
            policy,
            labels=labels,
            rules=tuple(
                RuleForm(
                    tuple(self._clauses(each, policy) for each in rule.sources),
                    tuple(self._clauses(each, policy) for each in rule.operations),
                    self._clauses(rule.when, policy),
                    self._place(rule.location),
                )
                for rule in policy.rules
            ),
            findings=tuple(
                FindingForm(each, self._place(each.location)) for each in self._found.findings
            ),
            words=tuple(self._held_words()),
            parts=self._parts,
            slots=self._slots,
            places=self._places,
            nodes=self._found.nodes,
        )

    def _labels(self, policy: AuthorizationPolicy, document: YamlNode) -> tuple[str, ...] | None:
        """Note the values of the labels; return their names, None without a selector."""
        labels = policy.attachment.selector
        if labels is None:
            return None
        for label in labels:
            where = _map_at(document, "spec", "selector", "matchLabels")
            self._scalar(where, label, partial(label_problem, label))
        return tuple(labels)

    def _clauses(
        self, clauses: Sequence[Clause], policy: AuthorizationPolicy
    ) -> tuple[ClauseForm, ...]:
        return tuple(self._clause(each, policy) for each in clauses)

    def _clause(self, clause: Clause, policy: AuthorizationPolicy) -> ClauseForm:
        if judges_together(clause, policy.action) or clause.spelled == "trustDomains":
            raise _Irregular
        values, not_values = (
            tuple(self._value(clause.key, value, policy, negated=negated) for value in each)
            for each, negated in ((clause.values, False), (clause.not_values, True))
        )
        place = self._place(clause.location)
        return ClauseForm(clause.key, clause.spelled, values, not_values, place)

    def _value(
        self, key: str, value: Value, policy: AuthorizationPolicy, *, negated: bool
    ) -> ValueForm:
        attribute = attribute_for(key)
        assert attribute is not None
        traps = value_traps(key, policy.action, negated=negated)
        checks = (attribute.problem, *(each.message for each in traps))
        return ValueForm(
            self._slot(value.text, value.location, *checks), self._place(value.location)
        )

    def _scalar(self, where: YamlMap, key: str, check: Check) -> None:
        node = where.entries.get(key)
        if not isinstance(node, YamlScalar) or not isinstance(node.value, str):
            raise _Irregular
        self._slot(node.value, node.location, check)

    def _slot(self, text: str, location: Location, *checks: Check) -> int:
        """Note a value that differs; return its number."""
        begin = self._offset(location)
        is_quoted = self._text[begin] in "\"'"
        begin += is_quoted
        end = begin + len(text)
        # What is written must be what is meant: no escapes, no line folded into another.
        is_plain = text and "\n" not in text and self._text[begin:end] == text
        if not is_plain or (is_quoted and self._text[end] != self._text[begin - 1]):
            raise _Irregular
        if not is_quoted:
            checks = (_is_no_text, *checks)
        self._slots.append(Slot(Span(*self._part_at(begin), *self._part_at(end)), checks))
        return len(self._slots) - 1

    def _place(self, location: Location) -> int:
        """Note a place; return its number."""
        lines = location.line - self._line
        part, more = self._part_at(self._offset(location))
        line_part, line_more = self._part_at(self._line_starts[lines])
        if self._is_steady(line_part, part):
            more += self._starts[part] - self._starts[line_part]
            line_part = part = 0
        self._places.append(Place(lines, part, line_part, more - line_more + 1))
        return len(self._places) - 1

    def _is_steady(self, begin: int, end: int) -> bool:
        """Whether no word lies from one part to another, so that they keep their distance."""
        return all(number % 2 == 0 for number in range(begin, end))

    def _offset(self, location: Location) -> int:
        return self._line_starts[location.line - self._line] + location.column - 1

    def _part_at(self, offset: int) -> tuple[int, int]:
        """Return the part that holds a character, and how far in it stands; never inside a word."""
        part = bisect_right(self._starts, offset) - 1
        more = offset - self._starts[part]
        if part % 2 and more:
            raise _Irregular
        return part, more

    def _held_words(self) -> Iterator[int]:
        """Yield the numbers of the words that are in no value that differs."""
        free = {
            number
            for span in (each.span for each in self._slots)
            for number in range(span.start, span.end)
        }
        yield from (number for number in range(1, len(self._parts), 2) if number not in free)


def _map_at(node: YamlNode | None, *keys: str) -> YamlMap:
    for key in keys:
        node = node.entries.get(key) if isinstance(node, YamlMap) else None
    if not isinstance(node, YamlMap):
        raise _Irregular
    return node


def _is_no_text(plain: str) -> bool:
    return not is_text(plain)
