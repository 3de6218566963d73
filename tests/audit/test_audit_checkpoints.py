"""Signed checkpoints: the forms of C2SP, and that what they cover cannot be changed unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.chain import ChainState, link_line, list_segments, parse_line
from audit.checkpoint import parse_proof, prove_inclusion, read_checkpoint
from audit.checkpoint_files import checkpoint_name, frontier_name
from audit.errors import AuditFolderError, AuditKeyError, CheckpointError
from audit.merkle import Frontier, inclusion_path, leaf_hash, root_of_path, sibling_ranges
from audit.signed_note import NoteVerifier, load_signer, parse_verifier
from audit.verify import VerifyReport, verify_folder

_ORIGIN = "example.org/audit"
_SHARED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_key(path: Path, seed: int = 1) -> Path:
    """Write an Ed25519 key in PEM and return its path."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture
def signing(tmp_path: Path) -> dict[str, object]:
    """The settings of a writer that signs."""
    key = make_key(tmp_path / "audit.pem")
    return {"checkpoint_key_file": key, "checkpoint_origin": _ORIGIN, "max_segment_bytes": 8192}


@pytest.fixture
def verifier(signing) -> NoteVerifier:
    """The public half of that writer's key."""
    return load_signer(signing["checkpoint_key_file"], _ORIGIN).verifier


@pytest.fixture
def signed_log(tmp_path: Path, signing, open_writer, record) -> Path:
    """The folder of a closed, signed log of several segments and 40 decisions."""
    writer = open_writer(**signing)
    for number in range(40):
        writer.offer(record(number))
    writer.close()
    return tmp_path / "log"


def _entries(log: Path) -> list[bytes]:
    return [raw for _, path in list_segments(log) for raw in path.read_bytes().splitlines()]


class TestMerkle:
    """The tree is that of RFC 6962."""

    # The leaves and roots of Certificate Transparency's own test data.
    LEAVES = (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )

    def test_known_roots(self) -> None:
        """The empty tree and the tree of one empty leaf have the published roots."""
        tree = Frontier()
        assert tree.root() == hashlib.sha256(b"").digest()
        tree.add(b"")
        expected = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        assert tree.root().hex() == expected
        for leaf in self.LEAVES[1:]:
            tree.add(bytes.fromhex(leaf))
        expected = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        assert tree.root().hex() == expected

    @given(data=st.data(), size=st.integers(1, 70))
    @settings(max_examples=150, deadline=None)
    def test_paths_lead_to_the_root(self, data: st.DataObject, size: int) -> None:
        """Each leaf's path leads to the root; another leaf, index, size or hash does not."""
        entries = [bytes([number]) for number in range(size)]
        tree = Frontier()
        for entry in entries:
            tree.add(entry)
        index = data.draw(st.integers(0, size - 1))
        path = inclusion_path(entries, index, size)
        leaf = leaf_hash(entries[index])
        assert root_of_path(leaf, index, size, path) == tree.root()
        assert root_of_path(leaf_hash(b"other"), index, size, path) != tree.root()
        other = data.draw(st.integers(0, size))
        if other != index:
            assert root_of_path(leaf, other, size, path) != tree.root()
        assert root_of_path(leaf, index, size, [*path, leaf]) is None
        if path:
            assert root_of_path(leaf, index, size, path[:-1]) is None

    def test_hostile_shapes_are_refused(self) -> None:
        """No leaf outside the tree, no tree with too few or odd peaks, no missing entries."""
        with pytest.raises(ValueError, match="no leaf 3"):
            sibling_ranges(3, 3)
        with pytest.raises(ValueError, match="no 0 peaks"):
            Frontier(3)
        with pytest.raises(ValueError, match="no SHA-256"):
            Frontier(1, [b"short"])
        with pytest.raises(ValueError, match="1 entries where the tree has 2"):
            inclusion_path([b""], 0, 2)


