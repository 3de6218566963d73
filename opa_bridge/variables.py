"""What OPA's compiler asks of variables, asked when modules load.

Spec: OPA refuses what is declared twice, used above its declaration, called as a document or
seen by nothing ("unsafe"). The library takes all of it, and leaves undefined or gives another
value to what OPA would never have run: `not x == 1` lets everybody pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from opa_bridge.builtin_table import BUILTINS
from opa_bridge.direct.parse import parse_negations
from opa_bridge.direct.syntax import Outside
from opa_bridge.scanner import Kind, Token
from opa_bridge.scopes import Declaration, How, Scopes
from opa_bridge.statements import can_end, rules_of
from opa_bridge.unbound import KEYWORDS

DOCUMENTS: Final = frozenset({"input", "data"})
_NO_VARIABLES: Final = KEYWORDS | DOCUMENTS | {"_"}
_HEAD_ENDS: Final = frozenset({":=", "=", "contains", "if"})

Finding = tuple[Token, str, str]
"""A token, what is wrong with it, and how to mend it."""


def misused_variables(tokens: tuple[Token, ...]) -> Iterator[Finding]:
    """Yield each variable that OPA would not compile, whatever is defined elsewhere."""
    yield from _renamed_documents(tokens)
    for rule in rules_of(tokens):
        if rule[0].text in DOCUMENTS:
            yield rule[0], f"a rule is called `{rule[0].text}`", "name it otherwise"
        scopes = Scopes(rule)
        yield from _documents(scopes)
        yield from _declared_again(scopes)
        yield from _used_above(scopes)
        yield from _misplaced(scopes)


def hidden_variables(tokens: tuple[Token, ...], known: Collection[str]) -> Iterator[Token]:
    """Yield each use of a variable that has its value in another scope alone.

    `known` are the rules of the package, the imports and the built-ins.
    """
    for rule in rules_of(tokens):
        scopes = Scopes(rule)
        negations = [
            (each.begin, each.end)
            for each in parse_negations(rule)
            if not isinstance(each, Outside)
        ]
        binders = set(_binders(scopes, negations))
        declared = {each.place for each in scopes.declarations}
        for place in scopes.names():
            name = rule[place].text
            if place in declared or name in _NO_VARIABLES:
                continue
            behind = rule[place + 1].text if place + 1 < len(rule) else ""
            around: list[int | None] = [*scopes.around(scopes.scope_of(place)), None]
            above = _declared_below(scopes, place)
            if above is not None:
                # What a comprehension names before its rule does is its own.
                around = around[: around.index(above)]
            elif name in known:
                continue
            if behind not in ("(", ".") and not any((each, name) in binders for each in around):
                yield rule[place]


def _declared_below(scopes: Scopes, place: int) -> int | None:
    """Return the enclosing scope that declares a name only behind a place, None for any other."""
    scope, _ = scopes.sees(place, scopes.tokens[place].text)
    if scope is None or scope == scopes.scope_of(place) or place < scopes.all[scope].body:
        return None
    name = scopes.tokens[place].text
    places = [e.place for e in scopes.declarations if (e.scope, e.name) == (scope, name)]
    return scope if place < min(places) or place in _values(scopes, scope, name) else None


def _values(scopes: Scopes, scope: int, name: str) -> set[int]:
    return {
        place
        for each in scopes.declarations
        if (each.scope, each.name) == (scope, name)
        for place in _value_of(scopes, each)
    }


def _renamed_documents(tokens: tuple[Token, ...]) -> Iterator[Finding]:
    is_import = False
    for place, token in enumerate(tokens[:-1]):
        if token.starts_line:
            is_import = token.text == "import"
        name = tokens[place + 1].text
        if is_import and token.text == "as" and name in DOCUMENTS:
            yield token, f"an import is called `{name}`", "name it otherwise"


def _documents(scopes: Scopes) -> Iterator[Finding]:
    """Yield where `input` or `data` is a variable, or stands where the library makes it one."""
    tokens = scopes.tokens
    for each in scopes.declarations:
        if each.name in DOCUMENTS:
            yield tokens[each.place], f"a variable is called `{each.name}`", "name it otherwise"
    for place, token in enumerate(tokens):
        if token.text != "=" or scopes.is_in_head(place):
            continue
        before, behind = tokens[place - 1], tokens[place + 1 : place + 2]
        is_plain = place < 2 or tokens[place - 2].text != "."
        is_left = before.text in DOCUMENTS and is_plain
        goes_on = place + 2 < len(tokens) and tokens[place + 2].text in (".", "[")
        is_right = bool(behind) and behind[0].text in DOCUMENTS and not goes_on
        # `x = input` gives the variable its value.
        is_right = is_right and before.kind is not Kind.NAME
        if is_left or is_right:
            yield token, "a whole document stands beside `=`", "compare with `==`"


def _misplaced(scopes: Scopes) -> Iterator[Finding]:
    """Yield where something else than a variable is assigned, and a variable that is called."""
    tokens = scopes.tokens
    for place, token in enumerate(tokens):
        if token.text == ":=" and not scopes.is_in_head(place):
            before = tokens[place - 1]
            is_field = place > 1 and tokens[place - 2].text == "."
            if before.kind in (Kind.STRING, Kind.NUMBER) or is_field:
                yield token, "`:=` stands behind what is no variable", "compare with `==`"
    for place in scopes.names():
        behind = tokens[place + 1 : place + 2]
        is_called = bool(behind) and behind[0].text == "(" and behind[0].start == tokens[place].end
        if is_called and scopes.sees(place, tokens[place].text)[1]:
            name = tokens[place].text
            yield tokens[place], f"`{name}` is called and is a variable here", "name it otherwise"


def _declared_again(scopes: Scopes) -> Iterator[Finding]:
    parameters = {each.name for each in scopes.declarations if each.how is How.PARAMETER}
    seen: set[tuple[int | None, str]] = set()
    for each in scopes.declarations:
        if each.how is How.PARAMETER:
            continue
        is_outermost = each.scope is not None and scopes.all[each.scope].parent is None
        if (each.scope, each.name) in seen or (is_outermost and each.name in parameters):
            message = f"`{each.name}` is declared twice"
            yield (
                scopes.tokens[each.place],
                message,
                "name one of them otherwise, or compare by `==`",
            )
        seen.add((each.scope, each.name))


def _used_above(scopes: Scopes) -> Iterator[Finding]:
    firsts: dict[tuple[int | None, str], Declaration] = {}
    for each in scopes.declarations:
        if each.how not in (How.PARAMETER, How.QUANTIFIED):
            firsts.setdefault((each.scope, each.name), each)
    declared = {each.place for each in scopes.declarations}
    for place in scopes.names() if firsts else ():
        name, scope = scopes.tokens[place].text, scopes.scope_of(place)
        first = firsts.get((scope, name))
        # Within a comprehension it may be another: `hidden_variables`.
        if first is None or place in declared:
            continue
        is_above = scopes.all[scope].body <= place < first.place
        if is_above or place in _value_of(scopes, first):
            message = f"`{name}` is used above its declaration"
            yield scopes.tokens[place], message, "declare it first"


def _value_of(scopes: Scopes, declared: Declaration) -> range:
    """Return where the value stands that a variable is assigned."""
    tokens = scopes.tokens
    if declared.how is not How.ASSIGNED or tokens[declared.place + 1].text != ":=":
        return range(0)
    depth, begin = tokens[declared.place].depth, declared.place + 2
    for place in range(begin, len(tokens)):
        token = tokens[place]
        is_fresh = token.starts_line and place > begin and can_end(tokens[place - 1])
        if token.depth < depth or (token.depth == depth and (token.text == ";" or is_fresh)):
            return range(begin, place)
    return range(begin, len(tokens))


def _binders(scopes: Scopes, negations: list[tuple[int, int]]) -> Iterator[tuple[int | None, str]]:
    """Yield each scope with a name that may get its value there."""
    named = set()
    for each in scopes.declarations:
        if each.how is How.NAMED:
            named.add(each.name)
        else:
            yield each.scope, each.name
    tokens, places = scopes.tokens, {each.place for each in scopes.declarations}
    opener = _openers(scopes)
    # In what names the rule, brackets give no value.
    named_at = next((i for i, it in enumerate(tokens) if i and it.text in _HEAD_ENDS), 0)
    for place in scopes.names():
        if place in places or place < named_at:
            continue
        before = tokens[place - 1].text if place else ""
        behind = tokens[place + 1].text if place + 1 < len(tokens) else ""
        may_bind = "=" in (before, behind) or opener[place] == "["
        may_bind = may_bind or _is_output(tokens, place)
        # What `some` names may also stand in the pattern of an object.
        is_value = opener[place] == "{" and before == ":"
        may_bind = may_bind or (tokens[place].text in named and is_value)
        scope = scopes.scope_of(place)
        is_negated = any(
            begin <= place < end and scopes.scope_of(begin) == scope for begin, end in negations
        )
        if may_bind and not is_negated:
            yield scope, tokens[place].text


def _is_output(tokens: tuple[Token, ...], place: int) -> bool:
    """Whether a name may be the last argument of a call, which takes its answer."""
    if tokens[place - 1].text != "," or tokens[place + 1 : place + 2][:1] == ():
        return False
    depth, opening = tokens[place].depth, place - 1
    while opening > 0 and tokens[opening].depth >= depth:
        opening -= 1
    if (tokens[opening].text, tokens[place + 1].text) != ("(", ")") or not opening:
        return False
    given = 1 + sum(t.text == "," and t.depth == depth for t in tokens[opening:place])
    first = opening - 1
    while first > 1 and tokens[first - 1].text == ".":
        first -= 2
    builtin = BUILTINS.get("".join(token.text for token in tokens[first:opening]))
    # What a function of the module takes is known where all modules are.
    return builtin is None or given > len(builtin.arguments)


def _openers(scopes: Scopes) -> list[str]:
    """Return, for each token, the innermost bracket around it, empty for a comprehension's."""
    comprehensions = {each.begin - 1 for each in scopes.all if each.parent is not None}
    found: list[str] = []
    stack: list[str] = []
    for place, token in enumerate(scopes.tokens):
        if token.kind is Kind.SIGN and token.text in ("}", "]", ")") and stack:
            stack.pop()
        found.append(stack[-1] if stack else "")
        if token.kind is Kind.SIGN and token.text in ("{", "[", "("):
            stack.append("" if place in comprehensions else token.text)
    return found
