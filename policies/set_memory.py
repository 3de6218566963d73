"""What a build made of each file and each policy, for the next one to take.

Theory of operation. A reload reads again only files whose text changed, and compiles only
policies that were read again; a value that is taken over is the very same object. What the
last build did not use is forgotten. Between its pieces the build calls `pace`, so that
whoever serves meanwhile can have the interpreter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from policies.load import Inspected, inspect_file
from policies.matchers import CompiledPolicy, Predicates, compile_policy
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy
from policies.pace import Pace, paced

Texts = Sequence[tuple[str, str]]
"""File names with their texts."""
ReadFiles = Callable[[Texts, Pace], Iterable[Inspected]]
"""Reads files, in their order."""


def read_here(texts: Texts, pace: Pace) -> Iterable[Inspected]:
    """Read files in this process."""
    for file, text in paced(texts, pace):
        yield inspect_file(file, text)


class SetMemory:
    """Remembers one set of files and policies. Not for two builds at once."""

    def __init__(self, read: ReadFiles = read_here) -> None:
        """Start empty; `read` is asked for the files that are not known."""
        self._read = read
        self._files: dict[tuple[str, bytes], Inspected] = {}
        self._compiled: list[tuple[AuthorizationPolicy, CompiledPolicy]] = []
        self._mesh: Mesh | None = None

    def files(self, texts: Texts, pace: Pace) -> list[Inspected]:
        """Return what each file holds, read now or before."""
        keys = [
            (file, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
            for file, text in texts
        ]
        fresh = [index for index, key in enumerate(keys) if key not in self._files]
        found = dict(zip(keys, map(self._files.get, keys), strict=True))
        read = self._read([texts[index] for index in fresh], pace)
        found.update(zip((keys[index] for index in fresh), read, strict=True))
        self._files = {key: each for key, each in found.items() if each is not None}
        return [self._files[key] for key in keys]

    def compiled(
        self, policies: Iterable[AuthorizationPolicy], mesh: Mesh, pace: Pace
    ) -> list[tuple[AuthorizationPolicy, CompiledPolicy]]:
        """Return each policy with its compiled form."""
        # A policy is held beside its number, so that no other can have it.
        before = {id(pair[0]): pair for pair in self._compiled} if mesh == self._mesh else {}
        pairs = []
        predicates: Predicates = {}
        for policy in paced(policies, pace):
            known = before.get(id(policy))
            pairs.append(known or (policy, compile_policy(policy, mesh, known=predicates)))
        self._mesh = mesh
        self._compiled = pairs
        return pairs
