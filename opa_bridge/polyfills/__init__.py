"""Built-ins that the engine lacks or answers otherwise than OPA, in Rego of our own.

Theory of operation. In a policy's source, each call of such a built-in is respelled as a
call of our function in the package `meshwarden_builtins` (nothing else moves, every line
stays where it was), and the modules that these functions need are compiled along. What a
polyfill cannot answer as OPA does ends the evaluation, which denies (`stop.rego`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from opa_bridge.builtin_table import BUILTINS, Kind
from opa_bridge.orderings import EQUALITIES, ORDERINGS, Ordering, equalities, orderings
from opa_bridge.rego_module import Chain, Module, arguments_of, builtin_calls, rules_by_package
from opa_bridge.scanner import Kind as TokenKind

PACKAGE: Final = "meshwarden_builtins"

# What each module calls in others.
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "stop": (),
        "net": (),
        "numbers": (),
        "times": ("numbers", "stop"),
        "durations": ("times", "numbers", "stop"),
        "texts": ("stop",),
        "collections": ("stop",),
        "rounding": (),
        "ordering": ("stop",),
        "versions": ("stop",),
    }
)


def supply_polyfills(modules: Iterable[Module]) -> list[tuple[str, str]]:
    """Return file names and sources, calls respelled, with the polyfills they refer to."""
    needed: set[str] = set()
    supplied: list[tuple[str, str]] = []
    modules = tuple(modules)
    rules_of = rules_by_package(modules)
    for module in modules:
        edits = [*_calls(module, rules_of[module.package]), *_orderings(module)]
        needed.update(each.needs for each in edits)
        source = _edited(module.source, edits)
        # WHY the line end: the library does not see that a comment ends with the file.
        supplied.append((module.file, f"{source}\n"))
    for needing in tuple(needed):
        needed.update(_NEEDS[needing])
    for name in sorted(needed):
        supplied.append((f"{PACKAGE}/{name}.rego", polyfill_source(name)))
    return supplied


@dataclass(frozen=True, slots=True, order=True)
class _Edit:
    """A text in the place of what stands between two offsets, and the module it calls."""

    start: int
    end: int
    text: str
    needs: str


def _calls(module: Module, package_rules: Collection[str]) -> Iterator[_Edit]:
    for call in builtin_calls(module, package_rules):
        builtin = BUILTINS[call.text]
        if builtin.kind is Kind.POLYFILL and not _is_right_anyway(module, call):
            yield _Edit(call.start, call.end, function_name(call.text), builtin.module)


def _orderings(module: Module) -> Iterator[_Edit]:
    tokens = module.tokens
    for found in (*orderings(tokens), *equalities(tokens)):
        # One that is unclear does not load.
        if isinstance(found, Ordering):
            sign = tokens[found.sign]
            name, needs = {**ORDERINGS, **EQUALITIES}[sign.text], "ordering"
            first, behind = tokens[found.begin].start, tokens[found.end - 1].end
            yield _Edit(first, first, f"{function_name(name)}(", needs)
            yield _Edit(sign.start, sign.end, ",", needs)
            yield _Edit(behind, behind, ")", needs)


def _edited(source: str, edits: Iterable[_Edit]) -> str:
    parts, place = [], 0
    for edit in sorted(edits):
        parts += [source[place : edit.start], edit.text]
        place = edit.end
    return "".join([*parts, source[place:]])


def function_name(builtin: str) -> str:
    """Return the full name of the function that stands for a built-in."""
    return f"data.{PACKAGE}.opa_{builtin.replace('.', '_')}"


def polyfill_source(name: str) -> str:
    """Return the Rego text of one of our modules."""
    return files(__package__).joinpath(f"{name}.rego").read_text("utf-8")


def _is_right_anyway(module: Module, call: Chain) -> bool:
    """Whether a text written in the call cannot be mistaken for a part of an escape."""
    position = BUILTINS[call.text].plain_argument
    arguments = arguments_of(module, call)
    if position is None or position >= len(arguments) or len(arguments[position]) != 1:
        return False
    token = arguments[position][0]
    # The first character behind the quote; an escape, a letter or a digit may be one's part.
    first = token.text[1:2]
    return token.kind is TokenKind.STRING and first not in '"`\\' and not first.isalnum()