class TestSignedNote:
    """The note is that of C2SP, read by keys of other tools."""

    # The example of the Go package golang.org/x/mod/sumdb/note.
    KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    NOTE = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
        "\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqf"
        "qdngotpRZb6KE6RyyBwJnAM=\n"
    ).encode()

    def test_note_of_another_tool_is_good(self) -> None:
        """A published note opens with its published key, which prints as it was read."""
        verifier = parse_verifier(self.KEY)
        assert verifier.check(self.NOTE).startswith("If you think")
        assert str(verifier) == self.KEY

    @given(data=st.data())
    @settings(max_examples=100, deadline=None)
    def test_no_changed_note_is_good(self, data: st.DataObject) -> None:
        """A note with any byte changed is refused, and never by another error."""
        at = data.draw(st.integers(0, len(self.NOTE) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda value: value != self.NOTE[at]))
        with pytest.raises(CheckpointError):
            parse_verifier(self.KEY).check(self.NOTE[:at] + bytes([byte]) + self.NOTE[at + 1 :])

    def test_signatures_of_others_are_passed_over(self, tmp_path: Path) -> None:
        """A witness's line beside ours does not matter; without ours the note is refused."""
        signer = load_signer(make_key(tmp_path / "a"), "a")
        other = load_signer(make_key(tmp_path / "b", 2), "b")
        note = signer.sign("text\n")
        both = note + other.sign("text\n").split(b"\n\n")[1]
        assert signer.verifier.check(both) == other.verifier.check(both) == "text\n"
        with pytest.raises(CheckpointError, match="no signature of `b`"):
            other.verifier.check(note)

    @pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
    def test_odd_names_are_refused(self, tmp_path: Path, name: str) -> None:
        """A name that a note cannot carry is an error at start."""
        with pytest.raises(AuditKeyError):
            load_signer(make_key(tmp_path / "a"), name)

    @pytest.mark.parametrize("text", ["", "a", "a+b+c", "a+00000000+" + KEY.split("+")[2]])
    def test_odd_keys_are_refused(self, tmp_path: Path, text: str) -> None:
        """A verifier key or a key file that is none is an error, not a key."""
        with pytest.raises(AuditKeyError):
            parse_verifier(text)
        (tmp_path / "a").write_text(text)
        with pytest.raises(AuditKeyError):
            load_signer(tmp_path / "a", "a")


def test_each_sealed_segment_is_signed(signed_log: Path, verifier: NoteVerifier) -> None:
    """Every segment has its checkpoint, the last from the stop; all lines are covered."""
    segments = list_segments(signed_log)
    report = verify_folder(signed_log, verifier=verifier)
    assert (report.problems, report.notes) == ((), ())
    assert report.checkpoints == len(segments)
    assert report.signed_lines == report.lines
    newest = read_checkpoint((signed_log / checkpoint_name(segments[-1][0])).read_bytes(), verifier)
    tree = Frontier()
    for entry in _entries(signed_log):
        tree.add(entry)
    assert (newest.origin, newest.size, newest.root) == (_ORIGIN, tree.size, tree.root())


@pytest.mark.parametrize("lost", ["nothing", "frontiers", "newest", "all"])
def test_tree_goes_on_after_a_restart(
    signed_log: Path, signing, open_writer, record, verifier, lost: str
) -> None:
    """A second writer takes the tree up from a frontier, or from the lines where it is gone.

    What is gone of a segment that stays closed is told.
    """
    newest = list_segments(signed_log)[-1][0]
    for number in range(1, newest + 1):
        if lost in {"frontiers", "all"} or (lost == "newest" and number == newest):
            (signed_log / frontier_name(number)).unlink()
        if lost == "all":
            (signed_log / checkpoint_name(number)).unlink()
    writer = open_writer(**signing)
    for number in range(40, 60):
        writer.offer(record(number))
    writer.close()
    report = verify_folder(signed_log, verifier=verifier)
    missing = [frontier_name(number) for number in range(1, newest)] * (lost == "frontiers")
    assert [found.file for found in report.problems] == missing
    assert report.signed_lines == report.lines


def test_log_of_before_is_signed_from_its_first_line(
    log: Path, signing, open_writer, verifier
) -> None:
    """A key that is configured later vouches for the whole log from then on."""
    open_writer(**signing).close()
    report = verify_folder(log, verifier=verifier)
    assert report.problems == ()
    assert report.signed_lines == report.lines


