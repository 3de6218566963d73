"""`meshwarden identity inspect-token`: what rules make of a token, step by step, and why not."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from authz.commands.failing import clear_errors
from identity.address_guard import AddressRules
from identity.document_fetch import DocumentFetcher
from identity.errors import KeySourceError
from identity.jose import MAX_TOKEN_CHARS
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal
from identity.key_discovery import KeyPlace, fetch_keys
from identity.token_report import TokenReport, TokenStep, explain_token, is_refused
from policies.files import read_policy_files
from policies.mesh import Mesh
from policies.snapshot import build_snapshot

EXIT_VERIFIED: Final = 0
EXIT_REFUSED: Final = 1
_SCHEME: Final = re.compile(r"\A(?:authorization:\s*)?bearer\s+", re.IGNORECASE)
_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}


@dataclasses.dataclass(frozen=True, slots=True)
class _Judged:
    """A rule, why its keys could not be had (empty when they could), and what it makes of it."""

    rule: JwtRule
    key_fault: str
    report: TokenReport


@click.command("inspect-token")
@click.argument("token_file", metavar="FILE", type=click.File("rb"))
@click.option("--issuer", default="", help="The rule's issuer; without --jwks its keys are found.")
@click.option("--audience", "audiences", multiple=True, help="An audience that the rule takes.")
@click.option(
    "--jwks", help="The rule's keys: a file, taken as inline `jwks`, or a URL, as `jwksUri`."
)
@click.option(
    "--policies",
    "policy_paths",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Judge by the rules of these RequestAuthentications instead.",
)
@click.option("--at", "at_text", help="The time to judge at: ISO 8601 or seconds since the epoch.")
@click.option("--allow-loopback", is_flag=True, help="Fetch keys from loopback addresses too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_token_command(  # noqa: PLR0913, PLR0917 - one for each option
    token_file: Any,
    issuer: str,
    audiences: tuple[str, ...],
    jwks: str | None,
    policy_paths: tuple[Path, ...],
    at_text: str | None,
    allow_loopback: bool,
    as_json: bool,
) -> None:
    """Judge the token in FILE (`-`: standard input) as RequestAuthentication would.

    Shows header, claims and each step; never the signature, a secret or a token
    within the claims. Without --issuer the rule takes any issuer.

    \b
    Exit codes: 0 a rule verifies the token; 1 none does; 2 it cannot be judged.
    """
    with clear_errors():
        now = time.time() if at_text is None else _parse_time(at_text)
        text = _read_token(token_file.read(4 * MAX_TOKEN_CHARS))
        rules = _rules(issuer, audiences, jwks, policy_paths)
        fetcher = DocumentFetcher(addresses=AddressRules(allow_loopback=allow_loopback))
        judged = [_judge(text, rule, fetcher, now) for rule in rules]
    if as_json:
        click.echo(json.dumps([_document(each) for each in judged], indent=2))
    else:
        _print(judged, now)
    verified = any(not is_refused(each.report) for each in judged)
    raise SystemExit(EXIT_VERIFIED if verified else EXIT_REFUSED)


def _parse_time(text: str) -> float:
    """Return seconds since the epoch."""
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text, re.ASCII):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter("is neither ISO 8601 nor seconds", param_hint="--at") from exc
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _read_token(raw: bytes) -> str:
    """Return the token, without the scheme that a copied header has before it."""
    return _SCHEME.sub("", raw.decode("utf-8", "replace").strip())


def _rules(
    issuer: str, audiences: tuple[str, ...], jwks: str | None, policy_paths: tuple[Path, ...]
) -> Sequence[JwtRule]:
    """Return the rules to judge by: those of the policies, or the one that the options spell."""
    if policy_paths:
        if issuer or audiences or jwks:
            raise click.UsageError("--policies brings its own rules: no other option goes with it")
        snapshot = build_snapshot(read_policy_files(policy_paths), Mesh())
        found = [rule for each in snapshot.request_authentications for rule in each.jwt_rules]
        if not found:
            raise click.UsageError("the policies hold no `jwtRules`")
        return found
    if jwks is None:
        return [JwtRule(issuer=issuer, audiences=audiences)]
    if jwks.startswith(("http://", "https://")):
        return [JwtRule(issuer=issuer, audiences=audiences, jwks_uri=jwks)]
    text = Path(jwks).read_text(encoding="utf-8", errors="replace")
    parse_jwk_set(text, is_inline=True)
    return [JwtRule(issuer=issuer, audiences=audiences, jwks=text)]


def _judge(text: str, rule: JwtRule, fetcher: DocumentFetcher, now: float) -> _Judged:
    """Return what a rule makes of the token; keys that cannot be had are told, as serve would."""
    keys: JwkSet | None = None
    fault = ""
    if rule.jwks:
        keys = parse_jwk_set(rule.jwks, is_inline=True)
    elif rule.issuer or rule.jwks_uri:
        try:
            place = KeyPlace.of(rule)
            keys = fetch_keys(place, fetcher.fetch, rule.timeout_seconds).keys
        except KeySourceError as exc:
            fault = str(exc)
    else:
        fault = "neither --issuer nor --jwks says where keys are"
    return _Judged(rule, fault, explain_token(text, rule, keys, now))


def _steps(judged: _Judged) -> list[TokenStep]:
    """Return the steps, that of the keys with why they could not be had."""
    return [
        dataclasses.replace(step, detail=judged.key_fault)
        if step.name == "keys" and judged.key_fault
        else step
        for step in judged.report.steps
    ]


def _rule_name(rule: JwtRule) -> str:
    """Return the rule by where it stands, or by its issuer."""
    issuer = f"issuer {json.dumps(rule.issuer)}" if rule.issuer else "any issuer"
    if rule.origin is None:
        return f"rule of {issuer}"
    where = f"{rule.origin.namespace}/{rule.origin.name}"
    return f"rule of {issuer} in {where} ({rule.origin.file}:{rule.origin.line})"


def _verdict(report: TokenReport) -> str:
    """Return the verdict as one line, with what Envoy's caller would read."""
    verdict = report.verdict
    if not isinstance(verdict, TokenRefusal):
        return "verified"
    status = verdict.status
    return f"refused: {status} ({status.http_status} `{verdict.public_text}`)"


