"""Archives of bundles: every dialect of tar is read, and nothing that could mislead."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib

import pytest
from bundling import FILES, packed, tar, tar_of
from hypothesis import example, given
from hypothesis import strategies as st

from opa_bridge.bundle_archive import ArchiveLimits, read_archive
from opa_bridge.bundle_contents import Bundle, read_bundle
from opa_bridge.errors import PolicyBundleError

DIALECTS = {"ustar": tarfile.USTAR_FORMAT, "GNU": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "/".join(["long-folder-name"] * 12) + "/data.json"


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    """An entry without content."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("form", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("prefix", ["", "/", "./"])
def test_every_dialect_of_tar_is_read(form: int, prefix: str) -> None:
    """Whoever packed a bundle, its files have the same names and contents."""
    files = {**FILES, LONG: b"{}", "empty.txt": b"", "block": b"x" * 512}

    assert files == read_archive(tar(files, form=form, prefix=prefix))
    assert files == read_archive(gzip.compress(tar(files, form=form, prefix=prefix)))


@given(
    st.dictionaries(
        st.from_regex(r"[a-zé]{1,40}(/[a-z0-9_.]{1,60}x){0,4}", fullmatch=True),
        st.binary(max_size=2000),
        max_size=6,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_was_packed_is_read(files: dict[str, bytes], form: int) -> None:
    """Names of any length and files of any size come out as they went in."""
    assert files == read_archive(tar(files, form=form))


def test_folders_and_several_gzip_members_are_read() -> None:
    """Entries of folders say nothing, and a gzip stream may have several members."""
    whole = tar(FILES)
    members = gzip.compress(whole[:700]) + gzip.compress(whole[700:])
    folders = tar_of(entry("./", tarfile.DIRTYPE), entry("/envoy/", tarfile.DIRTYPE))

    assert dict(FILES) == read_archive(members)
    assert {} == read_archive(folders)


REFUSED = {
    "nothing": (b"", "cut off"),
    "no archive": (b"hello", "cut off"),
    "a page of HTML": (b"<html>" + b"x" * 600, "damaged or is none"),
    "half a gzip stream": (packed(FILES)[:-20], "cut off"),
    "only the gzip header": (gzip.compress(b"")[:10], "cut off"),
    "a flipped bit in gzip": (packed(FILES)[:40] + b"\xff" + packed(FILES)[41:], "damaged"),
    "something behind gzip": (packed(FILES) + b"more", "damaged"),
    "half a tar": (tar(FILES)[:1800], "cut off"),
    "a tar without an end": (tar(FILES)[:1536], "cut off"),
    "a flipped bit in tar": (b"x" + tar(FILES)[1:], "damaged or is none"),
    "a second tar behind the end": (tar(FILES) + tar(FILES), "behind the end"),
    "a file twice": (tar(FILES)[:1024] + tar(FILES), "two files"),
    "a step up": (tar({"../data.json": b"{}"}, prefix=""), "leads out"),
    "a step up inside": (tar({"a/../../data.json": b"{}"}), "leads out"),
    "an absolute path": (tar({"/etc/data.json": b"{}"}), "leads out"),
    "an empty part": (tar({"a//data.json": b"{}"}), "leads out"),
    "a backslash": (tar({"a\\..\\data.json": b"{}"}), "backslash"),
    "a line break": (tar({"a\nb.rego": b""}), "control character"),
    "a huge name": (tar({"n" * 5000: b""}), "longer than 1024"),
    "many parts": (tar({"a/" * 100 + "data.json": b"{}"}), "more than 64 parts"),
    "a symbolic link": (tar_of(entry("l", tarfile.SYMTYPE, linkname="/etc")), "symbolic link"),
    "a hard link": (tar_of(entry("l", tarfile.LNKTYPE, linkname="x")), "is a link"),
    "a device": (tar_of(entry("d", tarfile.CHRTYPE)), "a device"),
    "a pipe": (tar_of(entry("p", tarfile.FIFOTYPE)), "a pipe"),
    "an unknown kind": (tar_of(entry("k", b"Z")), "not known"),
    "a sparse file": (tar_of(entry("s", pax_headers={"GNU.sparse.major": "1"})), "sparse"),
    "a size of 9 GiB": (tar_of(entry("big", size=9 << 30), form=tarfile.GNU_FORMAT), "8 GiB"),
    "a huge pax header": (tar_of(entry("s", pax_headers={"comment": "x" * 70_000})), "larger than"),
    # Quadratic reading would take a minute here.
    "very many gzip members": (gzip.compress(b"") * 200_000, "cut off"),
    "a pax size that lies": (tar_of(entry("s", pax_headers={"size": "-1"})), "damaged"),
}


@pytest.mark.parametrize(("raw", "why"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_archive_is_refused(raw: bytes, why: str) -> None:
    """What leads out, links, lies or breaks off is refused with a clear error."""
    with pytest.raises(PolicyBundleError, match=why) as refusal:
        read_archive(raw)

    assert refusal.value.code in {"bundle.archive", "bundle.name"}


def test_bombs_are_stopped_before_they_burst() -> None:
    """Size, ratio and number of entries are bounded, and so is what is downloaded."""
    zeros = zlib.compressobj(9, wbits=31)
    bomb = b"".join(zeros.compress(bytes(1 << 20)) for _ in range(64)) + zeros.flush()
    many = tar({f"f{number}": b"" for number in range(30)})

    for raw, limits, why in (
        (bomb, ArchiveLimits(), "200 times its size"),
        (bomb, ArchiveLimits(unpacked_bytes=1 << 21, ratio=10**6), "unpacks to more"),
        (tar(FILES), ArchiveLimits(unpacked_bytes=1000), "unpacks to more"),
        (many, ArchiveLimits(entries=20), "more than 20 entries"),
        (packed(FILES), ArchiveLimits(packed_bytes=100), "larger than 100 bytes"),
    ):
        with pytest.raises(PolicyBundleError, match=why):
            read_archive(raw, limits)


def bundle_or_error(raw: bytes) -> Bundle | PolicyBundleError:
    """The bundle in an archive, or the named error; anything else is a defect."""
    try:
        return read_bundle("fuzz", read_archive(raw), None)
    except PolicyBundleError as exc:
        assert exc.code.startswith("bundle.")
        assert "\n" not in str(exc)
        return exc


@given(st.binary(max_size=3000))
@example(b"\x1f\x8b")
def test_any_bytes_are_a_bundle_or_a_named_error(raw: bytes) -> None:
    """No bytes raise anything but the one error."""
    bundle_or_error(raw)
    bundle_or_error(gzip.compress(raw))


@given(st.data())
def test_a_damaged_bundle_is_a_bundle_or_a_named_error(data: st.DataObject) -> None:
    """Changed, cut and doubled bytes in real archives raise nothing else either."""
    form = data.draw(st.sampled_from(list(DIALECTS.values())))
    raw = bytearray(tar({**FILES, LONG: b"{}", "y/data.yaml": b"a: [1, *x]"}, form=form))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    header = data.draw(st.integers(0, len(raw) // 512 - 1)) * 512
    # A true checksum lets the damage through to what is behind it.
    if data.draw(st.booleans()):
        total = sum(raw[header : header + 148]) + 256 + sum(raw[header + 156 : header + 512])
        raw[header + 148 : header + 156] = b"%06o\0 " % total
    bundle_or_error(bytes(raw))
    bundle_or_error(gzip.compress(bytes(raw)))


@given(
    st.dictionaries(
        st.sampled_from(["data.json", "a/data.yaml", ".manifest", "p.rego", ".signatures.json"]),
        st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode())),
    )
)
def test_any_contents_are_a_bundle_or_a_named_error(files: dict[str, bytes]) -> None:
    """Nor do the files in it, whatever is in them."""
    packed_files = io.BytesIO(tar(files)).getvalue()

    bundle_or_error(packed_files)
