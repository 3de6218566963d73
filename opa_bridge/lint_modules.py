"""The Rego that the linter was given: scanned once, its decisions known, places found again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from opa_bridge.rego_module import Chain, Module, chains_of, scan_module
from opa_bridge.scanner import Token
from opa_bridge.statements import Tokens, rules_of
from policies.diagnostic import Diagnostic, Location
from policies.lint.embedded import Embedded
from policies.lint.facts import Entrypoint, Facts

_ALLOW: Final = "allow"


@dataclass(frozen=True, slots=True)
class Source:
    """A module with the text that it was read from."""

    origin: Embedded
    module: Module

    def place(self, token: Token | Chain) -> Location:
        """Return where a token or name stands."""
        before = self.module.source.rfind("\n", 0, token.start)
        return self.origin.place(token.line, token.start - before)

    @property
    def label(self) -> str:
        """What findings call the module: its package, `Rego/envoy.authz`."""
        return f"Rego/{self.module.package.replace('/', '.')}"


@dataclass(frozen=True, slots=True)
class RegoSet:
    """Every module that can be read, and why the others cannot."""

    sources: tuple[Source, ...]
    unread: tuple[tuple[Embedded, Diagnostic], ...]

    def of_package(self, package: str) -> Iterator[Source]:
        """Yield the modules of a package, `envoy/authz`."""
        return (each for each in self.sources if each.module.package == package)

    def defines(self, entrypoint: str) -> bool:
        """Whether some module defines the rule at a path."""
        package, _, rule = entrypoint.rpartition("/")
        return any(rule in each.module.rules for each in self.of_package(package))


def read_rego(facts: Facts) -> RegoSet:
    """G: return the modules."""
    return _scanned(facts.rego)


# WHY cached: every rule asks.
@lru_cache(maxsize=4)
def _scanned(texts: tuple[Embedded, ...]) -> RegoSet:
    sources: list[Source] = []
    unread: list[tuple[Embedded, Diagnostic]] = []
    for number, text in enumerate(texts):
        # Two ConfigMaps may name their modules alike.
        found = scan_module(f"{number}:{text.name}", text.text)
        if isinstance(found, Module):
            sources.append(Source(text, found))
        else:
            unread.append((text, found))
    return RegoSet(tuple(sources), tuple(unread))


def asked_entrypoints(facts: Facts) -> tuple[Entrypoint, ...]:
    """M: return the rules that are asked and that some module defines."""
    rego = read_rego(facts)
    return tuple(each for each in facts.entrypoints if rego.defines(each.rule))


def decision_rules(facts: Facts) -> Iterator[tuple[Source, str, Tokens]]:
    """Yield every statement of a rule that decides: it is asked, or is called `allow` beside it.

    Each with its module and the rule's name; `default` statements are among them.
    """
    rego = read_rego(facts)
    asked = {each.rule for each in asked_entrypoints(facts)}
    wanted = asked | {f"{rule.rpartition('/')[0]}/{_ALLOW}" for rule in asked}
    for source in rego.sources:
        for rule in rules_of(source.module.tokens):
            name = head_name(rule).text
            if f"{source.module.package}/{name}" in wanted:
                yield source, name, rule


def head_name(rule: Tokens) -> Token:
    """Return the name that a statement defines."""
    return rule[1] if rule[0].text == "default" and len(rule) > 1 else rule[0]


def input_names(module: Module) -> frozenset[str]:
    """Return the names that stand for the input or a part of it: `input`, and its imports."""
    found = {"input"}
    tokens = module.tokens
    for index, token in enumerate(tokens):
        if token.text == "import" and token.starts_line and not token.depth:
            clause = [each.text for each in tokens[index + 1 :] if each.line == token.line]
            if clause and clause[0] == "input":
                found.add(clause[-1])
    return frozenset(found)


def named_chains(source: Source) -> Iterator[Chain]:
    """Yield the dotted names of a module, those of its package clause left out."""
    tokens = source.module.tokens
    return (chain for chain in chains_of(tokens) if chain.line != tokens[0].line)
