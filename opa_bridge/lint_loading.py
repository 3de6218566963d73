"""The linter's rules about Rego that does not load: it does not parse, or means nothing."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from opa_bridge.builtin_table import BUILTINS, USABLE, Kind
from opa_bridge.capabilities import check_modules
from opa_bridge.lint_modules import RegoSet, Source, head_name, named_chains, read_rego
from opa_bridge.polyfills import supply_polyfills
from opa_bridge.rego_module import Chain, arguments_of, builtin_calls, rules_by_package
from opa_bridge.rule_index import ModuleSet
from opa_bridge.scanner import Kind as TokenKind
from opa_bridge.scanner import Token
from opa_bridge.statements import Tokens, rules_of
from opa_bridge.worker_pool import WorkerPool
from policies.diagnostic import Diagnostic, LoadError, shown
from policies.lint.facts import Facts
from policies.lint.finding import Spot
from policies.lint.registry import rule

NETWORK: Final = frozenset({"http.send", "net.lookup_ip_addr"})
"""Built-ins that ask somebody else."""
DECODING: Final = frozenset({"io.jwt.decode"})
"""Built-ins that believe a token."""

# What the load's own check calls them, by the code they have here.
_UNBOUND: Final = frozenset({"rego.unbound", "rego.arguments"})
_BUILTIN: Final = "rego.builtin"
_QUOTED: Final = re.compile(r"`([^`]+)`")
_ARITHMETIC: Final = frozenset({"+", "-", "*", "/"})
_LITERALS: Final = {"true": "boolean", "false": "boolean", "null": "null"}


def spot_at(source: Source, token: Token | Chain, message: str, help_: str = "") -> Spot:
    """Return a finding about a token or name of a module."""
    return Spot(
        message=message,
        location=source.place(token),
        resource=source.label,
        path=token.text,
        help=help_,
    )


# WHY cached: three codes come from one check.
@lru_cache(maxsize=4)
def _checked(rego: RegoSet) -> tuple[tuple[Source, Diagnostic], ...]:
    """Return what the load's own check finds, each with its module."""
    by_file = {each.module.file: each for each in rego.sources}
    found = check_modules(each.module for each in rego.sources)
    return tuple((by_file[each.location.file], each) for each in found)


def _name_of(source: Source, found: Diagnostic) -> Token | None:
    """Return the token that a finding of the check is about: what it quotes, on its line."""
    quoted = _QUOTED.search(found.message)
    first = quoted[1].partition(".")[0] if quoted else ""
    line = [each for each in source.module.tokens if each.line == found.location.line]
    return next((each for each in line if each.text == first), line[0] if line else None)


def _spot(source: Source, found: Diagnostic) -> Spot:
    token = _name_of(source, found)
    location = source.place(token) if token else source.origin.place(found.location.line)
    return Spot(
        message=found.message, location=location, resource=source.label, help=found.help,
        path=token.text if token else "",
    )  # fmt: skip


@rule("MW0901")
def does_not_compile(facts: Facts) -> Iterator[Spot]:
    """A module that does not parse or compile."""
    rego = read_rego(facts)
    for origin, found in rego.unread:
        yield Spot(message=found.message, location=origin.place(found.location.line),
                   resource=f"Rego/{origin.name}", help=found.help)  # fmt: skip
    checked = _checked(rego)
    others = _UNBOUND | {_BUILTIN}
    for source, found in checked:
        if found.code not in others:
            yield _spot(source, found)
    # The engine may not survive what the check refuses.
    faulty = {id(source) for source, _ in checked}
    yield from _compiled(tuple(each for each in rego.sources if id(each) not in faulty))


@lru_cache(maxsize=4)
def _compiled(sources: tuple[Source, ...]) -> tuple[Spot, ...]:
    """Return what the engine says when it compiles modules: all together, then each alone."""
    if not sources or not _problems(sources):
        return ()
    spots: list[Spot] = []
    for source in sources:
        # What follows the first fault is guesswork.
        for found in _problems((source,))[:1]:
            spots.append(
                Spot(
                    message=found.message,
                    location=source.origin.place(found.location.line),
                    resource=source.label,
                    help=found.help,
                )
            )
    return tuple(spots)


def _problems(sources: tuple[Source, ...]) -> tuple[Diagnostic, ...]:
    """Return why modules do not compile together; worked out in a process of its own."""
    modules = tuple(supply_polyfills(each.module for each in sources))
    entrypoints = (
        f"{each.module.package}/{name}" for each in sources for name in sorted(each.module.rules)
    )
    asked = next(entrypoints, None)
    if asked is None:
        return ()
    try:
        WorkerPool((ModuleSet(modules, (asked,)),), json.dumps({}), 1).close()
    except LoadError as exc:
        return exc.diagnostics
    return ()


@rule("MW0902")
def means_nothing(facts: Facts) -> Iterator[Spot]:
    """A variable without a value, a rule that asks itself, a literal of the wrong type."""
    rego = read_rego(facts)
    for source, found in _checked(rego):
        if found.code in _UNBOUND:
            yield _spot(source, found)
    yield from _recursions(rego)
    package_rules = rules_by_package(each.module for each in rego.sources)
    for source in rego.sources:
        yield from _wrong_types(source, package_rules[source.module.package])


