"""Which parts of the input a policy can look at, found in its source.

Theory of operation. Every `input` in a module is followed along the names, texts and numbers that
hang on it (`input.attributes.request.http.headers["x-a"]`). Where the way goes on by
anything else (a variable, a bare `input` handed to a function, `with input as`), all
below that point is needed. What is left out cannot be seen by the policy, so the verdict
is the same, and turning the input into the engine's terms costs only what is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opa_bridge.scanner import Kind, ScanError, Token, scan_tokens

_Tree = dict[str | int, "_Tree | None"]


@dataclass(frozen=True, slots=True)
class NeededInput:
    """A tree of keys and places; None stands for everything below.

    The root None keeps the whole input.
    """

    tree: _Tree | None

    @classmethod
    def of_sources(cls, sources: Iterable[str]) -> NeededInput:
        """Return what the modules refer to; everything where one cannot be read."""
        tree: _Tree = {}
        for source in sources:
            try:
                tokens = scan_tokens(source)
            except ScanError:
                return cls(None)
            for path in _paths(tokens):
                if not path:
                    return cls(None)
                _note(tree, path)
        return cls(tree)

    def holds(self, *path: str) -> bool:
        """Return whether anything at or below a path of keys is needed."""
        tree = self.tree
        for key in path:
            if tree is None:
                return True
            if key not in tree:
                return False
            tree = tree[key]
        return True

    def pruned(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the document without what is not needed; unchanged parts are shared."""
        return document if self.tree is None else _pruned_object(document, self.tree)


def _pruned(value: Any, tree: _Tree | None) -> Any:
    if tree is None:
        return value
    if isinstance(value, Mapping):
        return _pruned_object(value, tree)
    if isinstance(value, list):
        return _pruned_list(value, tree)
    return value


def _pruned_object(value: Mapping[str, Any], tree: _Tree) -> dict[str, Any]:
    return {
        key: _pruned(value[key], below)
        for key, below in tree.items()
        if isinstance(key, str) and key in value
    }


def _pruned_list(value: list[Any], tree: _Tree) -> list[Any]:
    places = [place for place in tree if isinstance(place, int)]
    if not places:
        return value
    # What nobody looks at keeps its place, and what lies behind it all is not missed.
    return [
        _pruned(each, tree[place]) if place in tree else None
        for place, each in enumerate(value[: max(places) + 1])
    ]


def _note(tree: _Tree, path: list[str | int]) -> None:
    """Add a path; what is needed whole stays whole."""
    *way, last = path
    for key in way:
        below = tree.setdefault(key, {})
        if below is None:
            return
        tree = below
    tree[last] = None


def _paths(tokens: tuple[Token, ...]) -> Iterator[list[str | int]]:
    """Yield the way behind each `input`; an empty one needs everything."""
    for index, token in enumerate(tokens):
        hangs = index > 0 and tokens[index - 1].text == "."
        if token.kind is Kind.NAME and token.text == "input" and not hangs:
            yield list(_way(tokens, index + 1))


def _way(tokens: tuple[Token, ...], index: int) -> Iterator[str | int]:
    while index + 1 < len(tokens):
        sign, following = tokens[index].text, tokens[index + 1]
        if sign == "." and following.kind is Kind.NAME:
            yield following.text
            index += 2
        elif (
            sign == "["
            # Behind a blank or on a line of its own, a bracket begins an array.
            and tokens[index].start == tokens[index - 1].end
            and (following.kind is Kind.STRING or _is_place(following))
            and index + 2 < len(tokens)
            and tokens[index + 2].text == "]"
        ):
            yield int(following.text) if _is_place(following) else _text(following.text)
            index += 3
        else:
            return


def _is_place(token: Token) -> bool:
    return token.kind is Kind.NUMBER and token.text.isdecimal()


def _text(spelled: str) -> str:
    return spelled[1:-1] if spelled.startswith("`") else str(json.loads(spelled))
