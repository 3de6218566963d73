"""What a build made of each document and each policy, for the next one to take.

Theory of operation. A reload reads again only documents that changed or moved, and compiles only
policies that were read again; a value that is taken over is the very same object. A document of
a form that was met before is read by that form. What the last build did not use is forgotten.
Between its pieces the build calls `pace`, so that whoever serves meanwhile can have the
interpreter.

INVARIANT: a file comes to what it comes to when it is read whole. So whatever is wrong with one
that was read in part, it is read whole after all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, TypeVar

from policies.diagnostic import Diagnostic
from policies.documents import MAX_NODES
from policies.form import Policies
from policies.form_memory import FormMemory
from policies.load import Inspected, inspect_file
from policies.matchers import CompiledPolicy, Predicates, compile_policy
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy, Resource
from policies.pace import Pace, paced
from policies.stretches import Stretches, cut, runs

Texts = Sequence[tuple[str, str, int]]
"""File names with texts, and the lines on which those begin."""
ReadFiles = Callable[[Texts, Pace], Iterable[Inspected]]
"""Reads texts, in their order."""

_NOTHING: Final = Inspected(resources=(), findings=())

_Found = TypeVar("_Found", bound=Resource | Diagnostic)


def read_here(texts: Texts, pace: Pace) -> Iterable[Inspected]:
    """Read files in this process."""
    for file, text, line in paced(texts, pace):
        yield inspect_file(file, text, line)


@dataclass(frozen=True, slots=True)
class _Known:
    """A file that was read: the digest of its text, how it was cut, and what it holds."""

    digest: bytes
    stretches: Stretches | None
    inspected: Inspected


@dataclass(frozen=True, slots=True)
class _Plan:
    """A file to read, `asked` of it now.

    `formed` was read by its form. What is in the stretches `kept` stays of what is `known`, where
    these have the numbers `kept_before`.
    """

    file: str
    text: str
    digest: bytes
    stretches: Stretches | None
    asked: Texts
    formed: Sequence[Inspected] = ()
    kept: Set[int] = frozenset()
    kept_before: Set[int] = frozenset()
    known: _Known | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is asked."""
        return not self.formed and not self.kept


class SetMemory:
    """Remembers one set of files and policies. Not for two builds at once."""

    def __init__(self, read: ReadFiles = read_here) -> None:
        """Start empty; `read` is asked for the texts that are not known."""
        self._read = read
        self._forms = FormMemory()
        self._files: dict[str, _Known] = {}
        self._compiled: list[tuple[AuthorizationPolicy, CompiledPolicy]] = []
        self._mesh: Mesh | None = None

    def files(self, texts: Sequence[tuple[str, str]], pace: Pace) -> list[Inspected]:
        """Return what each `(file name, text)` holds, read now or before."""
        plans = [
            _plan(file, text, self._files.get(file), self._forms, pace)
            for file, text in paced(texts, pace)
        ]
        read = iter(self._read_all([each for each in plans if isinstance(each, _Plan)], pace))
        known = [next(read) if isinstance(each, _Plan) else each for each in plans]
        self._files = {file: one for (file, _), one in zip(texts, known, strict=True)}
        return [one.inspected for one in known]

    def _read_all(self, plans: Sequence[_Plan], pace: Pace) -> list[_Known]:
        """Return what the files hold, those again and whole that cannot be told in part."""
        asked = [each for plan in plans for each in plan.asked]
        read = iter([one for _, one in zip(asked, self._read(asked, pace), strict=True)])
        found = [_joined(plan, [next(read) for _ in plan.asked]) for plan in plans]
        again = [plan for plan, one in zip(plans, found, strict=True) if one is None]
        whole = iter(self._read([(plan.file, plan.text, 1) for plan in again], pace))
        return [
            one or _Known(plan.digest, plan.stretches, next(whole))
            for plan, one in zip(plans, found, strict=True)
        ]

    def compiled(
        self, policies: Iterable[AuthorizationPolicy], mesh: Mesh, pace: Pace
    ) -> list[tuple[AuthorizationPolicy, CompiledPolicy]]:
        """Return each policy with its compiled form."""
        # A policy is held beside its number, so that no other can have it.
        known = self._compiled if mesh == self._mesh else []
        before = {id(pair[0]): pair for pair in known}
        # WHY by metadata: who has the very same has name and place of the one before.
        like = {id(pair[0].metadata): pair for pair in known}
        pairs = []
        predicates: Predicates = {}
        for policy in paced(policies, pace):
            pair = before.get(id(policy))
            if pair is None:
                old = like.get(id(policy.metadata))
                made = old[1] if old is not None and old[0].action is policy.action else None
                pair = policy, compile_policy(policy, mesh, known=predicates, before=made)
            pairs.append(pair)
        self._mesh = mesh
        self._compiled = pairs
        return pairs