def _document(judged: _Judged) -> dict[str, Any]:
    """Return one rule's judgement as JSON has it."""
    report = judged.report
    return {
        "rule": _rule_name(judged.rule),
        "verified": not is_refused(report),
        "verdict": _verdict(report),
        "header": report.header,
        "ignoredHeaderFields": report.ignored,
        "claims": report.claims,
        "steps": [dataclasses.asdict(step) for step in _steps(judged)],
    }


def _print(judged: Sequence[_Judged], now: float) -> None:
    """Print the token once, and each rule's steps and verdict."""
    first = judged[0].report
    click.echo(f"judged at {datetime.fromtimestamp(now, UTC).isoformat()}")
    # WHY JSON: it escapes control letters, which a token may hold to repaint a terminal.
    click.echo(f"header  {json.dumps(first.header)}")
    if first.ignored:
        click.echo(f"        never looked at: {json.dumps(first.ignored)}")
    click.echo(f"claims  {json.dumps(first.claims, indent=2)}")
    click.echo("        (the signature is not shown)")
    for each in judged:
        click.echo(f"\n{_rule_name(each.rule)}")
        for step in _steps(each):
            click.echo(f"  {_MARKS[step.holds]} {step.name:<11} {step.detail}")
        click.echo(f"  => {_verdict(each.report)}")
    if len(judged) > 1:
        click.echo("\nThe rules that apply to one workload are alternatives: one that verifies is")
        click.echo("enough; without one, a token that any of them finds is refused.")
