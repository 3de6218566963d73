"""`meshwarden audit prove`, `check-proof`, `new-key`, `verifier-key` and `end-signing`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from audit.checkpoint import parse_proof
from audit.commands import run_prove
from audit.errors import AuditKeyError, CheckpointError
from audit.signed_note import NoteVerifier, load_signer, new_private_key, parse_verifier
from audit.signing_end import end_signing
from authz.commands.failing import clear_errors

_file = click.Path(path_type=Path, dir_okay=False)
_origin_option = click.option(
    "--origin", required=True, help="The name it signs under: `audit.checkpointOrigin`."
)


@click.command("prove", short_help="Take out one decision with its proof.")
@click.argument("log", type=click.Path(path_type=Path, file_okay=False))
@click.argument("decision_id")
@click.option(
    "--line", "line_file", type=_file, required=True, help="File for the decision's line."
)
@click.option("-o", "--output", type=_file, required=True, help="File for the proof.")
def prove_command(log: Path, decision_id: str, line_file: Path, output: Path) -> None:
    """Take a decision out of the record LOG together with the proof that it stands there."""
    with clear_errors():
        entry, proof = run_prove(log, decision_id)
        line_file.write_bytes(entry + b"\n")
        output.write_text(proof, encoding="utf-8")


@click.command("check-proof", short_help="Say whether a proof holds.")
@click.argument("proof", type=_file)
@click.argument("line_file", metavar="LINE", type=_file)
@click.option("--key", required=True, help="Verifier key, NAME+KEYID+BASE64, or a file of it.")
def check_proof_command(proof: Path, line_file: Path, key: str) -> None:
    """Say whether PROOF shows that LINE stands in a signed record. Needs no more than the two.

    Exit code 0: it does; 1: it does not; 2: a file or the key cannot be used.
    """
    with clear_errors():
        verifier = read_verifier(key)
        text, entry = proof.read_bytes(), line_file.read_bytes().removesuffix(b"\n")
        try:
            found = parse_proof(text.decode(errors="replace"))
            checkpoint = found.check(entry, verifier)
        except CheckpointError as exc:
            click.echo(f"{line_file}: NOT PROVEN: {exc}")
            raise SystemExit(1) from exc
        click.echo(
            f"{line_file}: line {found.index + 1} of the {checkpoint.size} "
            f"that `{checkpoint.origin}` signed for"
        )


@click.command("new-key", short_help="Make a key that signs checkpoints.")
@click.argument("key_file", type=_file)
@_origin_option
def new_key_command(key_file: Path, origin: str) -> None:
    """Make a private key for checkpoints in KEY_FILE, and print its verifier key."""
    with clear_errors():
        try:
            fd = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as exc:
            why = "is there already, and a key that signed is not replaced"
            raise AuditKeyError(f"`{key_file}` {why}: give another name") from exc
        with os.fdopen(fd, "wb") as file:
            file.write(new_private_key())
        click.echo(str(load_signer(key_file, origin).verifier))


@click.command("verifier-key", short_help="Print the verifier key of a private key.")
@click.argument("key_file", type=_file)
@_origin_option
def verifier_key_command(key_file: Path, origin: str) -> None:
    """Print the verifier key of the private key in KEY_FILE, to hand to an auditor."""
    with clear_errors():
        click.echo(str(load_signer(key_file, origin).verifier))


@click.command("end-signing", short_help="Say, signed, that signing ends.")
@click.argument("log", type=click.Path(path_type=Path, file_okay=False))
@click.argument("key_file", type=_file)
@_origin_option
def end_signing_command(log: Path, key_file: Path, origin: str) -> None:
    """Put on the record LOG that signing ends, and sign up to there with the key in KEY_FILE.

    To be called once the authorizer has stopped, before `audit.checkpointKeyFile` is taken out of
    its configuration. Without it `audit verify` cannot tell that from checkpoints taken away.
    """
    with clear_errors():
        for each in end_signing(log, key_file, origin, node=socket.gethostname()):
            click.echo(f"{each}: signed for the last time")


def read_verifier(text: str) -> NoteVerifier:
    """Return the verifier key in a text, or in the file of that name.

    Raises:
        AuditKeyError: it is none.
        OSError: the file cannot be read.
    """
    # A verifier key has two `+` and no file of ours is named so.
    if text.count("+") >= 2:  # as the line above says
        return parse_verifier(text)
    return parse_verifier(Path(text).read_bytes().decode(errors="replace"))
