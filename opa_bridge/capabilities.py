"""What a module may use, checked at load and before the engine sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from opa_bridge.builtin_table import ADVICE, APPROXIMATE, FAITHFUL, NAMESPACES
from opa_bridge.scanner import Kind, ScanError, Token, scan_tokens
from opa_bridge.unbound import KEYWORDS, unbound_names
from policies.diagnostic import Diagnostic, Location, Severity

_HEAD_KEYWORDS = KEYWORDS - {"contains"}
_ORDERINGS = frozenset({"<", "<=", ">", ">="})
_TYPE_TESTS = frozenset({"is_number", "is_string"})
_OTHER_ENGINE = "the embedded engine does not answer it as OPA does; leave it out"


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
    """A dotted name where it is used; `next_sign` is the sign that follows it."""

    text: str
    line: int
    next_sign: str

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


def check_modules(modules: Iterable[Module]) -> list[Diagnostic]:
    """Return what is unsafe (errors) or answered otherwise than by OPA (warnings)."""
    modules = list(modules)
    rules_of: dict[str, set[str]] = {}
    for module in modules:
        rules_of.setdefault(module.package, set()).update(module.rules)
    return [
        found for module in modules for found in _check_module(module, rules_of[module.package])
    ]


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


def _check_module(module: Module, package_rules: set[str]) -> Iterator[Diagnostic]:
    tokens = module.tokens
    for before, token in zip(tokens, tokens[1:], strict=False):
        # `opa["runtime"]()` is a call as well.
        if (before.text, token.text) == ("]", "(") and before.line == token.line:
            message, help_ = "a call through `[...]` cannot be checked", "call it by its name"
            yield _error("rego.call", message, module.file, token.line, help_)
    # The first two are `package` and its name.
    for chain in islice(_chains(tokens), 2, None):
        yield from _check_chain(module, chain, package_rules)
    for token in unbound_names(tokens, package_rules | module.imports):
        message = f"nothing gives `{token.text}` a value"
        help_ = "correct the name, or bind it with `:=`, `some` or `every`"
        yield _error("rego.unbound", message, module.file, token.line, help_)
    yield from _check_ordering(module)


def _check_chain(module: Module, chain: Chain, package_rules: set[str]) -> Iterator[Diagnostic]:
    name = chain.text
    is_call = chain.next_sign == "("
    if chain.root == "data":
        return
    # WHY also without a call: `with http.send as f` names the built-in only.
    is_dotted = "." in name and chain.root in NAMESPACES
    is_bracketed = chain.root in NAMESPACES and chain.next_sign == "["
    if name in APPROXIMATE and is_call:
        message = f"`{name}` {APPROXIMATE[name]}"
        yield _error("rego.approximate", message, module.file, chain.line, warning=True)
    elif name in FAITHFUL or name == "rego.v1" or not (is_call or is_dotted or is_bracketed):
        return
    elif is_dotted or is_bracketed or name not in package_rules:
        known = is_dotted or is_bracketed or name in ADVICE
        if not known and (chain.root in module.imports or name in KEYWORDS):
            return
        message = f"`{name}` is not a function this engine supports"
        help_ = ADVICE.get(name, _OTHER_ENGINE)
        yield _error("rego.builtin", message, module.file, chain.line, help_)


def _check_ordering(module: Module) -> Iterator[Diagnostic]:
    orderings = [token for token in module.tokens if token.text in _ORDERINGS]
    if orderings and not any(token.text in _TYPE_TESTS for token in module.tokens):
        message = f"`{orderings[0].text}` between different types is answered otherwise than by OPA"
        help_ = "test with is_number or is_string first"
        yield _error("rego.ordering", message, module.file, orderings[0].line, help_, warning=True)


def _chains(tokens: tuple[Token, ...]) -> Iterator[Chain]:
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
        if following == "(" and text in _HEAD_KEYWORDS:
            continue
        yield Chain(text, token.line, following)


def _is_dot_name(tokens: tuple[Token, ...], index: int) -> bool:
    return (
        index + 1 < len(tokens)
        and tokens[index].text == "."
        and tokens[index + 1].kind is Kind.NAME
    )


def _package(tokens: tuple[Token, ...]) -> str | None:
    """Return the package as a slash path; None when the clause is missing or bracketed."""
    if len(tokens) < 2 or tokens[0].text != "package":  # noqa: PLR2004 - clause and name
        return None
    chain = next(_chains(tokens[1:]), None)
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
        starts = token.starts_line or before in ("default", ";", "}")
        if token.kind is not Kind.NAME or token.depth or not starts or before == ".":
            continue
        if token.text not in _HEAD_KEYWORDS:
            yield token.text


def _error(  # noqa: PLR0913 - one builder for every finding of this file
    code: str, message: str, file: str, line: int, help_: str = "", *, warning: bool = False
) -> Diagnostic:
    return Diagnostic(
        code=code,
        message=message,
        location=Location(file, line),
        help=help_,
        severity=Severity.WARNING if warning else Severity.ERROR,
    )
