"""Who may do something: one caller of each kind, tried on the server's own walk.

INVARIANT: every line of the answer was answered by the walk; no policy is reasoned about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from authz.console_text import visible
from authz.evaluate import Evaluator
from authz.explain.ask import Question, to_document
from authz.explain.callers import Caller, Carried, callers, tokens
from authz.explain.story import applied_policies
from authz.policytest.model import TokenFixture
from authz.policytest.tokens import TestIssuer
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings
from identity.jwt_verify import verify_token
from policies.decision import Decision
from policies.diagnostic import shown

# BUDGET: requests that are tried; a set that tells more kinds apart is answered in part.
PROBES_MAX: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A kind of caller, the token that was carried, and the walk's answer."""

    caller: Caller
    carried: Carried | None
    decision: Decision

    @property
    def who(self) -> str:
        """The caller in words."""
        token = f", with a token of {self.carried.label}" if self.carried else ""
        return shown(self.caller.label) + token


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoCan:
    """The answer: who may, and who may not with any token tried. `is_whole`: all were tried."""

    may: tuple[Tried, ...]
    may_not: tuple[Tried, ...]
    is_whole: bool = True


def find_who_can(question: Question, state: ServingState, around: Surroundings) -> WhoCan:
    """Return who may do what the question asks; its own caller and token do not count.

    Tokens are signed by a throw-away issuer that stands for every issuer of the policies.
    """
    issuer = TestIssuer()
    now = around.now()
    prober = _Prober(question, state, replace(around, keys=issuer, now=lambda: now), issuer)
    may: list[Tried] = []
    may_not: list[Tried] = []
    for caller in callers(prober.policies, state.snapshot.mesh):
        allowed = list(prober.allowed(caller))
        may.extend(allowed)
        if not allowed:
            may_not.append(prober.attempt(caller, None))
    return WhoCan(may=tuple(may), may_not=tuple(may_not), is_whole=prober.count < PROBES_MAX)


class _Prober:
    def __init__(
        self, question: Question, state: ServingState, around: Surroundings, issuer: TestIssuer
    ) -> None:
        self._question = question
        self._issuer = issuer
        self._now = datetime.fromtimestamp(around.now(), UTC)
        self._evaluator = Evaluator(state, replace(around, verify_token=verify_token))
        self.count = 0
        basis = self._outcome(replace(question, caller="", token="")).basis
        self.policies = () if basis is None else applied_policies(basis)
        self._tokens = () if basis is None else tokens(self.policies, basis.policies.jwt_rules)

    def _outcome(self, question: Question) -> Outcome:
        document = to_document(question)
        document["at"] = self._now.isoformat()
        return self._evaluator.outcome(json.dumps(document).encode())

    def allowed(self, caller: Caller) -> Iterator[Tried]:
        """Yield the ways in which a caller may; a token is told only where it is needed."""
        bare = self.attempt(caller, None)
        if bare.decision.is_allowed:
            yield bare
            return
        wide: list[Carried] = []
        for carried in self._tokens:
            if any(_is_within(carried, each) for each in wide) or self.count >= PROBES_MAX:
                continue
            tried = self.attempt(caller, carried)
            if tried.decision.is_allowed:
                wide.append(carried)
                yield tried

    def attempt(self, caller: Caller, carried: Carried | None) -> Tried:
        """Return the walk's answer to one caller."""
        self.count += 1
        question = replace(self._question, caller=caller.principal, token="")
        if carried is not None:
            question = _carrying(question, carried, self._mint(carried))
        decision = self._outcome(question).decision
        return Tried(caller=caller, carried=carried, decision=decision)

    def _mint(self, carried: Carried) -> str:
        audiences = carried.rule.audiences
        claims = {**({"aud": audiences[0]} if audiences else {}), **carried.claims}
        fixture = TokenFixture(issuer=carried.rule.issuer, sub=carried.subject, claims=claims)
        return self._issuer.mint("probe", {"probe": fixture}, self._now)


def _is_within(narrow: Carried, wide: Carried) -> bool:
    """Whether a token is one of a kind that may already."""
    return (
        narrow.rule.issuer == wide.rule.issuer
        and (wide.is_kind or narrow.subject == wide.subject)
        and all(narrow.claims.get(name) == value for name, value in wide.claims.items())
    )


def _carrying(question: Question, carried: Carried, token: str) -> Question:
    """Return the question with the token where its rule looks for it."""
    rule = carried.rule
    if rule.from_headers:
        header = rule.from_headers[0]
        pair = (header.name.lower(), f"{header.prefix}{token}")
        return replace(question, headers=(*question.headers, pair))
    if rule.from_params:
        joint = "&" if "?" in question.path else "?"
        return replace(question, path=f"{question.path}{joint}{rule.from_params[0]}={token}")
    if rule.from_cookies:
        pair = ("cookie", f"{rule.from_cookies[0]}={token}")
        return replace(question, headers=(*question.headers, pair))
    return replace(question, token=token)


def who_can_document(question: Question, found: WhoCan) -> dict[str, Any]:
    """Return the answer as a JSON document."""
    return {
        "version": 1,
        "method": question.method,
        "path": question.path.partition("?")[0],
        "complete": found.is_whole,
        "may": [_tried(each) for each in found.may],
        "mayNot": [_tried(each) for each in found.may_not],
    }


def _tried(tried: Tried) -> dict[str, Any]:
    carried, rule = tried.carried, tried.decision.rule
    return {
        "who": tried.caller.label,
        "principal": tried.caller.principal or None,
        "standsForMany": tried.caller.is_kind,
        "token": None
        if carried is None
        else {
            "issuer": carried.rule.issuer,
            "subject": None if carried.is_kind else carried.subject,
            "claims": dict(carried.claims),
        },
        "reason": str(tried.decision.reason),
        "rule": None if rule is None else {"name": rule.name, "place": rule.place},
    }


def print_who_can(question: Question, found: WhoCan, console: Console) -> None:
    """Print the answer for people: who may, by which rule, and who may not."""
    path = shown(question.path.partition("?")[0])
    console.print(Text(f"{shown(question.method)} {path}", style="bold"), highlight=False)
    console.print("may:" if found.may else "nobody that was tried may", highlight=False)
    for tried in found.may:
        _print_line(tried, "✓", "green", console)
    if found.may_not:
        console.print("may not, with none of the tokens tried:", highlight=False)
    for tried in found.may_not:
        _print_line(tried, "✗", "red", console)
    if not found.is_whole:
        said = f"stopped after {PROBES_MAX} requests; there are more kinds of callers"
        console.print(Text(said, style="yellow"), highlight=False)


def _print_line(tried: Tried, mark: str, style: str, console: Console) -> None:
    rule = tried.decision.rule
    by = f"{rule.name} at {rule.place}" if rule is not None else str(tried.decision.reason)
    console.print(
        visible(
            Text.assemble(
                "  ", Text(f"{mark} ", style=style), tried.who, Text(f"  {by}", style="dim")
            )
        ),
        highlight=False,
    )