def _recursions(rego: RegoSet) -> Iterator[Spot]:
    """Yield each rule that comes back to itself by the rules it names."""
    named: dict[str, set[str]] = {}
    heads: dict[str, tuple[Source, Token]] = {}
    known = rules_by_package(each.module for each in rego.sources)
    for source in rego.sources:
        package = source.module.package
        for each in rules_of(source.module.tokens):
            head = head_name(each)
            path = f"{package}/{head.text}"
            heads.setdefault(path, (source, head))
            named.setdefault(path, set()).update(_asked_by(each, head, package, known))
    for path, (source, head) in heads.items():
        if _reaches(path, named):
            yield spot_at(source, head, f"the rule `{shown(head.text)}` asks itself",
                          "break the circle; Rego has no recursion")  # fmt: skip


def _asked_by(
    rule_: Tokens, head: Token, package: str, known: Mapping[str, set[str]]
) -> Iterator[str]:
    """Yield the paths of the rules that a statement names, those of its own variables left out."""
    own = set(_own_names(rule_))
    for index, token in enumerate(rule_):
        is_field = index > 0 and rule_[index - 1].text == "."
        if token is head or token.kind is not TokenKind.NAME or is_field:
            continue
        if token.text in known[package] and token.text not in own:
            yield f"{package}/{token.text}"
        elif token.text == "data":
            names = _dotted(rule_, index)
            for end in range(1, len(names)):
                if names[end] in known.get("/".join(names[:end]), ()):
                    yield "/".join(names[: end + 1])


def _dotted(rule_: Tokens, index: int) -> list[str]:
    names: list[str] = []
    while index + 2 < len(rule_) and rule_[index + 1].text == ".":
        index += 2
        names.append(rule_[index].text)
    return names


def _own_names(rule_: Tokens) -> Iterator[str]:
    """Yield the names that a statement gives a value itself."""
    declaring = False
    for before, token in zip(rule_, rule_[1:], strict=False):
        if token.text == ":=" and before.depth:
            yield before.text
        declaring = token.text in ("some", "every") or (declaring and token.text == ",")
        if before.text in ("some", "every") or (before.text == "," and token.depth):
            yield token.text


def _reaches(path: str, named: Mapping[str, set[str]]) -> bool:
    seen: set[str] = set()
    open_ = list(named.get(path, ()))
    while open_:
        each = open_.pop()
        if each == path:
            return True
        if each not in seen:
            seen.add(each)
            open_.extend(named.get(each, ()))
    return False


def _wrong_types(source: Source, package_rules: set[str]) -> Iterator[Spot]:
    """Yield literals of a type that their operator or built-in does not take."""
    tokens = source.module.tokens
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        texts = [each for each in (before, after) if each.kind is TokenKind.STRING]
        if token.text in _ARITHMETIC and texts:
            message = f"`{token.text}` takes numbers, and `{shown(texts[0].text)}` is a text"
            yield spot_at(source, texts[0], message, "use `concat` or `sprintf` for texts")
    for call in builtin_calls(source.module, package_rules):
        wanted = BUILTINS[call.text].arguments
        for given, types in zip(arguments_of(source.module, call), wanted, strict=False):
            kind = _literal_kind(given)
            if kind and not {kind, "any"} & set(types.split("|")):
                message = (
                    f"`{call.text}` takes a {' or '.join(types.split('|'))} here, not a {kind}"
                )
                yield spot_at(source, given[0], message)


def _literal_kind(given: Tokens) -> str:
    """Return the type of an argument that is one literal, or an empty text."""
    if len(given) != 1:
        return ""
    if given[0].kind is TokenKind.STRING:
        return "string"
    if given[0].kind is TokenKind.NUMBER:
        return "number"
    return _LITERALS.get(given[0].text, "")


@rule("MW0903")
def unsupported_builtin(facts: Facts) -> Iterator[Spot]:
    """A built-in that the embedded engine does not answer, or that does not exist."""
    for source, found in _checked(read_rego(facts)):
        if found.code != _BUILTIN:
            continue
        quoted = _QUOTED.search(found.message)
        name = quoted[1] if quoted else ""
        if name in NETWORK | DECODING:
            continue
        spot = _spot(source, found)
        near = difflib.get_close_matches(name[:64], sorted(USABLE), n=1)
        is_unknown = name not in BUILTINS or BUILTINS[name].kind is not Kind.REFUSED
        help_ = f"did you mean `{near[0]}`?" if near and is_unknown else found.help
        yield Spot(message=spot.message, location=spot.location, resource=spot.resource,
                   path=name, help=help_)  # fmt: skip


@rule("MW0912")
def network_on_the_way(facts: Facts) -> Iterator[Spot]:
    """A built-in that asks somebody else while a request waits."""
    return _calls(facts, NETWORK, "asks somebody else while a request waits")


@rule("MW0913")
def unverified_token(facts: Facts) -> Iterator[Spot]:
    """A token that is decoded and not verified."""
    return _calls(facts, DECODING, "believes any token: it does not verify the signature")


def _calls(facts: Facts, names: frozenset[str], what: str) -> Iterator[Spot]:
    for source in read_rego(facts).sources:
        for chain in named_chains(source):
            if chain.text in names and chain.next_sign == "(":
                yield spot_at(source, chain, f"`{chain.text}` {what}")