def test_cut_log_is_not_gone_on_with(signed_log: Path, signing, open_writer) -> None:
    """A log that is shorter than what was signed for is refused at start."""
    path = list_segments(signed_log)[-1][1]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(AuditFolderError, match="do not add up"):
        open_writer(**signing)


def _rewritten(log: Path, change: Callable[[dict], None]) -> None:
    """Write the log anew with a changed document, the whole chain made to fit."""
    state = ChainState()
    for _, path in list_segments(log):
        lines = []
        for raw in path.read_bytes().splitlines(keepends=True):
            document = parse_line(raw).document
            for key in ("seq", "prev", "hash"):
                del document[key]
            change(document)
            line, state = link_line(state, document)
            lines.append(line)
        path.write_bytes(b"".join(lines))


def test_log_written_anew_is_found(signed_log: Path, verifier: NoteVerifier) -> None:
    """A forged chain without a break is found, and located to the lines of its checkpoint."""

    def forge(document: dict) -> None:
        if document.get("decision_id") == f"{20:032x}":
            document["decision"]["effect"] = "allow"

    _rewritten(signed_log, forge)
    (found,) = verify_folder(signed_log, verifier=verifier).problems
    assert "are not those signed for" in found.what
    text = next(p for _, p in list_segments(signed_log) if f"{20:032x}" in p.read_text())
    assert found.file == text.with_suffix(".checkpoint").name


def _remove_line(lines: list[list[bytes]], data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(lines))
    del part[data.draw(st.integers(0, len(part) - 1))]


def _swap_lines(lines: list[list[bytes]], data: st.DataObject) -> None:
    part = data.draw(st.sampled_from([part for part in lines if len(part) > 1]))
    a, b = data.draw(st.lists(st.integers(0, len(part) - 1), min_size=2, max_size=2, unique=True))
    part[a], part[b] = part[b], part[a]


def _repeat_line(lines: list[list[bytes]], data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(lines))
    part.insert(data.draw(st.integers(0, len(part))), data.draw(st.sampled_from(part)))


def _cut_bytes(lines: list[list[bytes]], data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(lines))
    whole = b"".join(part)
    part[:] = [whole[: data.draw(st.integers(0, len(whole) - 1))]]


def _cut_end(lines: list[list[bytes]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(lines[-1])))
    del lines[-1][-count:]


def _change_byte(lines: list[list[bytes]], data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(lines))
    whole = b"".join(part)
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    part[:] = [whole[:at] + bytes([byte]) + whole[at + 1 :]]


def _verify_mutated(
    log: Path, verifier: NoteVerifier, parts: list[list[bytes]], originals: dict[Path, bytes]
) -> VerifyReport:
    try:
        for path, part in zip(originals, parts, strict=True):
            path.write_bytes(b"".join(part))
        return verify_folder(log, verifier=verifier)
    finally:
        for path, raw in originals.items():
            path.write_bytes(raw)


@pytest.mark.parametrize(
    "mutate", [_remove_line, _swap_lines, _repeat_line, _cut_bytes, _cut_end, _change_byte]
)
def test_any_mutation_is_found_and_located(signed_log: Path, verifier, mutate) -> None:
    """Any change, deletion, reordering, repetition or truncation names a file near it."""
    originals = {path: path.read_bytes() for _, path in list_segments(signed_log)}
    names = [path.name.removesuffix(".jsonl") for path in originals]

    @_SHARED
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        parts = [raw.splitlines(keepends=True) for raw in originals.values()]
        mutate(parts, data)
        changed = [
            at
            for at, (part, raw) in enumerate(zip(parts, originals.values(), strict=True))
            if b"".join(part) != raw
        ]
        if not changed:
            return
        report = _verify_mutated(signed_log, verifier, parts, originals)
        assert not report.intact
        # What is cut off a segment's end is missed where the next begins.
        near = {names[at] for at in (changed[0], min(changed[0] + 1, len(names) - 1))}
        assert report.problems[0].file.partition(".")[0] in near

    run()


