"""Edit after edit, a set that remembers the one before is what it is when read from nothing.

Documents are put in, taken out, exchanged, changed in a value, and damaged: the outcome is held
against reading it all and compiling each policy alone, down to what the policies decide.
MESHWARDEN_RANDOM_EDITS is how many histories there are, MESHWARDEN_RANDOM_FIRST the first.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Mapping

import random_worlds
from reading_whole import outcome, read_whole, told

from identity.peer import Peer
from policies.form import split
from policies.load import Inspected, inspect_file
from policies.mesh import Mesh
from policies.pace import Pace
from policies.packing import pack, unpack
from policies.request import Request, Workload
from policies.set_memory import SetMemory, Texts
from policies.snapshot import Snapshot, WorkloadPolicies, build_snapshot

_HISTORIES = int(os.environ.get("MESHWARDEN_RANDOM_EDITS", "20"))
_FIRST = int(os.environ.get("MESHWARDEN_RANDOM_FIRST", "0"))
_EDITS = 25
_ODD = [
    "\n", "---\n", "--- ", "...\n", "%YAML 1.1\n", "# c\n", "&a ", "*a ", "!!str ", "! ", "|\n",
    ">\n", "<<: ", "\t", " ", "  ", "'", '"', "{", "}", "[", "]", ",", ": ", ":", "- ", "-", "? ",
    "\r\n", "\r", "\x85", "\u2028", "\ufeff", "\x00", "\x07", "null", "~", "yes", "0x1f", "1e3",
    "1", "1.0", "=", "\\u0061", "\\", "é", "@", "`", "%", "#", " #", "name: b\n", "  name: b\n",
    "spec: {}\n", "metadata: {name: c}\n", "x" * 300, "x" * 520, "1_0", "0o7", "08", "+1", ".5",
    "-.inf", "2026-01-01", "''", '""', "*", "**", "{*}",
]  # fmt: skip
_WORDS = ["b", "c-1", "GET", "PUT", "/x/y", "10.2.3.4", "shop", "web", "x" * 101, "on", "1", "a.b"]
_LABELS: tuple[Mapping[str, str], ...] = ({}, {"app": "a"})
_REQUESTS = [
    Request(
        method=method,
        path=path,
        host="shop",
        destination_port=80,
        source_ip="10.1.2.3",
        headers={"x-a": ("x",)},
        peer=Peer.from_principal(principal),
    )
    for method, path, principal in itertools.product(
        ("GET", "POST"),
        ("/a", "/a/b", "/x/y"),
        ("", "spiffe://mesh.example/ns/shop/sa/web", "spiffe://old/ns/shop/sa/web"),
    )
]


def _by_another_process(texts: Texts, pace: Pace) -> Iterable[Inspected]:
    """Read texts as they come back from the process that reads."""
    return [unpack(pack(inspect_file(*each))) for each in texts]


def _document(chance: random.Random, number: int) -> str:
    found = random_worlds.policy(chance, f"p{number}")
    return random_worlds.text_of(chance, found, chance.randrange(4))


def _alike(chance: random.Random, text: str, number: int) -> str:
    """Return a text with some of its words exchanged: the last ones are those of its values."""
    parts = split(text)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        place = chance.randrange(len(parts) // 2) * 2 + 1 if len(parts) > 1 else 0
        parts[place] = chance.choice([*_WORDS, f"q{number}"])
    return "".join(parts)


def _edit(chance: random.Random, texts: list[str], number: int) -> None:
    dice = chance.random()
    if dice < 0.12 or not texts:
        texts.insert(chance.randrange(len(texts) + 1), _document(chance, number))
        return
    at = chance.randrange(len(texts))
    if dice < 0.2:
        del texts[at : at + chance.choice((1, 1, 2))]
    elif dice < 0.3:
        del texts[chance.choice((at, len(texts) - 1)) :]
    elif dice < 0.6:
        texts[at] = _alike(chance, texts[at], number)
    elif dice < 0.72:
        texts.insert(chance.randrange(len(texts) + 1), _alike(chance, texts[at], number))
    elif dice < 0.76:
        chance.shuffle(texts)
    elif dice < 0.84:
        lines = texts[at].split("\n")
        place = chance.randrange(len(lines))
        other: list[list[str]] = [[], ["# c"], [""], [lines[place], lines[place]]]
        lines[place : place + chance.choice((0, 1))] = chance.choice(other)
        texts[at] = "\n".join(lines)
    else:
        begin = chance.randrange(len(texts[at]) + 1)
        end = begin + chance.choice((0, 0, 1, 3))
        texts[at] = texts[at][:begin] + chance.choice(_ODD) + texts[at][end:]


def _decided(found: list[WorkloadPolicies]) -> list[object]:
    """Return what policies make of every request."""
    return [
        (
            index.first_match(request),
            index.all_matches(request),
            [rule.ref for rule in index.near_rules(request)],
        )
        for policies in found
        for index in (*policies.indexes(), policies.with_all_enforced().deny)
        for request in _REQUESTS
    ]


class _History:
    """Files that are edited, and the memory that they are read with."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        chance = self.chance = random.Random(seed)
        self.memory = SetMemory() if chance.random() < 0.5 else SetMemory(_by_another_process)
        self.mesh = Mesh(trust_domain="mesh.example")
        self.between = chance.choice(("---\n",) * 4 + ("--- # x\n", "\n---\n", "...\n---\n"))
        self.files = [
            [_document(chance, number) for number in range(chance.choice((0, 1, 3, 6)))]
            for _ in range(chance.choice((1, 1, 2)))
        ]
        self.before: list[WorkloadPolicies | None] = [None] * len(_LABELS)

    def step(self, number: int) -> bool:
        """Read the files both ways, then edit one; return whether they were loaded."""
        chance = self.chance
        kept = [list(each) for each in self.files]
        if number:
            _edit(chance, chance.choice(self.files), number)
        if chance.random() < 0.06:
            aliases = chance.choice(((), ("old",)))
            self.mesh = Mesh(trust_domain="mesh.example", trust_domain_aliases=aliases)
        texts = [(f"{place}.yaml", self.between.join(e)) for place, e in enumerate(self.files)]
        whole = outcome(lambda: read_whole(texts, self.mesh))
        shared = outcome(lambda: build_snapshot(texts, self.mesh, memory=self.memory))
        assert told(whole) == told(shared), (self.seed, texts)
        if not isinstance(whole, Snapshot) or not isinstance(shared, Snapshot):
            self.files = kept if chance.random() < 0.8 else self.files
            return False
        alone, beside = [], []
        for labels, before in zip(_LABELS, self.before, strict=True):
            workload = Workload(namespace="shop", labels=labels)
            alone.append(whole.select(workload))
            beside.append(shared.select(workload, before=before))
        assert _decided(alone) == _decided(beside), (self.seed, texts)
        self.before = [*beside]
        return True


def test_edited_sets_are_what_they_are_when_read_from_nothing() -> None:
    """In every history each set has the same policies, findings and decisions."""
    loaded = 0
    for seed in range(_FIRST, _FIRST + _HISTORIES):
        history = _History(seed)
        loaded += sum(history.step(number) for number in range(_EDITS))
    assert loaded > 4 * _HISTORIES
