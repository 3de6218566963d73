"""Parts of literals stated on their own before them, for the library.

The library finds the ways through `input.xs[i]` only where that reference is all of a literal,
or stands alone on a side of it: `count(input.xs[i]) == 2` has no solution there. And a built-in
that fails gives a name a value that is no value: behind `y := startswith(4, "a")`, `not y` holds,
where OPA is past it. So such parts get names of their own before the literal, and what a
built-in gave is compared with itself, which fails where it failed. No line moves.

Spec: OPA: "built-in function calls that encounter errors [...] evaluate to undefined".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from opa_bridge.scanner import Kind, Token, scan_tokens
from opa_bridge.statements import branches_of, rules_of, steps_of
from opa_bridge.unbound import KEYWORDS

_PREFIX: Final = "meshwarden_part_"
_OPENERS: Final = frozenset({"{", "[", "("})
_INFIX: Final = frozenset({"+", "-", "*", "/", "|", "&", "==", "!=", "<", "<=", ">", ">=", "in"})

Span = tuple[int, int]


def state_parts(source: str) -> str:
    """Return a module whose literals hold no part that the library reads otherwise than OPA.

    >>> state_parts('package a\\nr if count(input.x[i]) == 1\\n').splitlines()[1]
    'r if { meshwarden_part_0 := input.x[i]; count(meshwarden_part_0) == 1 }'

    Raises:
        ScanError: it is no Rego.
    """
    return _Writer(source).module()


@dataclass(slots=True)
class _Step:
    """One literal under way: what is stated before it, and the `with` that counts for that."""

    replaced: str = ""
    stated: list[str] = field(default_factory=list)


class _Writer:
    """A source with its tokens; every method writes what stands between two of them."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = scan_tokens(source)
        self._places = {token.start: place for place, token in enumerate(self._tokens)}
        self._closers = dict(_pairs(self._tokens))
        self._names = 0
        self._prefix = _PREFIX
        while self._prefix in source:
            self._prefix += "_"

    def module(self) -> str:
        """Return the whole module."""
        parts, place = [], 0
        for rule in rules_of(self._tokens):
            for branch in branches_of(rule):
                head = self._span(branch.head)
                parts += [self._source[place : self._start(head[0])], self._plain(*head)]
                place = self._end(head[1])
                if branch.body:
                    begin, end = self._span(branch.body)
                    parts.append(self._source[place : self._start(begin)])
                    parts.append(self._body(begin, end, in_braces=branch.in_braces))
                    place = self._end(end)
        return "".join([*parts, self._source[place:]])

    # -- bodies

    def _body(self, begin: int, end: int, *, in_braces: bool = True) -> str:
        """Return a body, in braces where it needs some now."""
        parts, place = [], self._start(begin)
        is_longer = False
        for step in steps_of(self._tokens[begin:end]):
            first, last = self._span(step)
            stated, text, check = self._step(first, last)
            is_longer = is_longer or bool(stated or check)
            parts += [self._source[place : self._start(first)], stated, text, check]
            place = self._end(last)
        whole = "".join([*parts, self._source[place : self._end(end)]])
        return whole if in_braces or not is_longer else f"{{ {whole} }}"

    def _step(self, begin: int, end: int) -> tuple[str, str, str]:
        """Return what is stated before a literal, the literal, and what is behind it."""
        main = self._find(begin, end, "with") or end
        step = _Step()
        behind = self._replacements(main, end, step)
        first = self._tokens[begin].text
        if first in ("not", "default"):
            return "".join(step.stated), f"{self._plain(begin, main)}{behind}", ""
        if first in ("some", "every"):
            text = self._iteration(begin, main, step)
        elif (sign := self._find(begin, main, ":=") or self._find(begin, main, "=")) is not None:
            text = self._assignment(begin, sign, main, step)
        else:
            text = self._side(begin, main, step)
        return "".join(step.stated), f"{text}{behind}", self._check(begin, main)

    def _replacements(self, begin: int, end: int, step: _Step) -> str:
        """Return `with` clauses, each value with a name that OPA works out before the literal.

        WHY: the library passes over a clause whose value is undefined.
        """
        parts: list[str] = []
        replaced: list[str] = []
        while begin < end:
            word = self._find(begin, end, "as") or end - 1
            behind = self._find(word, end, "with") or end
            before = self._between(begin, word + 1)
            value = self._between(word + 1, behind)
            first = self._tokens[word + 1]
            is_name = first.kind is Kind.NAME and first.text not in KEYWORDS
            if is_name or word + 2 < behind:
                value = self._stated(self._side(word + 1, behind, _Step("", step.stated)), step)
            parts += [self._gap(begin), before, self._gap(word + 1), value]
            replaced.append(f" {self._one_line(begin, word + 1)} {value}")
            begin = behind
        step.replaced = "".join(replaced)
        return "".join(parts)

    def _stated(self, text: str, step: _Step, *, may_fail: bool = True) -> str:
        """Return the name that a text has from now on."""
        name = f"{self._prefix}{self._names}"
        self._names += 1
        check = f"{name} == {name}; " if may_fail else ""
        step.stated.append(f"{name} := {text}{step.replaced}; {check}")
        return name

    def _iteration(self, begin: int, end: int, step: _Step) -> str:
        """Return a declaration, `some … in …` or `every … in … {…}`."""
        word = self._find(begin, end, "in")
        if word is None:
            return self._plain(begin, end)
        if self._tokens[begin].text == "every" and self._tokens[end - 1].text == "}":
            opening = next(one for one, other in self._closers.items() if other == end - 1)
            domain = self._side(word + 1, opening, step)
            head = self._between(begin, word + 1) + self._gap(word + 1) + domain
            body = self._body(opening + 1, end - 1)
            return (
                f"{head}{self._gap(opening)}{{{self._gap(opening + 1)}{body}{self._gap(end - 1)}}}"
            )
        return (
            self._between(begin, word + 1) + self._gap(word + 1) + self._side(word + 1, end, step)
        )

    def _assignment(self, begin: int, sign: int, end: int, step: _Step) -> str:
        left = self._between(begin, sign)
        if self._tokens[sign].text == "=":
            left = self._side(begin, sign, step)
        right = self._side(sign + 1, end, step)
        middle = self._gap(sign) + self._tokens[sign].text + self._gap(sign + 1)
        return f"{left}{middle}{right}"

    def _check(self, begin: int, end: int) -> str:
        """Return what fails where a built-in behind `:=` or `=` did."""
        is_plain = begin + 1 < end and self._tokens[begin].kind is Kind.NAME
        if not is_plain or self._tokens[begin + 1].text not in (":=", "="):
            return ""
        depth = self._tokens[begin].depth
        called = any(
            token.depth == depth and (token.text in _INFIX or self._is_call(place))
            for place, token in enumerate(self._tokens[begin + 2 : end], begin + 2)
        )
        name = self._tokens[begin].text
        return f"; {name} == {name}" if called and name != "_" else ""

    # -- terms

    def _side(self, begin: int, end: int, step: _Step) -> str:
        """Return a side of a literal, whose own reference or call stays where it is."""
        chain = self._chain_end(begin)
        is_chain = self._begins_chain(begin) and chain == end
        return self._terms(begin, end, step, stays=begin if is_chain else -1)

    def _terms(self, begin: int, end: int, step: _Step, stays: int = -1) -> str:
        """Return terms with names for their parts."""
        parts: list[str] = []
        place = begin
        while place < end:
            if place > begin:
                parts.append(self._gap(place))
            if self._begins_chain(place):
                parts.append(self._chain(place, step, stays=place == stays))
                place = self._chain_end(place)
            elif place in self._closers and self._bar(place) is not None:
                parts.append(self._comprehension(place))
                place = self._closers[place] + 1
            else:
                parts.append(self._tokens[place].text)
                place += 1
        return "".join(parts)

    def _chain(self, begin: int, step: _Step, *, stays: bool) -> str:
        """Return a reference or a call, or the name that it got."""
        end = self._chain_end(begin)
        text = self._terms_of_chain(begin, end, step)
        opens = [place for place in range(begin, end) if self._is_own_bracket(begin, place)]
        is_call = any(self._tokens[place].text == "(" for place in opens)
        is_found = any(not self._is_fixed(place) for place in opens if not is_call)
        if stays or not (is_found or (is_call and self._is_native(begin, end))):
            return text
        return self._stated(text, step, may_fail=is_call)

    def _terms_of_chain(self, begin: int, end: int, step: _Step) -> str:
        parts: list[str] = []
        place = begin
        while place < end:
            if place > begin:
                parts.append(self._gap(place))
            parts.append(self._tokens[place].text)
            if place in self._closers:
                closer = self._closers[place]
                inner = self._terms(place + 1, closer, step)
                parts += [self._gap(place + 1) if inner else "", inner, self._gap(closer)]
                parts.append(self._tokens[closer].text)
                place = closer
            place += 1
        return "".join(parts)

    def _comprehension(self, opening: int) -> str:
        """Return a comprehension, its body written out."""
        closer, bar = self._closers[opening], self._bar(opening)
        assert bar is not None
        head = self._plain(opening + 1, bar)
        body = self._body(bar + 1, closer)
        return "".join(
            [
                self._tokens[opening].text + self._gap(opening + 1) + head,
                f"{self._gap(bar)}|{self._gap(bar + 1)}{body}",
                self._gap(closer) + self._tokens[closer].text,
            ]
        )

    def _plain(self, begin: int, end: int) -> str:
        """Return what stays as it is, but for the bodies in it."""
        parts: list[str] = []
        place = begin
        while place < end:
            if place > begin:
                parts.append(self._gap(place))
            if place in self._closers and self._bar(place) is not None:
                parts.append(self._comprehension(place))
                place = self._closers[place]
            else:
                parts.append(self._tokens[place].text)
            place += 1
        return "".join(parts)

    # -- tokens

    def _begins_chain(self, place: int) -> bool:
        token = self._tokens[place]
        is_field = place > 0 and self._tokens[place - 1].text == "."
        is_name = token.text not in KEYWORDS or self._is_call(place + 1)
        return token.kind is Kind.NAME and is_name and not is_field

    def _chain_end(self, begin: int) -> int:
        """Return where the reference or call ends that begins at a name."""
        place = begin + 1
        while place < len(self._tokens) and self._hangs(place):
            if self._tokens[place].text == ".":
                place += 2
            elif place in self._closers:
                place = self._closers[place] + 1
            else:
                break
        return place

    def _hangs(self, place: int) -> bool:
        token, before = self._tokens[place], self._tokens[place - 1]
        return token.text in (".", "[", "(") and token.start == before.end

    def _is_call(self, place: int) -> bool:
        if not 0 < place < len(self._tokens) or self._tokens[place].text != "(":
            return False
        before = self._tokens[place - 1]
        return before.kind is Kind.NAME and before.end == self._tokens[place].start

    def _is_own_bracket(self, begin: int, place: int) -> bool:
        return place in self._closers and self._tokens[place].depth == self._tokens[begin].depth

    def _is_fixed(self, opening: int) -> bool:
        """Return whether a step is a constant."""
        if self._closers[opening] != opening + 2:
            return False
        return self._tokens[opening + 1].kind in (Kind.STRING, Kind.NUMBER)

    def _is_native(self, begin: int, end: int) -> bool:
        """Return whether a call is of a built-in by its own name, and nothing behind it."""
        return (
            self._tokens[begin].text != "data" and self._closers.get(self._opening(end)) == end - 1
        )

    def _opening(self, end: int) -> int:
        return next((one for one, other in self._closers.items() if other == end - 1), -1)

    def _bar(self, opening: int) -> int | None:
        """Return where the `|` of a comprehension stands; None where a bracket holds no such."""
        if self._tokens[opening].text == "(":
            return None
        depth = self._tokens[opening].depth + 1
        for place in range(opening + 1, self._closers[opening]):
            token = self._tokens[place]
            if token.depth == depth and token.text in (";", ":=", ","):
                return None
            if token.depth == depth and token.text == "|":
                return place
        return None

    def _find(self, begin: int, end: int, text: str) -> int | None:
        """Return where a sign or word stands at the depth of the first token."""
        depth = self._tokens[begin].depth
        for place in range(begin, end):
            token = self._tokens[place]
            is_field = place > 0 and self._tokens[place - 1].text == "."
            if (token.depth, token.text) == (depth, text) and not is_field:
                return place
        return None

    def _span(self, tokens: tuple[Token, ...]) -> Span:
        begin = self._places[tokens[0].start]
        return begin, begin + len(tokens)

    def _start(self, place: int) -> int:
        return self._tokens[place].start

    def _end(self, behind: int) -> int:
        return self._tokens[behind - 1].end

    def _gap(self, place: int) -> str:
        """Return what stands between a token and the one before it."""
        return self._source[self._end(place) : self._start(place)]

    def _between(self, begin: int, end: int) -> str:
        return self._source[self._start(begin) : self._end(end)] if begin < end else ""

    def _one_line(self, begin: int, end: int) -> str:
        """Return tokens on one line, without the comments between them."""
        parts = [self._tokens[begin].text]
        for place in range(begin + 1, end):
            parts.append(" " if self._gap(place) else "")
            parts.append(self._tokens[place].text)
        return "".join(parts)


def _pairs(tokens: tuple[Token, ...]) -> Iterator[Span]:
    """Yield each opening bracket with its closing one."""
    stack: list[int] = []
    for place, token in enumerate(tokens):
        if token.kind is Kind.SIGN and token.text in _OPENERS:
            stack.append(place)
        elif token.kind is Kind.SIGN and token.text in ("}", "]", ")") and stack:
            yield stack.pop(), place
