"""The linter's rules about what Rego decisions mean: their defaults, conditions and input."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opa_bridge.lint_loading import spot_at
from opa_bridge.lint_modules import (
    Source,
    asked_entrypoints,
    decision_rules,
    head_name,
    input_names,
    named_chains,
    read_rego,
)
from opa_bridge.rego_module import Chain, arguments_of, builtin_calls, rules_by_package
from opa_bridge.scanner import Kind
from opa_bridge.statements import Branch, Tokens, branches_of, steps_of
from policies.diagnostic import Location, shown
from policies.lint.facts import Facts
from policies.lint.finding import Spot
from policies.lint.registry import rule

_ASSIGN: Final = frozenset({":=", "="})
_SOCKET: Final[Mapping[str, Any]] = {"socketAddress": None}
# What `input_document` writes and opa-envoy-plugin knows; None is a part with any keys.
_INPUT: Final[Mapping[str, Any]] = {
    "version": {"ext_authz": None, "encoding": None},
    "attributes": {
        "source": {"address": _SOCKET, "principal": None, "certificate": None, "service": None,
                   "labels": None},
        "destination": {"address": _SOCKET, "principal": None, "labels": None, "service": None,
                        "certificate": None},
        "request": {
            "time": None,
            "http": dict.fromkeys(
                ("id", "method", "headers", "headerMap", "path", "host", "scheme", "query",
                 "fragment", "size", "protocol", "body", "rawBody")
            ),
        },
        "contextExtensions": None,
        "metadataContext": {"filterMetadata": None, "typedFilterMetadata": None},
        "routeMetadataContext": {"filterMetadata": None, "typedFilterMetadata": None},
        "tlsSession": {"sni": None},
    },
    "parsed_path": None,
    "parsed_query": None,
    "parsed_body": None,
    "truncated_body": None,
    "source_principal": None,
    "meshwarden": {
        "peer": dict.fromkeys(
            ("principal", "proof", "spiffe_id", "trust_domain", "namespace", "service_account",
             "labels", "mapping")
        ),
        "claims": None,
        "request_principal": None,
        "workload": dict.fromkeys(("namespace", "service_account", "labels")),
        "istio": dict.fromkeys(("would", "layer", "reason", "policy", "rule")),
    },
}  # fmt: skip


@rule("MW0904")
def allows_by_default(facts: Facts) -> Iterator[Spot]:
    """A decision whose default lets the request in."""
    for source, name, statement in decision_rules(facts):
        if statement[0].text == "default" and _lets_in(_value(statement[2:])):
            yield spot_at(source, statement[1], f"`{shown(name)}` lets in what no rule speaks of",
                          f"write `default {name} := false`")  # fmt: skip


def _value(tokens: Tokens) -> Tokens:
    """Return what stands behind the sign that gives a rule its value."""
    return tokens[1:] if tokens and tokens[0].text in _ASSIGN else ()


def _lets_in(value: Tokens) -> bool:
    """Whether a value is `true`, or an object whose `allowed` is."""
    texts = [token.text for token in value]
    if texts == ["true"]:
        return True
    pairs = zip(texts, texts[1:], texts[2:], strict=False)
    return ('"allowed"', ":", "true") in pairs


@rule("MW0905")
def no_default(facts: Facts) -> Iterator[Spot]:
    """A decision that is undefined where no rule of it holds."""
    found: dict[tuple[str, str], list[tuple[Source, Tokens]]] = {}
    asked = {each.rule for each in asked_entrypoints(facts)}
    for source, name, statement in decision_rules(facts):
        key = (source.module.package, name)
        if f"{key[0]}/{name}" in asked:
            found.setdefault(key, []).append((source, statement))
    for (_, name), statements in found.items():
        if all(map(_is_conditional, (statement for _, statement in statements))):
            source, statement = statements[0]
            yield spot_at(source, head_name(statement), f"`{shown(name)}` has no default, so a"
                          " request of which it says nothing is denied without a word",
                          f"add `default {name} := false`")  # fmt: skip


def _is_conditional(statement: Tokens) -> bool:
    """Whether a clause gives one value, and only where its body holds."""
    if statement[0].text == "default" or len(statement) < len("ab"):
        return False
    gives_one = statement[1].text in ("if", "{", *_ASSIGN)
    return gives_one and all(branch.body is not None for branch in branches_of(statement))


@rule("MW0906")
def no_such_entrypoint(facts: Facts) -> Iterator[Spot]:
    """A provider whose rule no module defines."""
    rego = read_rego(facts)
    defined = sorted(
        f"{each.module.package}/{name}" for each in rego.sources for name in each.module.rules
    )
    for each in facts.entrypoints if defined else ():
        if not each.is_named or rego.defines(each.rule):
            continue
        near = difflib.get_close_matches(each.rule[:200], defined, n=1)
        yield Spot(
            message=f"no module defines `{shown(each.rule)}`, which the provider"
            f" `{shown(each.provider)}` asks",
            location=each.location or Location(""),
            resource=f"Provider/{shown(each.provider)}",
            path="rego.entrypoint",
            help=f"did you mean `{near[0]}`?" if near else "",
        )


@rule("MW0909")
def unconditional(facts: Facts) -> Iterator[Spot]:
    """A decision that a clause without a condition makes true."""
    for source, name, statement in decision_rules(facts):
        if statement[0].text == "default":
            continue
        (branch, *_) = branches_of(statement)
        if _asks_nothing(branch) and _is_true(branch.head):
            message = f"`{shown(name)}` is true for every request: the clause asks nothing"
            yield spot_at(source, head_name(statement), message)


def _asks_nothing(branch: Branch) -> bool:
    return branch.body is None or all(
        [token.text for token in step] == ["true"] for step in steps_of(branch.body)
    )


def _is_true(head: Tokens) -> bool:
    """Whether a head gives its rule the value true: it says so, or says nothing."""
    rest = head[1:-1] if head[-1].text == "if" else head[1:]
    return not rest or _lets_in(_value(rest))


@rule("MW0914")
def header_in_capitals(facts: Facts) -> Iterator[Spot]:
    """A request header that is asked for in capitals: Envoy writes them small."""
    for source in read_rego(facts).sources:
        names = input_names(source.module)
        for chain in named_chains(source):
            name = _header_of(source, chain) if chain.root in names else ""
            if name != name.lower():
                message = f"`{shown(name)}` is never there: Envoy writes header names small"
                yield spot_at(source, chain, message, f"write `{shown(name.lower())}`")


def _header_of(source: Source, chain: Chain) -> str:
    """Return the header that a name asks for, or an empty text."""
    *outer, last = chain.text.split(".")
    if outer and outer[-1] == "headers":
        return last
    tokens, after = source.module.tokens, chain.following + 1
    if last == "headers" and chain.next_sign == "[" and tokens[after].kind is Kind.STRING:
        return tokens[after].text.strip('"`')
    # `object.get(input.attributes.request.http.headers, "X-A", "")`
    if last == "headers" and chain.next_sign == "," and tokens[after].kind is Kind.STRING:
        return tokens[after].text.strip('"`')
    return ""


@rule("MW0922")
def unknown_input(facts: Facts) -> Iterator[Spot]:
    """A part of the input that no request has, in modules that decide about requests of Envoy."""
    asked = {each.rule.rpartition("/")[0] for each in asked_entrypoints(facts)}
    for source in read_rego(facts).sources:
        if source.module.package not in asked:
            continue
        for chain in named_chains(source):
            if chain.root != "input" or chain.before == "with":
                continue
            wrong = _unknown_part([*chain.text.split(".")[1:], *_bracket(source, chain)])
            if wrong is not None:
                name, near = wrong
                yield spot_at(source, chain, f"no request has `{shown(name)}`",
                              f"did you mean `{near}`?" if near else "")  # fmt: skip


def _bracket(source: Source, chain: Chain) -> tuple[str, ...]:
    """Return the text in the bracket behind a name."""
    tokens, inside = source.module.tokens, chain.following + 1
    if chain.next_sign == "[" and tokens[inside].text.startswith('"'):
        return (str(json.loads(tokens[inside].text)),)
    return ()


def _unknown_part(way: list[str]) -> tuple[str, str] | None:
    """Return the first part of a way that the input has not, with its neighbour; or None."""
    known: Any = _INPUT
    done = "input"
    for step in way:
        if known is None:
            return None
        if step not in known:
            near = difflib.get_close_matches(step[:64], sorted(known), n=1)
            return f"{done}.{step}", f"{done}.{near[0]}" if near else ""
        done, known = f"{done}.{step}", known[step]
    return None


@rule("MW0920")
def open_pattern(facts: Facts) -> Iterator[Spot]:
    """A pattern that matches anywhere in a text, where a request is let in."""
    rego = read_rego(facts)
    package_rules = rules_by_package(each.module for each in rego.sources)
    for source in rego.sources:
        for call in builtin_calls(source.module, package_rules[source.module.package]):
            given = arguments_of(source.module, call)
            if call.text != "regex.match" or not given or len(given[0]) != 1:
                continue
            pattern = given[0][0]
            text = pattern.text[1:-1]
            if pattern.kind is Kind.STRING and not (text.startswith("^") and text.endswith("$")):
                yield spot_at(source, pattern, f"`{shown(text)}` matches anywhere in a text")
