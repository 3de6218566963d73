"""`meshwarden identity fetch-jwks`: what an issuer publishes, and which of its keys are used."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from authz.commands.failing import clear_errors
from identity.address_guard import AddressRules
from identity.document_fetch import DocumentFetcher
from identity.jwks import Jwk
from identity.key_discovery import FetchedKeys, KeyPlace, fetch_keys

EXIT_USABLE: Final = 0
EXIT_NO_KEY: Final = 1


@click.command("fetch-jwks")
@click.argument("url", required=False)
@click.option("--issuer", help="Find the key set through this issuer's discovery document.")
@click.option(
    "--timeout", "timeout_seconds", default=5.0, show_default=True,
    help="Seconds for each document.",
)  # fmt: skip
@click.option("--allow-loopback", is_flag=True, help="Fetch from loopback addresses too.")
@click.option("--refuse-private", is_flag=True, help="Do not fetch from private addresses.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fetch_jwks_command(
    url: str | None,
    issuer: str | None,
    timeout_seconds: float,
    allow_loopback: bool,
    refuse_private: bool,
    as_json: bool,
) -> None:
    """Fetch a key set from URL, or from --issuer by OpenID discovery, as `serve` would.

    Shows which keys would verify tokens, and why the others are left out.

    \b
    Exit codes: 0 at least one key is usable; 1 none is; 2 the set cannot be had.
    """
    if (url is None) == (issuer is None):
        raise click.UsageError("takes either a URL or --issuer")
    rules = AddressRules(allow_loopback=allow_loopback, allow_private=not refuse_private)
    place = KeyPlace(url or issuer or "", is_issuer=issuer is not None)
    with clear_errors():
        found = fetch_keys(place, DocumentFetcher(addresses=rules).fetch, timeout_seconds)
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    else:
        _print(found)
    raise SystemExit(EXIT_USABLE if found.keys.keys else EXIT_NO_KEY)


def _document(found: FetchedKeys) -> dict[str, Any]:
    """Return what was fetched as JSON has it; no key material but the thumbprint."""
    return {
        "jwksUri": found.jwks_uri,
        "contentType": found.content_type,
        "bytes": found.length,
        "maxAgeSeconds": found.max_age_seconds,
        "used": [
            {
                "kid": key.kid,
                "kind": key.kind,
                "algorithms": _algorithms(key),
                "thumbprint": key.thumbprint,
            }
            for key in found.keys.keys
        ],
        "notes": found.keys.notes,
    }


def _algorithms(key: Jwk) -> list[str]:
    """Return the algorithms that a key verifies, the one it is bound to alone."""
    return [key.alg] if key.alg else sorted(key.algorithms)


def _print(found: FetchedKeys) -> None:
    """Print what was fetched for people; JSON escapes what a set may hold to repaint a terminal."""
    freshness = "" if found.max_age_seconds is None else f", fresh for {found.max_age_seconds:g} s"
    kind = json.dumps(found.content_type)
    click.echo(f"key set  {found.jwks_uri} ({found.length} bytes of {kind}{freshness})")
    for key in found.keys.keys:
        name = json.dumps(key.kid) if key.kid else "(no kid)"
        click.echo(f"used     {name} {key.kind}, verifies {', '.join(_algorithms(key))}")
        click.echo(f"         RFC 7638 thumbprint {key.thumbprint}")
    if not found.keys.keys:
        click.echo("used     none: every token of this issuer is refused")
    for note in found.keys.notes:
        click.echo(f"note     {json.dumps(note)[1:-1]}")
