"""The demo's requests as data: read from `cases.yaml`, where people read them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from examples.demo.issuer import TokenFault

_FILE: Final = Path(__file__).with_name("cases.yaml")
_ALLOWED: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlan:
    """A token to be minted: its claims, and what is wrong with it."""

    claims: Mapping[str, Any]
    fault: TokenFault

    @property
    def subject(self) -> str | None:
        """The subject that is believed, None when the token must not be."""
        return self.claims.get("sub") if self.fault is TokenFault.NONE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request and what must come of it.

    `upstream` maps a header to the value that the upstream must have seen, None for
    "not at all"; `{issuer}` in a value stands for the issuer's address.
    """

    peer: str
    method: str
    target: str
    status: int
    reason: str
    token: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    policy: str = ""
    shadow: str = ""
    body: str = ""
    upstream: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def effect(self) -> str:
        """The verdict that is expected."""
        return "allow" if self.status == _ALLOWED else "deny"


@dataclass(frozen=True, slots=True)
class Plan:
    """Every token by name, and every case in order."""

    tokens: Mapping[str, TokenPlan]
    cases: tuple[Case, ...]


def load_plan(path: Path = _FILE) -> Plan:
    """Return the plan; a key that nobody knows is an error."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    tokens = {name: _token(claims) for name, claims in document["tokens"].items()}
    return Plan(tokens, tuple(_case(row) for row in document["cases"]))


def _token(row: Mapping[str, Any]) -> TokenPlan:
    """Return a token's plan; every key but `fault` is a claim."""
    claims = {name: value for name, value in row.items() if name != "fault"}
    return TokenPlan(claims=claims, fault=TokenFault(row.get("fault", TokenFault.NONE)))


def _case(row: Mapping[str, Any]) -> Case:
    """Return a case; an allowed request is, unless said otherwise, allowed by a rule."""
    fields = dict(row)
    method, _, target = fields.pop("request").partition(" ")
    if fields["status"] == _ALLOWED:
        fields.setdefault("reason", "allow_rule_matched")
    return Case(peer=fields.pop("as"), method=method, target=target, **fields)
