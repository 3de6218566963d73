"""Finds rules that cover another one among thousands, without trying each of them.

Theory of operation. A rule can cover another one only if each of its conditions is implied by a
condition of the other on the same attribute. So one condition of each alternative is its
anchor, entered under its values; a rule that is looked for tells, by the values it has, under
which entries a cover of it can stand. What excludes and asks for nothing is entered under what
it excludes. Rules without a condition are tried always.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

from policies.lint.cover import Conjunction, alternatives, is_anchor_key, rule_covers, texts_of
from policies.mesh import Mesh
from policies.model import Action, AuthorizationPolicy, Clause, Rule

# BUDGET: selectors have one to three labels; the subsets of more are not looked through.
_MAX_LABELS = 6

_COMMON = frozenset({"operation.methods", "destination.port"})

Scope = tuple[str, frozenset[tuple[str, str]]]
"""Namespace and labels that a policy selects by."""

Placed = tuple[AuthorizationPolicy, Rule]
"""A rule with its policy."""


def scope_of(policy: AuthorizationPolicy) -> Scope:
    """Return what a policy selects by."""
    return policy.metadata.namespace, frozenset((policy.attachment.selector or {}).items())


class Scopes:
    """The enforced policies by action and scope, to find those whose scope holds another."""

    def __init__(self, policies: Iterable[AuthorizationPolicy], mesh: Mesh) -> None:
        """Sort them once; those with `targetRefs` are left out."""
        self._root = mesh.root_namespace
        self._by_scope: dict[tuple[Action, Scope], list[AuthorizationPolicy]] = defaultdict(list)
        for policy in policies:
            if not policy.dry_run and not policy.attachment.target_refs:
                self._by_scope[policy.action, scope_of(policy)].append(policy)

    def wider(self, policy: AuthorizationPolicy) -> tuple[Scope, ...]:
        """Return the scopes that hold that of `policy`, its own too; none where unsure."""
        namespace, labels = scope_of(policy)
        if policy.attachment.target_refs or len(labels) > _MAX_LABELS:
            return ()
        return tuple(
            (where, frozenset(subset))
            for size in range(len(labels) + 1)
            for subset in combinations(sorted(labels), size)
            for where in dict.fromkeys((namespace, self._root))
        )

    def of(self, action: Action, scope: Scope) -> list[AuthorizationPolicy]:
        """Return the policies of an action with exactly that scope."""
        return self._by_scope.get((action, scope), [])

    def around(self, policy: AuthorizationPolicy, action: Action) -> Iterator[AuthorizationPolicy]:
        """Yield the policies of an action that apply wherever `policy` does."""
        for scope in self.wider(policy):
            for other in self.of(action, scope):
                if other is not policy:
                    yield other


class CoverIndex:
    """Rules of policies of one action, to ask which of them covers another rule."""

    def __init__(self, policies: Iterable[AuthorizationPolicy], mesh: Mesh) -> None:
        """Enter every rule under its anchors."""
        self._mesh = mesh
        self._anchored: dict[tuple[str, str], list[Placed]] = defaultdict(list)
        self._excluding: dict[str, dict[str, list[Placed]]] = defaultdict(dict)
        self._free: list[Placed] = []
        # How long the entered prefixes and suffixes of a key are, their star counted.
        self._heads: dict[str, set[int]] = defaultdict(set)
        self._tails: dict[str, set[int]] = defaultdict(set)
        for policy in policies:
            for rule in policy.rules:
                self._enter((policy, rule))

    def _enter(self, placed: Placed) -> None:
        for alternative in alternatives(placed[1]):
            anchor = _anchor(alternative)
            if anchor is None:
                self._enter_excluding(placed, alternative)
                continue
            for value in anchor.values:
                for text in texts_of(anchor.key, value.text, self._mesh.trust_domains):
                    self._anchored[anchor.key, text].append(placed)
                    if text.startswith("*"):
                        self._tails[anchor.key].add(len(text))
                    elif text.endswith("*"):
                        self._heads[anchor.key].add(len(text))

    def _enter_excluding(self, placed: Placed, alternative: Conjunction) -> None:
        """Enter a rule without an anchor under the first text that it excludes."""
        clause = next((each for each in alternative if each.not_values), None)
        if clause is None:
            self._free.append(placed)
            return
        first = clause.not_values[0].text
        text = texts_of(clause.key, first, self._mesh.trust_domains)[0]
        self._excluding[clause.key].setdefault(text, []).append(placed)

    def covering(
        self, rule: Rule, but: AuthorizationPolicy, gone: frozenset[int] | set[int] = frozenset()
    ) -> Placed | None:
        """Return a rule that covers `rule`, of a policy that is neither `but` nor gone (by id)."""
        for placed in self.candidates(rule):
            policy, wide = placed
            if policy is but or id(policy) in gone:
                continue
            if rule_covers(wide, rule, policy.action, self._mesh):
                return placed
        return None

    def candidates(self, rule: Rule) -> Iterator[Placed]:
        """Yield each rule that may cover `rule`, and few others."""
        seen: set[int] = set()
        found = alternatives(rule)[:1]
        anchored = (
            placed
            for alternative in found
            for key in self._keys(alternative)
            for placed in self._anchored.get(key, ())
        )
        excluding = (placed for alternative in found for placed in self._of_excluding(alternative))
        for placed in (*anchored, *excluding, *(self._free if found else ())):
            if id(placed[1]) not in seen:
                seen.add(id(placed[1]))
                yield placed

    def _of_excluding(self, alternative: Conjunction) -> Iterator[Placed]:
        """Yield the rules without an anchor whose first exclusion the alternative may hold."""
        for clause in alternative:
            entries = self._excluding.get(clause.key)
            if not (entries and clause.not_values):
                continue
            texts = {
                text
                for value in clause.not_values
                for text in texts_of(clause.key, value.text, self._mesh.trust_domains)
            }
            # A pattern or a range holds many texts; all entries are looked through then.
            is_plain = is_anchor_key(clause.key) and not any("*" in text for text in texts)
            for text in texts & entries.keys() if is_plain else entries:
                yield from entries[text]

    def _keys(self, alternative: Conjunction) -> Iterator[tuple[str, str]]:
        """Yield the entries under which a rule stands that covers the alternative."""
        for clause in alternative:
            if not clause.values:
                continue
            # Every value is covered, so whatever covers the first one will do.
            key = clause.key
            text = texts_of(key, clause.values[0].text, self._mesh.trust_domains)[0]
            yield key, text
            bare = text.removesuffix("*") if text[0] != "*" else ""
            for length in self._heads.get(key, ()):
                if length <= len(bare) + 1:
                    yield key, f"{bare[: length - 1]}*"
            tail = text.removeprefix("*")
            for length in self._tails.get(key, ()):
                if length <= len(tail) + 1:
                    yield key, f"*{tail[len(tail) - length + 1 :]}"


def _anchor(alternative: Conjunction) -> Clause | None:
    """Return the condition that tells rules apart best, none of whose values is a lone `*`."""
    named = [
        clause
        for clause in alternative
        if clause.values
        and is_anchor_key(clause.key)
        and not any(value.text == "*" for value in clause.values)
    ]
    return min(named, key=_commonness, default=None)


def _commonness(clause: Clause) -> tuple[bool, int]:
    # Half of all rules are about GET.
    return clause.key in _COMMON, len(clause.values)
