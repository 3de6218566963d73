"""`meshwarden identity`: what Meshwarden makes of certificates, forwarded headers, tokens and keys.

Each command stands in a file of its own and is joined to the group here.
"""

from __future__ import annotations

import click

from authz.commands.identity_jwks import fetch_jwks_command
from authz.commands.identity_peer import inspect_cert_command, inspect_xfcc_command
from authz.commands.identity_token import inspect_token_command


@click.group("identity")
def identity_group() -> None:
    """Show what Meshwarden makes of an identity, step by step, and why not."""


identity_group.add_command(inspect_cert_command)
identity_group.add_command(inspect_xfcc_command)
identity_group.add_command(inspect_token_command)
identity_group.add_command(fetch_jwks_command)
