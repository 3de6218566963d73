"""What a module may use, checked at load and before the engine sees it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from opa_bridge.builtin_table import BUILTINS, NAMESPACES, OPA_VERSION, USABLE, Kind
from opa_bridge.direct.parse import parse_negations
from opa_bridge.direct.syntax import Outside
from opa_bridge.heads import misspelled_rules
from opa_bridge.object_keys import doubtful_keys
from opa_bridge.orderings import Unclear, orderings
from opa_bridge.rego_module import (
    Chain,
    Module,
    arguments_of,
    builtin_calls,
    chains_of,
    rules_by_package,
    scan_module,
)
from opa_bridge.scanner import Kind as TokenKind
from opa_bridge.scanner import Token
from opa_bridge.statements import can_end
from opa_bridge.unbound import KEYWORDS, unbound_names
from opa_bridge.variables import hidden_variables, misused_variables
from policies.diagnostic import Diagnostic, Location

__all__ = ["Module", "check_entrypoint", "check_modules", "scan_module"]

# The package of the polyfills.
RESERVED_PACKAGE = "meshwarden_builtins"
_UNKNOWN = f"OPA {OPA_VERSION} has no built-in of this name; define the function or correct it"


def check_modules(
    modules: Iterable[Module], mockable: Collection[str] = frozenset()
) -> list[Diagnostic]:
    """Return what is unsafe (errors) or answered otherwise than by OPA (warnings).

    `mockable` are built-ins that are taken here though nothing serves with them: tests mock them.
    """
    modules = list(modules)
    rules_of = rules_by_package(modules)
    found = [
        found
        for module in modules
        for found in _check_module(module, rules_of[module.package], mockable)
    ]
    return [*found, *_check_packages(modules, rules_of)]


def check_entrypoint(modules: Iterable[Module], entrypoint: str, file: str) -> list[Diagnostic]:
    """Return an error unless some module of the entrypoint's package defines its rule."""
    modules = list(modules)
    package, _, rule = entrypoint.rpartition("/")
    if any(module.package == package and rule in module.rules for module in modules):
        return []
    here = sorted(
        f"{module.package}/{name}"
        for module in modules
        for name in module.rules
        if module.package == package or name == rule
    )
    help_ = f"defined are {', '.join(here[:8])}" if here else "write it as package/path/rule"
    return [_error("rego.entrypoint", f"no rule `{entrypoint}`", file, 0, help_)]


def _check_module(
    module: Module, package_rules: set[str], mockable: Collection[str]
) -> Iterator[Diagnostic]:
    tokens = module.tokens
    for before, token in zip(tokens, tokens[1:], strict=False):
        # `opa["runtime"]()` is a call as well.
        if (before.text, token.text) == ("]", "(") and before.line == token.line:
            message, help_ = "a call through `[...]` cannot be checked", "call it by its name"
            yield _error("rego.call", message, module.file, token.line, help_)
        if token.text == "%":
            yield _refused(module, "rem", token.line)
    if module.package.split("/")[0] == RESERVED_PACKAGE:
        message = f"the package `{RESERVED_PACKAGE}` is reserved"
        yield _error("rego.reserved", message, module.file, 1, "choose another name")
    # The first two are `package` and its name.
    for chain in islice(chains_of(tokens), 2, None):
        if chain.text not in mockable:
            yield from _check_chain(module, chain, package_rules)
    for call in builtin_calls(module, package_rules):
        yield from _check_call(module, call)
    yield from _check_variables(module, package_rules)
    yield from _check_orderings(module)
    yield from _check_negations(module)
    yield from _check_steps(module)
    for token, message, mend in misspelled_rules(tokens):
        yield _error("rego.head", message, module.file, token.line, mend)
    for token, message, mend in doubtful_keys(tokens):
        yield _error("rego.object", message, module.file, token.line, mend)


def _check_chain(module: Module, chain: Chain, package_rules: set[str]) -> Iterator[Diagnostic]:
    """Yield what is wrong with a name; calls of usable built-ins are checked apart."""
    name = chain.text
    is_call = chain.next_sign == "("
    if chain.root == "data":
        if name.startswith(f"data.{RESERVED_PACKAGE}"):
            message = f"the package `{RESERVED_PACKAGE}` is reserved"
            yield _error("rego.reserved", message, module.file, chain.line, "call the built-in")
        return
    is_dotted = "." in name and chain.root in NAMESPACES
    is_bracketed = chain.root in NAMESPACES and chain.next_sign == "["
    is_own = name in package_rules or chain.root in module.imports
    if chain.before in ("with", "as") and name in USABLE and not is_own:
        message = f"`{name}` cannot be replaced by `with`"
        help_ = "give the value in `input` or `data` and replace that"
        yield _error("rego.mock", message, module.file, chain.line, help_)
    elif is_dotted or is_bracketed:
        usable = name in BUILTINS and BUILTINS[name].kind is not Kind.REFUSED
        if not (usable and is_call) and name != "rego.v1":
            yield _refused(module, name, chain.line)
    elif is_call and not is_own and name not in KEYWORDS and not _is_empty_set(module, chain):
        builtin = BUILTINS.get(name)
        if builtin is None or builtin.kind is Kind.REFUSED:
            yield _refused(module, name, chain.line)


