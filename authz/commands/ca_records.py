"""`meshwarden ca issue`, `sign-csr`, `entries`, `token`, `list`, `revoke`: what is on record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import click

from authz.commands.ca_slots import ca_config_option, settings_of_command
from authz.commands.failing import clear_errors
from ca.clock import utc_now
from ca.commands import carry_out
from ca.files import write_private_file
from ca.revocations import DeniedKind, RevocationReason

_KINDS = {"serial": DeniedKind.SERIAL, "key": DeniedKind.KEY, "id": DeniedKind.SPIFFE_ID}
_FROM_DEFAULT = "the CA's own"
_lifetime_option = click.option(
    "--lifetime",
    type=click.IntRange(min=1),
    help="Seconds that a certificate is good for; else `svidLifetimeSeconds` says.",
)


@click.command("sign-csr")
@ca_config_option()
@click.option("--spiffe-id", required=True, help="The SPIFFE ID to put into the certificate.")
@_lifetime_option
@click.argument("csr", type=click.File("r"))
def sign_csr_command(config: Path, spiffe_id: str, lifetime: int | None, csr: TextIO) -> None:
    """Sign a CSR (PEM) and print the chain. Only its public key is used."""
    with clear_errors():
        answer = _ask(
            config,
            {
                "do": "sign-csr",
                "csr": csr.read(),
                "spiffeId": spiffe_id,
                "lifetimeSeconds": lifetime,
            },
        )
        click.echo(answer["chain"], nl=False)


@click.command("issue")
@ca_config_option()
@click.option("--spiffe-id", required=True, help="The SPIFFE ID to put into the certificate.")
@click.option("--dns-name", "dns_names", multiple=True, help="A DNS name beside it; repeatable.")
@_lifetime_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder for `tls.crt` and `tls.key`, both of mode 0600.",
)
def issue_command(
    config: Path, spiffe_id: str, dns_names: tuple[str, ...], lifetime: int | None, out: Path
) -> None:
    """Issue a certificate with a new key into a folder."""
    with clear_errors():
        answer = _ask(
            config,
            {
                "do": "issue",
                "spiffeId": spiffe_id,
                "dnsNames": list(dns_names),
                "lifetimeSeconds": lifetime,
            },
        )
        # The key first: a certificate without its key serves nobody.
        write_private_file(out / "tls.key", answer["key"].encode())
        write_private_file(out / "tls.crt", answer["chain"].encode())
        click.echo(f"issued {answer['serial']}, it ends {answer['expiresAt']}")


@click.group("entries")
def entries_group() -> None:
    """Registration entries: who may hold which SPIFFE ID."""


@entries_group.command("add")
@ca_config_option()
@click.option(
    "--spiffe-id",
    required=True,
    help="The ID it gives; `{ns}` and `{sa}` stand for those of a Kubernetes token.",
)
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    required=True,
    help="`kind:key:value` that a caller must have; repeatable, all must fit.",
)
@click.option("--entry-id", default="", help="Its name; drawn where none is given.")
@_lifetime_option
@click.option("--dns-name", "dns_names", multiple=True, help="A DNS name beside it; repeatable.")
@click.option("--hint", default="", help="Hint for a workload that gets several IDs.")
@click.option("--expires-at", default="", help="When it ends (RFC 3339).")
def entries_add_command(config: Path, **options: Any) -> None:
    """Add an entry and print it."""
    with clear_errors():
        request = {
            "do": "entries.add",
            "spiffeId": options["spiffe_id"],
            "selectors": list(options["selectors"]),
            "entryId": options["entry_id"],
            "lifetimeSeconds": options["lifetime"],
            "dnsNames": list(options["dns_names"]),
            "hint": options["hint"],
            "expiresAt": options["expires_at"],
        }
        click.echo(_line_of_entry(_ask(config, request)))


@entries_group.command("list")
@ca_config_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def entries_list_command(config: Path, as_json: bool) -> None:
    """List every entry, the oldest first."""
    with clear_errors():
        found = _ask(config, {"do": "entries.list"})["entries"]
        if as_json:
            click.echo(json.dumps(found, indent=2))
            return
        for entry in found:
            click.echo(_line_of_entry(entry))


@entries_group.command("remove")
@ca_config_option()
@click.argument("entry_id")
def entries_remove_command(config: Path, entry_id: str) -> None:
    """Remove an entry: nothing is issued or renewed under it any more."""
    with clear_errors():
        _ask(config, {"do": "entries.remove", "entryId": entry_id})
        click.echo(f"removed {entry_id}")


@click.command("token")
@ca_config_option()
@click.option("--spiffe-id", required=True, help="The ID that its holder gets.")
@click.option(
    "--lifetime",
    type=click.IntRange(min=1),
    default=600,
    show_default=True,
    help="Seconds until it is over.",
)
def token_command(config: Path, spiffe_id: str, lifetime: int) -> None:
    """Make a join token, good for one first certificate, and print it."""
    with clear_errors():
        request = {"do": "token", "spiffeId": spiffe_id, "lifetimeSeconds": lifetime}
        click.echo(_ask(config, request)["token"])


@click.command("list")
@ca_config_option()
@click.option("--spiffe-id", default="", help="Only those of this SPIFFE ID.")
@click.option("--serial", default="", help="Only the one of this serial number (hex).")
@click.option("--since", default="", help="Only those issued at or after this moment (RFC 3339).")
@click.option("--until", default="", help="Only those issued before this moment (RFC 3339).")
@click.option("--in-force", is_flag=True, help="Only those that count now.")
@click.option("--authorities", is_flag=True, help="The intermediates that our roots signed.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Only the newest N.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(config: Path, as_json: bool, **options: Any) -> None:
    """List what was issued, the newest first."""
    with clear_errors():
        request = {
            "do": "list",
            "spiffeId": options["spiffe_id"],
            "serial": options["serial"],
            "since": options["since"],
            "until": options["until"],
            "inForce": options["in_force"],
            "authorities": options["authorities"],
            "limit": options["limit"],
        }
        found = _ask(config, request)["issued"]
        if as_json:
            click.echo(json.dumps(found, indent=2))
            return
        for row in found:
            click.echo(
                f"{row['issuedAt']}  {row['notAfter']}  {row['serial']}  {row['kind']:<4}  "
                f"{row['method']:<19}  {row['spiffeId']}"
            )


@click.command("revoke")
@ca_config_option()
@click.option(
    "--kind",
    type=click.Choice(sorted(_KINDS)),
    default="serial",
    show_default=True,
    help="What VALUE is: a serial number, a key's SHA-256, or a SPIFFE ID.",
)
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in RevocationReason]),
    default=RevocationReason.UNSPECIFIED.value,
    show_default=True,
    help="Why, as it stands on record and in revocation lists.",
)
@click.option("--lift", is_flag=True, help="Deny a key or an ID no longer.")
@click.argument("value")
def revoke_command(config: Path, kind: str, reason: str, lift: bool, value: str) -> None:
    """Deny a certificate, a key or an ID at once: here, on the deny list, and on the CRL."""
    with clear_errors():
        do = "lift" if lift else "revoke"
        answer = _ask(
            config, {"do": do, "kind": _KINDS[kind].value, "value": value, "reason": reason}
        )
        if lift:
            click.echo(f"lifted {value}")
            return
        click.echo(f"revoked {answer['value']}")
        if answer["published"]:
            click.echo(f"warning: not published: {answer['published']}", err=True)


RECORD_COMMAND_LINES = (
    sign_csr_command,
    issue_command,
    entries_group,
    token_command,
    list_command,
    revoke_command,
)
"""The command lines of this file."""


def _line_of_entry(entry: Mapping[str, Any]) -> str:
    """Return an entry as one line."""
    lifetime = entry["lifetimeSeconds"]
    shown = f"{lifetime} s" if lifetime else _FROM_DEFAULT
    selectors = " ".join(entry["selectors"])
    return f"{entry['entryId']}  {entry['spiffeId']}  {selectors}  lifetime: {shown}"


def _ask(config: Path, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer of the CA that a configuration file describes."""
    return carry_out(settings_of_command(config), request, utc_now)
