"""The command lines `meshwarden` and `policy`."""

from __future__ import annotations

import click

from authz.commands.late import LateGroup
from authz.commands.policy import EXIT_CODES, policy_main


def _serve() -> click.Command:
    from authz.lean_imports import import_leanly

    import_leanly()
    from authz.commands.serve import serve_command

    return serve_command


def _envoy_config() -> click.Command:
    from authz.commands.serve import envoy_config_command

    return envoy_config_command


def _config() -> click.Command:
    from authz.commands.serve import config_group

    return config_group


def _ca() -> click.Command:
    from authz.commands.ca import ca_group

    return ca_group


def _identity() -> click.Command:
    from authz.commands.identity import identity_group

    return identity_group


def _audit() -> click.Command:
    from authz.commands.audit import audit_group

    return audit_group


def _completion() -> click.Command:
    from authz.commands.completion import completion_command

    return completion_command


@click.group(
    cls=LateGroup,
    late={
        "serve": _serve,
        "envoy-config": _envoy_config,
        "config": _config,
        "ca": _ca,
        "identity": _identity,
        "audit": _audit,
        "completion": _completion,
    },
    epilog=EXIT_CODES,
)
@click.version_option(package_name="meshwarden")
def main() -> None:
    """Meshwarden: a zero-trust policy engine and external authorizer for Envoy."""


main.add_command(policy_main, name="policy")

__all__ = ["main", "policy_main"]

if __name__ == "__main__":
    main()