def _is_empty_set(module: Module, chain: Chain) -> bool:
    closing = module.tokens[chain.following + 1 : chain.following + 2]
    return chain.text == "set" and bool(closing) and closing[0].text == ")"


def _check_call(module: Module, call: Chain) -> Iterator[Diagnostic]:
    """Yield an error unless the call has its arguments, and at most the answer behind them."""
    needed, given = len(BUILTINS[call.text].arguments), len(arguments_of(module, call))
    if given not in (needed, needed + 1):
        message = f"`{call.text}` takes {needed} arguments, not {given}"
        yield _error("rego.arguments", message, module.file, call.line)


def _refused(module: Module, name: str, line: int) -> Diagnostic:
    """Return why a built-in, or a name that is none, is not for use here."""
    builtin = BUILTINS.get(name)
    if builtin is None or builtin.kind is not Kind.REFUSED:
        message, help_ = f"`{name}` is not a function this engine supports", _UNKNOWN
    else:
        spelled = "%" if name == "rem" else name
        message, help_ = f"`{spelled}` is not supported: {builtin.note}", builtin.advice
    return _error("rego.builtin", message, module.file, line, help_)


def _check_variables(module: Module, package_rules: set[str]) -> Iterator[Diagnostic]:
    known = package_rules | module.imports
    help_ = "correct the name, or bind it with `:=`, `some` or `every`"
    unbound = list(unbound_names(module.tokens, known))
    for token in unbound:
        message = f"nothing gives `{token.text}` a value"
        yield _error("rego.unbound", message, module.file, token.line, help_)
    for token in hidden_variables(module.tokens, known | USABLE):
        if token not in unbound:
            message = f"nothing gives `{token.text}` a value here"
            yield _error("rego.unbound", message, module.file, token.line, help_)
    for token, message, mend in misused_variables(module.tokens):
        yield _error("rego.variable", message, module.file, token.line, mend)


def _check_orderings(module: Module) -> Iterator[Diagnostic]:
    """Yield an error where it cannot be told what is compared by order."""
    for found in orderings(module.tokens):
        if isinstance(found, Unclear):
            sign = module.tokens[found.sign]
            message = f"what `{sign.text}` compares cannot be told: {found.why}"
            help_ = "give each side a name with `:=` first, and compare the names"
            yield _error("rego.ordering", message, module.file, sign.line, help_)


def _check_negations(module: Module) -> Iterator[Diagnostic]:
    """Yield an error where it cannot be told what OPA takes out of a negated literal."""
    for found in parse_negations(module.tokens):
        if isinstance(found, Outside):
            message = f"what `not` needs cannot be told: {found.why}"
            help_ = "give what stands behind `not` a name with `:=` first, and negate the name"
            yield _error("rego.negation", message, module.file, found.line, help_)
        elif any(_is_wildcard(module.tokens, place) for place in range(found.begin, found.end)):
            # OPA: "var _ is unsafe". Whether it means none or not all is for the author to say.
            message = "`_` stands in a negation"
            help_ = "write a rule of its own that iterates, and negate that; or use `every`"
            yield _error(
                "rego.negation", message, module.file, module.tokens[found.begin].line, help_
            )


def _is_wildcard(tokens: tuple[Token, ...], place: int) -> bool:
    """Return whether a step of a reference is `_`, within no comprehension."""
    before, behind = tokens[place - 1], tokens[place + 1 : place + 2]
    is_step = tokens[place].text == "_" and before.text == "[" and bool(behind)
    if not is_step or behind[0].text != "]" or before.start != tokens[place - 2].end:
        return False
    return "|" not in {token.text for token in tokens[:place] if token.line == before.line}


def _check_steps(module: Module) -> Iterator[Diagnostic]:
    """Yield an error for a place in an array that is written as a fraction: `xs[1.0]`."""
    tokens = module.tokens
    for place in range(1, len(tokens) - 2):
        opening, token = tokens[place], tokens[place + 1]
        # Behind a blank, or behind what is no term, a bracket begins an array.
        is_step = opening.text == "[" and opening.start == tokens[place - 1].end
        is_step = is_step and can_end(tokens[place - 1]) and tokens[place + 2].text == "]"
        if is_step and token.kind is TokenKind.NUMBER and not token.text.isdecimal():
            message = f"`{token.text}` is no whole number, and stands for a place"
            yield _error("rego.step", message, module.file, token.line, "write it without decimals")


def _check_packages(
    modules: list[Module], rules_of: Mapping[str, set[str]]
) -> Iterator[Diagnostic]:
    """Yield an error where a package lies at or below the place of a rule, as OPA does."""
    for module in modules:
        parts = module.package.split("/")
        for cut in range(1, len(parts)):
            if parts[cut] in rules_of.get("/".join(parts[:cut]), ()):
                rule = "/".join(parts[: cut + 1])
                message = f"the package lies at the place of the rule `{rule}`"
                yield _error("rego.package", message, module.file, 1, "name one of them otherwise")


def _error(code: str, message: str, file: str, line: int, help_: str = "") -> Diagnostic:
    return Diagnostic(
        code=code,
        message=message,
        location=Location(file, line),
        help=help_,
    )