@_SHARED
@given(data=st.data())
def test_any_missing_file_is_found(signed_log: Path, verifier, data: st.DataObject) -> None:
    """A segment, a checkpoint or a frontier taken away is found."""
    segments = [path for _, path in list_segments(signed_log)]
    signed = [path.with_suffix(end) for path in segments for end in (".checkpoint", ".frontier")]
    path = data.draw(st.sampled_from(segments + signed))
    raw = path.read_bytes()
    path.unlink()
    try:
        report = verify_folder(signed_log, verifier=verifier)
    finally:
        path.write_bytes(raw)
    assert not report.intact


def test_newest_segment_and_checkpoint_taken_away_needs_one_kept(
    signed_log: Path, tmp_path: Path, verifier
) -> None:
    """A checkpoint kept elsewhere shows that the newest segment is gone with its own."""
    newest = list_segments(signed_log)[-1][1]
    kept = tmp_path / "kept.checkpoint"
    kept.write_bytes(newest.with_suffix(".checkpoint").read_bytes())
    newest.unlink()
    newest.with_suffix(".checkpoint").unlink()
    assert not verify_folder(signed_log, verifier=verifier).intact
    newest.with_suffix(".frontier").unlink()
    assert verify_folder(signed_log, verifier=verifier).intact
    (found,) = verify_folder(signed_log, verifier=verifier, kept=[kept]).problems
    assert "its end was cut off" in found.what


def test_other_key_and_no_checkpoint_are_found(signed_log: Path, tmp_path: Path) -> None:
    """With another's key every checkpoint is a problem; with none beside the log, that is one."""
    other = load_signer(make_key(tmp_path / "other", 2), _ORIGIN).verifier
    report = verify_folder(signed_log, verifier=other)
    assert all("bears no signature" in found.what for found in report.problems)
    assert report.problem_count == report.segments
    for path in signed_log.glob("*.checkpoint"):
        path.unlink()
    problems = verify_folder(signed_log, verifier=other).problems
    assert len(problems) == report.segments
    assert all("it is missing beside" in found.what for found in problems)
    for path in signed_log.glob("*.frontier"):
        path.unlink()
    (found,) = verify_folder(signed_log, verifier=other).problems
    assert "no segment has a checkpoint" in found.what


def test_proof_of_inclusion(signed_log: Path, verifier: NoteVerifier) -> None:
    """Each line has a proof that holds on its own, for that line only, as text too."""
    note = (signed_log / checkpoint_name(list_segments(signed_log)[-1][0])).read_bytes()
    entries = _entries(signed_log)
    for seq, entry in enumerate(entries, start=1):
        proof = parse_proof(prove_inclusion(entries, seq, note).to_text())
        assert proof.check(entry, verifier).size == len(entries)
        with pytest.raises(CheckpointError):
            proof.check(entry.replace(b'"seq"', b'"SEQ"'), verifier)
    with pytest.raises(CheckpointError, match="not the one at seq"):
        prove_inclusion(entries, len(entries) + 1, note)
    with pytest.raises(CheckpointError, match="roots differ"):
        prove_inclusion(entries[::-1], 1, note)


@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_noise_is_no_proof(text: str) -> None:
    """Any text in place of a proof is refused, and by no other error."""
    verifier = parse_verifier(TestSignedNote.KEY)
    with pytest.raises(CheckpointError):
        parse_proof(text)
    with pytest.raises(CheckpointError):
        parse_proof("c2sp.org/tlog-proof@v1\nindex 1\n" + text).check(b"", verifier)


def test_frontier_of_another_is_not_believed(
    signed_log: Path, signing, open_writer, verifier
) -> None:
    """A forged frontier does not fit the signed root and is left aside."""
    path = signed_log / frontier_name(list_segments(signed_log)[-1][0])
    document = json.loads(path.read_text())
    document["peaks"][0] = "00" * 32
    path.write_text(json.dumps(document))
    open_writer(**signing).close()
    assert verify_folder(signed_log, verifier=verifier).problems == ()