def _plan(
    file: str, text: str, known: _Known | None, forms: FormMemory, pace: Pace
) -> _Plan | _Known:
    """Return what is to be read of a file, or what is known of it where it did not change."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    if known is not None and known.digest == digest:
        return known
    pieces = cut(text)
    if pieces is None:
        return _Plan(file, text, digest, None, [(file, text, 1)])
    pace()
    stretches, texts = pieces
    same, before = _same(known, stretches), _policies(known)
    pace()
    formed, rest = [], []
    for number, piece in enumerate(texts):
        if number in same:
            continue
        found = forms.read(file, piece, stretches.lines[number], before)
        if found is None:
            rest.append(number)
        else:
            formed.append(found)
        pace()
    asked = [(file, "".join(texts[begin:end]), stretches.lines[begin]) for begin, end in runs(rest)]
    plan = _Plan(
        *(file, text, digest, stretches, asked, formed),
        kept=same.keys(),
        kept_before=frozenset(same.values()),
        known=known if same else None,
    )
    # WHY at once: the pieces of a whole set would lie about between what stays.
    joined = None if asked else _joined(plan, ())
    if joined is None and not asked:
        return _Plan(file, text, digest, stretches, [(file, text, 1)])
    return joined or plan


def _policies(known: _Known | None) -> Policies:
    """Return the policies of a file, by name."""
    resources = known.inspected.resources if known is not None else ()
    return {
        (each.metadata.namespace, each.metadata.name): each
        for each in resources
        if isinstance(each, AuthorizationPolicy)
    }


def _same(known: _Known | None, stretches: Stretches) -> Mapping[int, int]:
    """Return the numbers of the stretches that are as they were, with those they had before."""
    if known is None or known.stretches is None or known.inspected.has_errors:
        return {}
    before = {place: number for number, place in enumerate(known.stretches.places())}
    numbered = enumerate(stretches.places())
    return {number: before[place] for number, place in numbered if place in before}


def _joined(plan: _Plan, read: Sequence[Inspected]) -> _Known | None:
    """Return what a file holds, or None where its parts do not tell it."""
    if plan.is_whole or plan.stretches is None:
        return _Known(plan.digest, plan.stretches, read[0])
    new = [*plan.formed, *read]
    before = plan.known.inspected if plan.known is not None else _NOTHING
    # What was taken out is not taken off: so much the file has at most.
    nodes = before.nodes + sum(each.nodes for each in new)
    if nodes > MAX_NODES or any(each.has_errors for each in new):
        return None
    stretches = plan.stretches
    # WHY by those of before: the last stretch now has no end, and what stood behind it is gone.
    cut_before = plan.known.stretches if plan.known is not None else None

    def stays(found: Resource | Diagnostic) -> bool:
        return cut_before is not None and cut_before.number_at(_line(found)) in plan.kept_before

    def in_order(old: Sequence[_Found], new: Sequence[_Found]) -> tuple[_Found, ...]:
        staying = [each for each in old if stays(each)]
        return tuple(sorted([*staying, *new], key=lambda each: stretches.number_at(_line(each))))

    inspected = Inspected(
        resources=in_order(before.resources, [one for each in new for one in each.resources]),
        findings=in_order(before.findings, [one for each in new for one in each.findings]),
        nodes=nodes,
    )
    return _Known(plan.digest, stretches, inspected)


def _line(found: Resource | Diagnostic) -> int:
    place = found.location if isinstance(found, Diagnostic) else found.metadata.location
    return place.line
