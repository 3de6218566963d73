"""A Rego module as its tokens show it: package, rules, imports, and every name that it uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opa_bridge.builtin_table import BUILTINS
from opa_bridge.scanner import Kind, ScanError, Token, scan_tokens
from opa_bridge.unbound import KEYWORDS
from policies.diagnostic import Diagnostic, Location

_HEAD_KEYWORDS = KEYWORDS - {"contains"}
# Behind one of these a line goes on; no rule begins there.
_GOES_ON = frozenset(
    {"if", ":=", "=", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "not", "in"}
)


@dataclass(frozen=True, slots=True)
class Module:
    """A scanned module: its package path (`envoy/authz`) and the rules it may define."""

    file: str
    source: str
    package: str
    rules: frozenset[str]
    imports: frozenset[str]
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A dotted name where it is used.

    `next_sign` is the sign that follows it, `before` the text that stands before. `start`
    and `end` are its place in the source, `following` the index of the token behind it.
    """

    text: str
    line: int
    next_sign: str
    before: str
    start: int
    end: int
    following: int

    @property
    def root(self) -> str:
        """The part before the first dot."""
        return self.text.partition(".")[0]


def scan_module(file: str, source: str) -> Module | Diagnostic:
    """Return the module, or why it cannot be read."""
    # WHY: the engine takes C strings, so it would not see what stands behind a NUL.
    if "\0" in source:
        return _error("rego.parse", "the file holds a NUL character", file, 1)
    try:
        tokens = scan_tokens(source)
    except ScanError as exc:
        return _error("rego.parse", exc.why, file, exc.line)
    package = _package(tokens)
    if package is None:
        help_ = "start the file with `package a.b`, plain names only"
        return _error("rego.package", "no readable package clause", file, 1, help_)
    imports = frozenset(_imported_names(tokens))
    return Module(file, source, package, frozenset(_rule_names(tokens)), imports, tokens)


def chains_of(tokens: tuple[Token, ...]) -> Iterator[Chain]:
    """Yield every dotted name that does not itself hang on a bracket or a call."""
    index = 0
    while index < len(tokens):
        token = tokens[index]
        hangs = index > 0 and tokens[index - 1].text == "."
        index += 1
        if token.kind is not Kind.NAME or hangs:
            continue
        text, last = token.text, token
        while _is_dot_name(tokens, index):
            last = tokens[index + 1]
            text += f".{last.text}"
            index += 2
        following = tokens[index].text if index < len(tokens) else ""
        if following == "(" and (text in _HEAD_KEYWORDS or _is_infix(tokens, index - 1)):
            continue
        first = index - 1 - 2 * text.count(".")
        before = tokens[first - 1].text if first else ""
        yield Chain(text, token.line, following, before, token.start, last.end, index)


def _is_infix(tokens: tuple[Token, ...], index: int) -> bool:
    """Whether `contains` stands behind the head of a partial set: `s contains (x) if ...`."""
    token = tokens[index]
    if token.text != "contains" or token.starts_line or not index or token.depth:
        return False
    before = tokens[index - 1]
    return before.text == "]" or (before.kind is Kind.NAME and before.text not in KEYWORDS)


def builtin_calls(module: Module, package_rules: Collection[str]) -> Iterator[Chain]:
    """Yield every call of a built-in that no rule of the package and no import hides."""
    for chain in chains_of(module.tokens):
        hidden = chain.root in module.imports or chain.text in package_rules
        if chain.next_sign == "(" and chain.text in BUILTINS and not hidden:
            yield chain


def rules_by_package(modules: Iterable[Module]) -> dict[str, set[str]]:
    """Return the rules that each package may define, over all its modules."""
    rules: dict[str, set[str]] = {}
    for module in modules:
        rules.setdefault(module.package, set()).update(module.rules)
    return rules


def rules_in_data(modules: Iterable[Module], data: Mapping[str, Any]) -> Iterator[str]:
    """Yield each rule, as package/rule, at whose place there are data as well.

    Spec: OPA refuses them when it loads: which of the two counted would be chance.
    """
    for module in modules:
        place: Any = data
        for part in module.package.split("/"):
            place = place.get(part) if isinstance(place, Mapping) else place
        if place is None:
            continue
        here = place if isinstance(place, Mapping) else module.rules
        for rule in sorted(module.rules):
            if rule in here:
                yield f"{module.package}/{rule}"


def arguments_of(module: Module, call: Chain) -> list[tuple[Token, ...]]:
    """Return the tokens of each argument of a call."""
    tokens = module.tokens
    opening = tokens[call.following]
    found: list[tuple[Token, ...]] = []
    current: list[Token] = []
    for token in tokens[call.following + 1 :]:
        is_outer = token.depth == opening.depth + 1
        if token.depth <= opening.depth:
            break
        if is_outer and token.text == ",":
            found.append(tuple(current))
            current = []
        else:
            current.append(token)
    return [*found, tuple(current)] if current else found


def _is_dot_name(tokens: tuple[Token, ...], index: int) -> bool:
    return (
        index + 1 < len(tokens)
        and tokens[index].text == "."
        and tokens[index + 1].kind is Kind.NAME
    )


def _package(tokens: tuple[Token, ...]) -> str | None:
    """Return the package as a slash path; None when the clause is missing or bracketed."""
    if len(tokens) < 2 or tokens[0].text != "package":  # clause and name
        return None
    chain = next(chains_of(tokens[1:]), None)
    if chain is None or tokens[1].kind is not Kind.NAME or chain.next_sign == "[":
        return None
    return chain.text.replace(".", "/")


def _imported_names(tokens: tuple[Token, ...]) -> Iterator[str]:
    for index, token in enumerate(tokens):
        if token.text != "import" or token.depth or not token.starts_line:
            continue
        clause = [found for found in tokens[index + 1 :] if found.line == token.line]
        # Only documents can be imported; an import of anything else proves nothing.
        if clause and clause[0].text in ("data", "input"):
            yield clause[-1].text.strip('"')


def _rule_names(tokens: tuple[Token, ...]) -> Iterator[str]:
    """Yield the names that stand where a rule may start; more than the rules, never fewer."""
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        # `import future.keywords.if` ends with a field.
        goes_on = before in _GOES_ON and (index < 2 or tokens[index - 2].text != ".")
        starts = token.starts_line and not goes_on
        starts = starts or before in ("default", ";", "}")
        if token.kind is not Kind.NAME or token.depth or not starts or before == ".":
            continue
        if token.text not in _HEAD_KEYWORDS:
            yield token.text


def _error(code: str, message: str, file: str, line: int, help_: str = "") -> Diagnostic:
    return Diagnostic(code=code, message=message, location=Location(file, line), help=help_)
