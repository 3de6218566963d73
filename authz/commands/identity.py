"""`meshwarden identity`: what Meshwarden makes of certificates, forwarded headers, tokens and keys.

Each command stands in a file of its own and is joined to the group here.
"""

from __future__ import annotations

import click


@click.group("identity")
def identity_group() -> None:
    """Show what Meshwarden makes of an identity, step by step, and why not."""
