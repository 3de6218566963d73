"""`meshwarden identity inspect-cert` and `inspect-xfcc`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from authz.bundle_parts import build_bundle_watch
from authz.commands.failing import clear_errors
from authz.config_file import load_settings
from authz.identity_settings import IdentitySettings
from authz.inspect_peer import Inspection, inspect_certificate, inspect_xfcc
from identity.bundle_document import load_bundle
from identity.errors import SpiffeIdError
from identity.peer_finding import PeerEvidence, PeerRules
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleSet, TrustBundle

EXIT_PEER = 0
EXIT_REFUSED = 1

_SHOWN_MAX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """What both commands judge by."""

    rules: PeerRules
    bundles: BundleSet
    at: datetime


class _BundleParameter(click.ParamType[TrustBundle]):
    """`TRUST_DOMAIN=FILE`: a bundle, as SPIFFE's JWK set or as PEM."""

    name = "bundle"

    def convert(self, value: Any, param: Any, ctx: Any) -> TrustBundle:
        """Return the bundle of a file."""
        name, equals, file = str(value).partition("=")
        if not equals or not file:
            self.fail(f"`{value}` is not TRUST_DOMAIN=FILE", param, ctx)
        try:
            domain = TrustDomain(name)
        except SpiffeIdError as exc:
            self.fail(str(exc), param, ctx)
        with clear_errors(), click.open_file(file, "rb") as stream:
            return load_bundle(domain, stream.read())


class _TimeParameter(click.ParamType[datetime]):
    """An RFC 3339 time."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Return the time, aware."""
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"`{value}` is no time such as 2026-01-31T12:00:00Z", param, ctx)
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both commands have; the command gets `file`, `basis` and `format_`."""

    @functools.wraps(command)
    def run(
        config: Path | None, bundles: tuple[TrustBundle, ...], at: datetime | None, **rest: Any
    ) -> None:
        with clear_errors():
            identity = IdentitySettings() if config is None else load_settings(config).identity
            # What is not started reads files and asks no endpoint.
            held = build_bundle_watch(identity).current()
        for bundle in bundles:
            held = held.with_bundle(bundle)
        basis = _Basis(rules=identity.to_peer_rules(), bundles=held, at=at or datetime.now(UTC))
        command(basis=basis, **rest)

    decorated: Callable[..., None] = run
    for option in (
        click.option(
            "--format",
            "format_",
            type=click.Choice(("pretty", "json")),
            default="pretty",
            show_default=True,
            help="For people, or for programs.",
        ),
        click.option(
            "--at", type=_TimeParameter(), help="The time to judge by, RFC 3339; default: now."
        ),
        click.option(
            "--bundle",
            "bundles",
            type=_BundleParameter(),
            multiple=True,
            metavar="TRUST_DOMAIN=FILE",
            help="A trust bundle to verify by: a JWK set or PEM. May be repeated.",
        ),
        click.option(
            "-c",
            "--config",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="The configuration whose `identity` section counts; of its trust bundles the "
            "files do, no endpoint is asked. Default: none.",
        ),
        click.argument("file", type=click.File("rb"), metavar="FILE"),
    ):
        decorated = option(decorated)
    return decorated


@click.command("inspect-cert", short_help="Show what a client certificate proves.")
@_common
def inspect_cert_command(file: BinaryIO, basis: _Basis, format_: str) -> None:
    """Show what Meshwarden makes of the client certificate in FILE (`-`: standard input).

    FILE is PEM (the leaf first), DER, or PEM with URL encoding, as Envoy sends it.

    \b
    Exit codes: 0 its bearer is a peer, or has no name; 1 it would be refused;
    2 the command line, the configuration or a bundle is wrong.
    """
    found = inspect_certificate(file.read(), basis.rules, basis.bundles, basis.at)
    _finish(found, format_)


@click.command("inspect-xfcc", short_help="Show whom a forwarded header names.")
@_common
@click.option(
    "--peer", default="", help="Principal of the connection that brought it; empty: plaintext."
)
@click.option("--source-ip", default="", help="Address of that connection.")
def inspect_xfcc_command(
    file: BinaryIO, basis: _Basis, format_: str, peer: str, source_ip: str
) -> None:
    """Show what Meshwarden makes of the X-Forwarded-Client-Cert header in FILE (`-`: stdin).

    FILE holds the value, with or without the name of the header. It is believed only
    where the configuration trusts `--peer` or `--source-ip` to forward.

    \b
    Exit codes: 0 it is believed or ignored; 1 the request would be refused;
    2 the command line, the configuration or a bundle is wrong.
    """
    text = _header_value(file.read())
    evidence = PeerEvidence(principal=peer, source_ip=source_ip, xfcc=text)
    _finish(inspect_xfcc(evidence, basis.rules, basis.bundles, basis.at), format_)


def _header_value(raw: bytes) -> str:
    """Return the value of one header line; bytes that are not ASCII stay what they are."""
    text = raw.decode("utf-8", "surrogateescape").strip("\r\n")
    name, colon, value = text.partition(":")
    is_named = bool(colon) and name.strip().lower() == "x-forwarded-client-cert"
    return value.strip() if is_named else text


def _finish(found: Inspection, format_: str) -> None:
    if format_ == "json":
        click.echo(json.dumps(found.to_plain(), indent=2))
    else:
        _print(found)
    raise SystemExit(EXIT_REFUSED if found.fault else EXIT_PEER)


def _print(found: Inspection) -> None:
    """Print what was seen, the steps, and what policies would see."""
    for name, value in found.facts:
        click.echo(f"{name + ':':<14} {_visible(value)}")
    for number, step in enumerate(found.steps, 1):
        click.echo(f"{number}. {_visible(step)}")
    if found.fault:
        click.echo(f"refused: {found.fault}: {_visible(found.detail)}")
        return
    if found.xfcc:
        click.echo(f"header: {_visible(found.xfcc)}")
    if found.peer is None:
        click.echo("peer: none")
        return
    for name, value in found.to_plain()["peer"].items():
        click.echo(f"{'peer ' + name + ':':<22} {_visible(_told(value))}")


def _told(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _visible(text: str) -> str:
    """Return a text on one line, nothing in it that a terminal would act on."""
    cut = text[:_SHOWN_MAX]
    plain = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in cut
    )
    return plain + "..." if len(text) > _SHOWN_MAX else plain
