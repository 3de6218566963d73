"""The command lines `meshwarden` and `policy`."""

from __future__ import annotations

import click

from authz.commands.audit import audit_group
from authz.commands.ca import ca_group
from authz.commands.identity import identity_group
from authz.commands.policy import policy_main
from authz.commands.serve import config_group, envoy_config_command, serve_command


@click.group()
@click.version_option(package_name="meshwarden")
def main() -> None:
    """Meshwarden: a zero-trust policy engine and external authorizer for Envoy."""


main.add_command(serve_command)
main.add_command(envoy_config_command)
main.add_command(config_group)
main.add_command(ca_group)
main.add_command(identity_group)
main.add_command(audit_group)
main.add_command(policy_main, name="policy")

__all__ = ["main", "policy_main"]

if __name__ == "__main__":
    main()
