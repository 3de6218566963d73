"""A story as text for people: ticks and crosses, coloured where a terminal reads it."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

from authz.console_text import visible
from authz.explain.standing import Standing
from authz.explain.story import (
    ClauseStory,
    GroupStory,
    PolicyStory,
    RuleStory,
    Story,
)
from policies.decision import RuleRef, ShadowVerdict
from policies.diagnostic import shown
from policies.request import Request

# BUDGET: rules shown in full when there are more and nobody asked for all; the others are counted.
_RULES_SHOWN: Final = 20
_VALUES_SHOWN: Final = 6
_STANDINGS: Final = {
    Standing.DECIDED: ("decided", "bold"),
    Standing.MATCHED: ("matched", ""),
    Standing.NO_MATCH: ("no rule matched", "dim"),
    Standing.NOT_ASKED: ("not asked: it was decided before", "dim"),
    Standing.SHADOW: ("dry run: not enforced", "yellow"),
}


def print_story(story: Story, console: Console, *, shows_all: bool = False) -> None:
    """Print the story; without `shows_all`, of many rules the nearest only."""
    near = frozenset(rule.ref for rule in story.near_misses)
    printer = _Printer(console, _chosen(story, shows_all), near)
    printer.head(story)
    printer.before_rules(story)
    for policy in story.policies:
        printer.policy(policy)
    printer.rest(story)


def _chosen(story: Story, shows_all: bool) -> frozenset[RuleRef] | None:
    """Return the rules to show in full, None for all of them."""
    rules = [rule for policy in story.policies for rule in policy.rules]
    if shows_all or len(rules) <= _RULES_SHOWN:
        return None
    nearest = sorted(rules, key=lambda rule: (not rule.matches, len(rule.failing) or 99))
    return frozenset(rule.ref for rule in nearest[:_RULES_SHOWN])


def _mark(holds: bool) -> Text:
    return Text("✓ ", style="green") if holds else Text("✗ ", style="red")


class _Printer:
    def __init__(
        self,
        console: Console,
        chosen: frozenset[RuleRef] | None,
        near: frozenset[RuleRef],
    ) -> None:
        self._console = console
        self._chosen = chosen
        self._near = near

    def _say(self, *parts: Text | str, indent: int = 0) -> None:
        self._console.print(visible(Text.assemble(" " * indent, *parts)), highlight=False)

    def head(self, story: Story) -> None:
        """Print the answer and who gave it."""
        decision, request = story.decision, story.outcome.request
        style = "bold green" if decision.is_allowed else "bold red"
        status = "" if decision.is_allowed else f" {decision.http_status}"
        self._say(Text(f"{decision.effect.upper()}{status}", style=style), f"  {_asked(request)}")
        self._say(f"{decision.detail} ({decision.reason})", indent=2)
        if decision.rule is not None:
            rule = decision.rule
            self._say("decided by ", Text(rule.name, style="bold"), f" at {rule.place}", indent=2)
        if decision.near_miss:
            self._say("near miss: ", decision.near_miss, indent=2)

    def before_rules(self, story: Story) -> None:
        """Print who asks, and what peer and token authentication made of it."""
        request, basis = story.outcome.request, story.outcome.basis
        self._say()
        peer = "no client certificate" if request.peer is None else shown(request.peer.principal)
        self._say(f"from   {peer}")
        if basis is None:
            return
        requirement, port = basis.policies.peer, request.destination_port
        by = requirement.ref_for(port)
        mode = "STRICT" if requirement.is_strict(port) else "not STRICT"
        where = f" by {by.name} at {by.place}" if by is not None else ", no PeerAuthentication"
        self._say("mTLS   ", _mark(requirement.admits(request)), f"{mode}{where}")
        self._say("token  ", *_token(story))

    def policy(self, policy: PolicyStory) -> None:
        """Print one policy with its rules."""
        words, style = _STANDINGS[policy.standing]
        self._say()
        self._say(
            Text(f"{policy.action} "),
            Text(policy.name, style="bold"),
            f"  {policy.ref.place}  ",
            Text(words, style=style),
        )
        provider = f"; asks the provider `{policy.provider}`" if policy.provider else ""
        self._say(Text(f"considered: {policy.why}{provider}", style="dim"), indent=2)
        if not policy.rules:
            self._say("no rules: it matches nothing", indent=2)
        left_out = 0
        for rule in policy.rules:
            if self._chosen is None or rule.ref in self._chosen:
                self._rule(rule)
            else:
                left_out += 1
        if left_out:
            self._say(Text(f"… {left_out} more that came no nearer (--all)", style="dim"), indent=2)

    def _rule(self, rule: RuleStory) -> None:
        if not rule.can_match:
            self._say(
                _mark(False), f"rule {rule.ref.rule} can match nothing of this kind", indent=2
            )
            return
        tail = Text("  near miss", style="yellow") if rule.ref in self._near else Text()
        place = Text(f"  {rule.ref.place}", style="dim")
        self._say(_mark(rule.matches), f"rule {rule.ref.rule}", place, tail, indent=2)
        if not rule.groups:
            self._say(_mark(True), "no conditions: every request", indent=6)
        for group in rule.groups:
            self._group(group)

    def _group(self, group: GroupStory) -> None:
        name = group.kind if group.kind == "when" else f"{group.kind}[{group.number}]"
        if not group.clauses:
            self._say(_mark(True), f"{name}  nothing of it counts here", indent=6)
        for clause in group.clauses:
            self._say(_mark(clause.holds), f"{name}  ", *_clause(clause), indent=6)

    def rest(self, story: Story) -> None:
        """Print the shadows, the audit rules and the policies that were not considered."""
        if story.outcome.shadow:
            self._say()
            self._say(Text("Shadow", style="bold"))
        for verdict in story.outcome.shadow:
            matched = f", {_rule(verdict, verdict.matched)} matched" if verdict.matched else ""
            detail = f" ({verdict.detail})" if verdict.detail else ""
            self._say(f"{verdict.policy}: {verdict.outcome}{matched}{detail}", indent=2)
        if story.decision.audited_by:
            names = ", ".join(ref.name for ref in story.decision.audited_by)
            self._say()
            self._say(Text("Audited by ", style="bold"), names)
        if story.passed_over:
            self._say()
            self._say(Text("Not considered", style="bold"))
        for each in story.passed_over:
            self._say(f"{each.action} {each.ref.name}: ", Text(each.why, style="dim"), indent=2)


def _rule(verdict: ShadowVerdict, matched: RuleRef) -> str:
    """Return how a rule is called; one of a set by its policy too."""
    return f"rule {matched.rule}" if "/" in verdict.policy else matched.name


def _asked(request: Request) -> str:
    workload = request.workload
    what = (
        f"{shown(request.method)} {shown(request.path_only)}" if request.is_http else "a connection"
    )
    if workload is None:
        return what
    labels = ",".join(f"{key}={value}" for key, value in workload.labels.items())
    to = f"{workload.namespace}/{labels}" if labels else workload.namespace
    return f"{what} to {shown(to)}"


def _token(story: Story) -> tuple[Text | str, ...]:
    basis, claims = story.outcome.basis, story.outcome.request.claims
    assert basis is not None
    if basis.is_token_refused:
        return (_mark(False), "refused")
    if claims is not None:
        return (
            _mark(True),
            f"verified: {shown(claims.issuer or '')}/{shown(claims.subject or '')}",
        )
    issuers = ", ".join(shown(rule.issuer) for rule in basis.policies.jwt_rules)
    return (
        "none",
        f"; those of {issuers} would be verified" if issuers else "; none is looked for",
    )


def _clause(clause: ClauseStory) -> tuple[Text | str, ...]:
    """Return one condition: the name, the values, what the request had."""
    values: list[Text | str] = []
    # A value that settles the condition is shown first.
    ordered = sorted(clause.values, key=lambda value: not value.fits)
    for number, value in enumerate(ordered[:_VALUES_SHOWN]):
        word = ("not " if value.negated else "") + f"`{shown(value.text)}`"
        values += [", " if number else "", Text(word, style="bold" if value.fits else "")]
    if len(ordered) > _VALUES_SHOWN:
        values.append(f", … {len(ordered) - _VALUES_SHOWN} more")
    return (f"{clause.spelled}: ", *values, Text(f"  the request has {clause.had}", style="dim"))
