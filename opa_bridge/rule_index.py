"""Clauses that cannot match are not asked: a table of rules costs what its one row costs.

Theory of operation. The library tries every clause of a rule in turn, and a table of paths
has hundreds. Where clauses of the asked rule say `input.x == "text"`, those with another
text than the request's cannot match, whatever else they say. So for each text a rule is
written that holds only the clauses which can match, as source behind the module's own,
and the request's text chooses which one is asked. OPA indexes its rules likewise. The
library's time also grows with all that it loaded, so these rules stand in several sets
of modules, a few in each.
INVARIANT: a statement counts only where it stands alone in the clause's body and can be
read in one way; any doubt, in a clause or a request, asks the whole rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opa_bridge.scanner import Kind, ScanError, Token, scan_tokens
from opa_bridge.statements import can_end, statements_of

# BUDGET: fewer clauses are tried as fast as they are chosen from.
_CLAUSES_LEAST: Final = 8
# BUDGET: what may be written, in clauses for each clause that is there; and rules in all.
_GROWTH_MOST: Final = 8
_RULES_MOST: Final = 4096
_PREFIX: Final = "meshwarden_clauses_"
_EQUALS: Final = frozenset({"==", "="})
# Texts that have one spelling: the library compares spellings, and escapes have several.
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*")


# BUDGET: sets of modules; each holds the data once more, so large data stay in one set.
_SETS_MOST: Final = 16
_DATA_BYTES_MOST: Final = 256 * 1024

Way = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """Modules (file, source) that are loaded together, and what is asked of them."""

    modules: tuple[tuple[str, str], ...]
    entrypoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """Rules of fewer clauses in the place of one; their place counts through all sets.

    The first is the whole rule, alone in its set; the second the clauses that match any text.
    """

    sets: tuple[ModuleSet, ...]
    way: Way
    places: Mapping[str, int]

    def choose(self, document: Mapping[str, Any]) -> int:
        """Return the place of the entrypoint that answers for an input."""
        if not self.way:
            return 0
        value: Any = document
        for step in self.way:
            if isinstance(step, str) and isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(step, int) and isinstance(value, (list, tuple)):
                value = value[step] if step < len(value) else None
            else:
                value = None
        if not isinstance(value, str):
            # What is absent or of another type equals no text.
            return 1
        return self.places.get(value, 1) if _PLAIN.fullmatch(value) else 0


def no_index(modules: Sequence[tuple[str, str]], entrypoint: str) -> RuleIndex:
    """Return the index that always asks the whole rule."""
    return RuleIndex((ModuleSet(tuple(modules), (entrypoint,)),), (), {})


def index_rule(
    modules: Sequence[tuple[str, str]], entrypoint: str, data_bytes: int = 0
) -> RuleIndex | None:
    """Return an index for the asked rule of modules (file, source), or None.

    None: the rule is small, stands in several modules, or has no clauses that exclude
    each other by a text of the input.
    """
    package, _, rule = entrypoint.rpartition("/")
    found: list[tuple[int, _Rule]] = []
    for place, (_, source) in enumerate(modules):
        try:
            tokens = scan_tokens(source)
        except ScanError:
            return None
        # The rules that are written must be seen by nobody.
        if _PREFIX in source or _looks_into(tokens, package.split("/")):
            return None
        if _package_of(tokens) != package:
            continue
        clauses = _read_rule(source, tokens, rule)
        if clauses is None:
            return None
        if clauses.texts:
            found.append((place, clauses))
    if len(found) != 1:
        return None
    place, whole = found[0]
    parted = _parted(whole)
    if parted is None:
        return None
    way, texts, parts = parted
    is_alone = data_bytes > _DATA_BYTES_MOST or _is_named(modules, rule, len(whole.spans))
    size = len(parts) if is_alone else max(_CLAUSES_LEAST, -(-len(parts) // _SETS_MOST))
    file, source = modules[place]
    rest = source if is_alone else _without(source, whole.spans)
    sets = [ModuleSet(tuple(modules), (entrypoint,))]
    for begin in range(0, len(parts), size):
        names = [f"{_PREFIX}{number}" for number in range(begin, min(begin + size, len(parts)))]
        written = [
            line
            for name, part in zip(names, parts[begin : begin + size], strict=True)
            for line in part.written(name)
        ]
        changed = [*modules]
        changed[place] = (file, "\n".join([rest, *written, ""]))
        sets.append(ModuleSet(tuple(changed), tuple(f"{package}/{name}" for name in names)))
    return RuleIndex(tuple(sets), way, {text: number for number, text in enumerate(texts, 2)})


@dataclass(frozen=True, slots=True)
class _Clause:
    """A clause without the rule's name, and the texts that it asks of the input."""

    text: str
    equal: Mapping[Way, str]


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a rule can match one text."""

    default: str
    clauses: list[_Clause]

    def written(self, name: str) -> Iterator[str]:
        """Yield the source of it as a rule of its own."""
        if self.default:
            yield f"default {name}{self.default}"
        elif not self.clauses:
            yield f"{name} if false"
        for clause in self.clauses:
            yield f"{name}{clause.text}"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule's clauses; `default` is its default clause without the name, or empty.

    `spans` are the offsets of all of it in the source.
    """

    default: str
    clauses: tuple[_Clause, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def texts(self) -> bool:
        """Whether there is anything of the rule."""
        return bool(self.clauses or self.default)


def _parted(whole: _Rule) -> tuple[Way, list[str], list[_Part]] | None:
    """Return by what a rule is parted, the texts, and the parts: first that of no text."""
    counts = Counter(way for clause in whole.clauses for way in clause.equal)
    if len(whole.clauses) < _CLAUSES_LEAST or not counts:
        return None
    way = max(counts, key=lambda each: (_distinct(whole, each), counts[each]))
    texts = list(dict.fromkeys(c.equal[way] for c in whole.clauses if way in c.equal))
    parts = [_Part(whole.default, [c for c in whole.clauses if way not in c.equal])]
    parts += [
        _Part(whole.default, [c for c in whole.clauses if c.equal.get(way, text) == text])
        for text in texts
    ]
    size = sum(len(part.clauses) for part in parts)
    is_too_large = size > _GROWTH_MOST * len(whole.clauses) or len(texts) > _RULES_MOST
    return None if is_too_large else (way, texts, parts)


def _without(source: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return a source without some spans, its lines where they were."""
    kept, place = [], 0
    for begin, end in spans:
        kept += [source[place:begin], "\n" * source.count("\n", begin, end)]
        place = end
    return "".join([*kept, source[place:]])


def _is_named(modules: Sequence[tuple[str, str]], rule: str, heads: int) -> bool:
    """Return whether anything but the heads of its own clauses may name a rule."""
    tokens = [token for _, source in modules for token in scan_tokens(source)]
    return sum(token.text.strip('"`') == rule for token in tokens) != heads


def _distinct(whole: _Rule, way: Way) -> int:
    return len({clause.equal[way] for clause in whole.clauses if way in clause.equal})


def _read_rule(source: str, tokens: tuple[Token, ...], rule: str) -> _Rule | None:
    """Return the clauses of a rule in a module; None when one is of another form."""
    aliases = _aliases(tokens)
    if aliases is None:
        return None
    default = ""
    clauses: list[_Clause] = []
    spans: list[tuple[int, int]] = []
    for begin, end in statements_of(tokens):
        is_default = tokens[begin].text == "default" and begin + 1 < end
        head = begin + is_default
        if tokens[head].text != rule:
            continue
        if not _is_plain(tokens[head:end]):
            return None
        text = source[tokens[head].end : tokens[end - 1].end]
        spans.append((tokens[begin].start, tokens[end - 1].end))
        if is_default:
            default = text
        else:
            clauses.append(_Clause(text, dict(_equalities(tokens[begin:end], aliases))))
    return _Rule(default, tuple(clauses), tuple(spans))


def _is_plain(clause: tuple[Token, ...]) -> bool:
    """Return whether a clause gives the rule one value, and nothing else a value."""
    # A function, a set, an object or an `else` is more than one value by its clauses.
    if len(clause) < 3 or clause[1].text not in ("if", ":=", "="):  # name, sign, value
        return False
    outside = [token.text for token in clause[1:] if token.depth == 0]
    return not {"else", ";", clause[0].text} & set(outside)


def _equalities(clause: tuple[Token, ...], aliases: Mapping[str, Way]) -> Iterator[tuple[Way, str]]:
    """Yield each `input.x == "text"` that stands alone in the body of a clause."""
    body = _body(clause)
    for begin, end in _alone(body):
        statement = body[begin:end]
        signs = [i for i, token in enumerate(statement) if token.text in _EQUALS]
        if len(signs) != 1:
            continue
        left, right = statement[: signs[0]], statement[signs[0] + 1 :]
        for ref, literal in ((left, right), (right, left)):
            way = _way_of(ref, aliases)
            if way and len(literal) == 1 and literal[0].kind is Kind.STRING:
                spelled = literal[0].text
                if _PLAIN.fullmatch(spelled[1:-1]):
                    yield way, spelled[1:-1]


def _body(clause: tuple[Token, ...]) -> tuple[Token, ...]:
    """Return what stands behind `if`, without its braces; nothing where that is not clear."""
    outer = clause[0].depth
    for index, token in enumerate(clause[:-1]):
        if token.text == "if" and token.depth == outer:
            if clause[index + 1].text != "{":
                return clause[index + 1 :]
            inner = clause[index + 2 : -1]
            # Neither `if {…} | {…}` nor a comprehension, `if {… | …}`, is a body in braces.
            is_body = clause[-1].text == "}" and all(
                each.depth > outer and (each.text, each.depth) != ("|", outer + 1) for each in inner
            )
            return inner if is_body else ()
    return ()


def _alone(body: tuple[Token, ...]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the statements of a body that are surely statements."""
    if not body:
        return
    depth = body[0].depth
    begin = 0
    for index in range(1, len(body) + 1):
        is_end = index == len(body)
        if not is_end and body[index].depth != depth:
            continue
        if (
            is_end
            or body[index].text == ";"
            or (body[index].starts_line and _is_boundary(body, index))
        ):
            yield begin, index
            begin = index + (not is_end and body[index].text == ";")


def _is_boundary(body: tuple[Token, ...], index: int) -> bool:
    token = body[index]
    is_name = token.kind is Kind.NAME and token.text not in ("with", "in", "as", "else", "if")
    return (is_name or token.kind is Kind.STRING) and can_end(body[index - 1])


def _way_of(ref: tuple[Token, ...], aliases: Mapping[str, Way]) -> Way:
    """Return the way into the input that a reference spells; empty for anything else."""
    if not ref or ref[0].kind is not Kind.NAME:
        return ()
    start: Way | None = () if ref[0].text == "input" else aliases.get(ref[0].text)
    if start is None:
        return ()
    way, index = list(start), 1
    while index < len(ref):
        following = ref[index + 1] if index + 1 < len(ref) else None
        if ref[index].text == "." and following is not None and following.kind is Kind.NAME:
            way.append(following.text)
            index += 2
        elif (
            ref[index].text == "["
            # Behind a blank or on a line of its own, a bracket begins an array.
            and ref[index].start == ref[index - 1].end
            and index + 2 < len(ref)
            and ref[index + 2].text == "]"
        ):
            assert following is not None
            if following.kind is Kind.STRING and _PLAIN.fullmatch(following.text[1:-1]):
                way.append(following.text[1:-1])
            elif following.kind is Kind.NUMBER and following.text.isdecimal():
                way.append(int(following.text))
            else:
                return ()
            index += 3
        else:
            return ()
    return tuple(way)


def _aliases(tokens: tuple[Token, ...]) -> dict[str, Way] | None:
    """Return the names that `import input.x` gives, where nothing else bears them.

    None: an import gives another document the name `input`.
    """
    found: dict[str, Way] = {}
    own: set[int] = set()
    for begin, end in statements_of(tokens):
        clause = tokens[begin:end]
        if clause[0].text != "import":
            continue
        own.update(range(begin, end))
        ref, name = clause[1:], clause[-1].text
        if len(clause) > 3 and clause[-2].text == "as":
            ref = clause[1:-2]
        if name == "input" and [each.text for each in ref] != ["input"]:
            return None
        if way := _way_of(ref, {}):
            found[name] = way
    for index, token in enumerate(tokens):
        if token.kind is not Kind.NAME or token.text not in found or index in own:
            continue
        before = tokens[index - 1].text
        following = tokens[index + 1].text if index + 1 < len(tokens) else ""
        is_head = token.starts_line and token.depth == 0
        if before != "." and (is_head or following not in (".", "[")):
            del found[token.text]
    return found


def _looks_into(tokens: tuple[Token, ...], package: list[str]) -> bool:
    """Return whether a module may look at all rules of a package at once."""
    for index, token in enumerate(tokens):
        if token.text != "data" or (index and tokens[index - 1].text == "."):
            continue
        names: list[str] = []
        place = index + 1
        while place + 1 < len(tokens) and tokens[place].text == ".":
            names.append(tokens[place + 1].text)
            place += 2
        if names == package[: len(names)]:
            return True
    return False


def _package_of(tokens: tuple[Token, ...]) -> str:
    for begin, end in statements_of(tokens):
        if tokens[begin].text == "package":
            return "".join(token.text for token in tokens[begin + 1 : end]).replace(".", "/")
    return ""
