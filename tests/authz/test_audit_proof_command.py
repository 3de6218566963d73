"""The command line of checkpoints: a key, a signed log, a proof that stands on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from audit.record import AuditEvent, AuditRecord, DecisionFacts, EventName, RequestFacts
from audit.settings import AuditSettings
from audit.writer import AuditWriter
from authz.cli import main

_ORIGIN = "example.org/audit"


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


@pytest.fixture
def verifier_key(tmp_path: Path) -> str:
    """The verifier key of a signed log of five decisions in `tmp_path/log`."""
    key_file = tmp_path / "key.pem"
    made = _run("new-key", key_file, "--origin", _ORIGIN)
    assert (made.exit_code, key_file.stat().st_mode & 0o777) == (0, 0o600)
    writer = AuditWriter(
        AuditSettings(
            folder=tmp_path / "log", checkpoint_key_file=key_file, checkpoint_origin=_ORIGIN
        ),
        node="n",
    )
    decision = DecisionFacts(effect="deny", reason="r", layer="DENY", http_status=403)
    for number in range(5):
        writer.offer(
            AuditRecord(
                decision_id=f"{number:032x}",
                received_at=1.0,
                decided_at=2.0,
                revision="r",
                request=RequestFacts(method="GET"),
                decision=decision,
            )
        )
    writer.offer(AuditEvent(event=EventName.RELOAD, at=3.0))
    writer.close()
    printed = _run("verifier-key", key_file, "--origin", _ORIGIN)
    assert printed.output == made.output
    return made.output.strip()


def test_signed_log_is_verified_with_its_key(tmp_path: Path, verifier_key: str) -> None:
    """The key may be given as text or as a file; another origin's key finds no signature."""
    found = _run("verify", tmp_path / "log", "--key", verifier_key)
    assert found.exit_code == 0
    assert "checkpoints: 1, over the first 9 of 9 lines" in found.output
    (tmp_path / "vkey").write_text(verifier_key + "\n")
    assert _run("verify", tmp_path / "log", "--key", tmp_path / "vkey").exit_code == 0
    other = _run("verifier-key", tmp_path / "key.pem", "--origin", "other").output.strip()
    assert _run("verify", tmp_path / "log", "--key", other).exit_code == 1
    # A key of before, or of later, may stand beside it.
    for keys in ((other, verifier_key), (verifier_key, other)):
        options = [option for key in keys for option in ("--key", key)]
        assert _run("verify", tmp_path / "log", *options).exit_code == 0
    assert _run("verify", tmp_path / "log", "--key", "a+b+c").exit_code == 2


def test_kept_checkpoint_and_access_log(tmp_path: Path, verifier_key: str) -> None:
    """A checkpoint kept elsewhere shows a cut log; the access log shows a missing decision."""
    log, kept, access = tmp_path / "log", tmp_path / "kept", tmp_path / "access.log"
    own = log / "audit-00000001.checkpoint"
    kept.write_bytes(own.read_bytes())
    access.write_text(f'{{"decision_id":"{4:032x}"}}\n')
    options = ["--checkpoint", kept, "--access-log", access, "--key", verifier_key]
    assert _run("verify", log, *options).exit_code == 0
    path = log / "audit-00000001.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    own.unlink()
    found = _run("verify", log, *options)
    assert found.exit_code == 1
    assert "its end was cut off" in found.output
    assert "access.log:1: not on record" in found.output


def test_decision_is_proven(tmp_path: Path, verifier_key: str) -> None:
    """A line and its proof are enough; a changed line, or an unknown decision, is not proven."""
    line, proof = tmp_path / "line.json", tmp_path / "line.proof"
    made = _run("prove", tmp_path / "log", f"{3:032x}", "--line", line, "-o", proof)
    assert (made.exit_code, made.output) == (0, "")
    found = _run("check-proof", proof, line, "--key", verifier_key)
    assert found.exit_code == 0
    assert f"that `{_ORIGIN}` signed for" in found.output
    line.write_bytes(line.read_bytes().replace(b'"deny"', b'"allow"'))
    assert _run("check-proof", proof, line, "--key", verifier_key).exit_code == 1
    proof.write_text("no proof")
    assert _run("check-proof", proof, line, "--key", verifier_key).exit_code == 1
    assert _run("prove", tmp_path / "log", "f" * 32, "--line", line, "-o", proof).exit_code == 2


def test_key_is_never_overwritten(tmp_path: Path) -> None:
    """A file that stands where the new key would is left as it is."""
    (tmp_path / "key").write_text("mine")
    assert _run("new-key", tmp_path / "key", "--origin", "o").exit_code == 2
    assert (tmp_path / "key").read_text() == "mine"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_private_key_is_not_shown_to_who_confuses_the_two(
    tmp_path: Path, verifier_key: str, as_text: bool
) -> None:
    """Whoever gives the private key in place of the verifier key is told so, and not what it is."""
    private = (tmp_path / "key.pem").read_text()
    given = private if as_text and private.count("+") > 1 else str(tmp_path / "key.pem")
    for arguments in (
        ("verify", tmp_path / "log"),
        ("check-proof", tmp_path / "key.pem", tmp_path / "key.pem"),
    ):
        found = _run(*arguments, "--key", given)
        assert found.exit_code == 2
        assert "this is a private key" in found.output
        assert private.splitlines()[1][:16] not in found.output


@pytest.mark.parametrize(
    "text", ["", "a b+c+d", "x", "MC4CAQAw+BQYDK2Vw+BCIEIPr9", "n+00000000+AQ=="]
)
def test_what_is_no_verifier_key_is_not_repeated(tmp_path: Path, text: str) -> None:
    """A key of another form ends with exit code 2, and none of it is printed."""
    (tmp_path / "vkey").write_text(text)
    found = _run("verify", tmp_path, "--key", tmp_path / "vkey")
    assert found.exit_code == 2
    assert "not of the form NAME+KEYID+BASE64" in found.output
    assert len(text) < 4 or text not in found.output


def test_a_key_is_never_replaced(tmp_path: Path, verifier_key: str) -> None:
    """Making a key where there is one is refused, and the key stays."""
    before = (tmp_path / "key.pem").read_bytes()
    found = _run("new-key", tmp_path / "key.pem", "--origin", _ORIGIN)
    assert found.exit_code == 2
    assert "is there already" in found.output
    assert before == (tmp_path / "key.pem").read_bytes()
