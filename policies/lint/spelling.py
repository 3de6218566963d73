"""Rules about how texts are written: what cannot be seen, is said twice, is nearly a name."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from policies.diagnostic import shown
from policies.dry_run_annotation import DRY_RUN_ANNOTATION
from policies.lint.cover import is_anchor_key, list_covers
from policies.lint.facts import Facts, clauses_of, resource_name, rules_of
from policies.lint.finding import Spot
from policies.lint.registry import rule
from policies.lint.spots import spot_at
from policies.lint.suppression import ANNOTATION
from policies.model import Value

# BUDGET: of a list of ranges, those that the others are held against.
_RANGES_MOST: Final = 20
_DOTTED: Final = re.compile(r"request\.auth\.claims\[([a-z_]+\.[a-z_.]+)\]", re.ASCII)
_KNOWN: Final = (DRY_RUN_ANNOTATION, ANNOTATION)
_OURS: Final = ("istio.io/", "meshwarden.io/")
_ALPHABETS: Final = ("LATIN", "CYRILLIC", "GREEK")


@rule("MW0215")
def without_the_apex(facts: Facts) -> Iterator[Spot]:
    """A host suffix with its dot, beside which the domain itself is missing."""
    for each in facts.values("operation.hosts"):
        text = each.value.text
        if not text.startswith("*.") or "*" in text[1:]:
            continue
        beside = each.clause.not_values if each.is_negated else each.clause.values
        if text[2:] not in {value.text for value in beside}:
            yield spot_at(each, f"`{shown(text)}` leaves `{shown(text[2:])}` itself out",
                        f"add `{shown(text[2:])}` if it was meant")  # fmt: skip


@rule("MW0222")
def not_as_it_looks(facts: Facts) -> Iterator[Spot]:
    """A value with characters that cannot be seen, or of an alphabet that looks like another."""
    for each in facts.every_value():
        fault = _fault(each.value.text)
        if fault:
            yield spot_at(each, f"`{shown(each.value.text)}` {fault}")


def _fault(text: str) -> str:
    """Return what is not as it looks in a text, or an empty one."""
    if text != text.strip():
        return "begins or ends with a space"
    if text.isascii():
        return ""
    odd = next((c for c in text if unicodedata.category(c) in ("Cf", "Zs", "Cc")), None)
    if odd is not None:
        return f"holds a character that cannot be seen, U+{ord(odd):04X}"
    names = {unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha()}
    mixed = [name for name in _ALPHABETS if name in names]
    return f"mixes letters of {' and '.join(mixed).title()}" if len(mixed) > 1 else ""


@rule("MW0306")
def implied_value(facts: Facts) -> Iterator[Spot]:
    """A value of which another one of its list matches all."""
    mesh = facts.mesh
    for policy in facts.policies:
        for rule_path, each in rules_of(policy):
            for path, clause in clauses_of(each, rule_path):
                for values in (clause.values, clause.not_values):
                    told: set[str] = set()
                    for value, by in _implied(clause.key, values):
                        if value.text in told:
                            continue
                        if list_covers(clause.key, (by,), (value,), mesh):
                            told.add(value.text)
                            yield Spot(
                                message=f"`{shown(by.text)}` matches all that"
                                f" `{shown(value.text)}` does",
                                location=value.location,
                                resource=resource_name(policy),
                                path=path,
                            )


def _implied(key: str, values: tuple[Value, ...]) -> Iterator[tuple[Value, Value]]:
    """Yield values of a list, each with another one that may match all of it."""
    if len(values) < len("ab"):
        return
    by_text = {value.text: value for value in values}
    heads = {len(text) for text in by_text if text.endswith("*")}
    tails = {len(text) for text in by_text if text.startswith("*")}
    ranges = [] if is_anchor_key(key) else [each for each in values if "/" in each.text]
    for value in values:
        text = value.text
        found = [f"{text[: length - 1]}*" for length in heads if length <= len(text)]
        found += [f"*{text[len(text) - length + 1 :]}" for length in tails if length <= len(text)]
        near = [by_text[each] for each in found if each in by_text] + ranges[:_RANGES_MOST]
        yield from ((value, each) for each in near if each.text != text)


@rule("MW0716")
def dot_in_a_claim(facts: Facts) -> Iterator[Spot]:
    """A claim's name with a dot, where one inside another was meant."""
    for policy in facts.policies:
        for rule_path, each in rules_of(policy):
            for path, clause in clauses_of(each, rule_path):
                found = _DOTTED.fullmatch(clause.key)
                if found is not None:
                    nested = "".join(f"[{part}]" for part in found[1].split("."))
                    yield Spot(
                        message=f"`{shown(found[1])}` is one name with a dot in it",
                        location=clause.location,
                        resource=resource_name(policy),
                        path=path,
                        help=f"write `request.auth.claims{nested}` for one claim inside another",
                    )


@rule("MW0814")
def nearly_an_annotation(facts: Facts) -> Iterator[Spot]:
    """An annotation that is nearly one that counts, and so counts for nothing."""
    for policy in facts.policies:
        for key in policy.metadata.annotations:
            if not key.startswith(_OURS) or key in _KNOWN:
                continue
            near = difflib.get_close_matches(key[:64], _KNOWN, n=1, cutoff=0.85)
            if near:
                yield Spot(
                    message=f"the annotation `{shown(key)}` is none that counts",
                    location=policy.metadata.location,
                    resource=resource_name(policy),
                    path=f"metadata.annotations.{shown(key)}",
                    help=f"did you mean `{near[0]}`?",
                )
