"""`meshwarden audit`: each command is imported when it is asked for."""

from __future__ import annotations

import click

from authz.commands.late import LateGroup


def _query() -> click.Command:
    from authz.commands.audit_query import query_command

    return query_command


def _tail() -> click.Command:
    from authz.commands.audit_query import tail_command

    return tail_command


def _export() -> click.Command:
    from authz.commands.audit_export import export_command

    return export_command


def _verify_export() -> click.Command:
    from authz.commands.audit_export import verify_export_command

    return verify_export_command


def _index() -> click.Command:
    from authz.commands.audit_index import index_command

    return index_command


def _verify() -> click.Command:
    from authz.commands.audit_verify import verify_command

    return verify_command


def _prove() -> click.Command:
    from authz.commands.audit_proof import prove_command

    return prove_command


def _check_proof() -> click.Command:
    from authz.commands.audit_proof import check_proof_command

    return check_proof_command


def _new_key() -> click.Command:
    from authz.commands.audit_proof import new_key_command

    return new_key_command


def _verifier_key() -> click.Command:
    from authz.commands.audit_proof import verifier_key_command

    return verifier_key_command


def _end_signing() -> click.Command:
    from authz.commands.audit_proof import end_signing_command

    return end_signing_command


_LATE = {
    "query": _query,
    "tail": _tail,
    "export": _export,
    "verify-export": _verify_export,
    "index": _index,
    "verify": _verify,
    "prove": _prove,
    "check-proof": _check_proof,
    "new-key": _new_key,
    "verifier-key": _verifier_key,
    "end-signing": _end_signing,
}


@click.group("audit", cls=LateGroup, late=_LATE)
def audit_group() -> None:
    """Verify, ask and export the record of decisions."""
