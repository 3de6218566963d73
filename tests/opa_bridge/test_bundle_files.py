"""Bundles on disk: folders with links, archives, and the files of signing keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundling import FILES, Signer, packed, write_folder

from opa_bridge.bundle_archive import ArchiveLimits
from opa_bridge.bundle_files import read_bundle_files, read_signing
from opa_bridge.errors import PolicyBundleError


def test_a_folder_and_its_archive_are_the_same(tmp_path: Path) -> None:
    """Whether packed or not, a bundle has the same files; hidden folders are none of it."""
    folder = write_folder(tmp_path / "bundle", {**FILES, ".git/data.json": b"{}"})
    archive = tmp_path / "bundle.tar.gz"
    archive.write_bytes(packed(FILES))

    assert dict(FILES) == read_bundle_files(folder) == read_bundle_files(archive)


def test_a_mounted_volume_is_read_once(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap as links into a folder of its version."""
    write_folder(tmp_path / "..2026_11", {"policy.rego": b"package a\n", ".manifest": b"{}"})
    (tmp_path / "..data").symlink_to("..2026_11")
    for name in ("policy.rego", ".manifest"):
        (tmp_path / name).symlink_to(Path("..data", name))

    assert {"policy.rego": b"package a\n", ".manifest": b"{}"} == read_bundle_files(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A link to a file elsewhere would make that file policy."""
    outside = tmp_path / "outside.rego"
    outside.write_text("package a\n")
    folder = write_folder(tmp_path / "bundle", FILES)
    (folder / "link.rego").symlink_to(outside)

    with pytest.raises(PolicyBundleError, match="links to a file outside"):
        read_bundle_files(folder)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (ArchiveLimits(unpacked_bytes=100), "more than 100 bytes"),
        (ArchiveLimits(entries=2), "more than 2 files"),
    ],
)
def test_a_folder_has_the_limits_of_an_archive(
    tmp_path: Path, limits: ArchiveLimits, why: str
) -> None:
    """Bytes and files are bounded."""
    with pytest.raises(PolicyBundleError, match=why):
        read_bundle_files(write_folder(tmp_path, FILES), limits)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing path and a name that is none are told."""
    with pytest.raises(PolicyBundleError, match="cannot be read: No such file") as refusal:
        read_bundle_files(tmp_path / "missing")
    assert "bundle.file" == refusal.value.code
    (tmp_path / "a\nb.rego").write_text("package a\n")
    with pytest.raises(PolicyBundleError, match="control character"):
        read_bundle_files(tmp_path)


def test_keys_are_read_and_judged(tmp_path: Path) -> None:
    """A key file that is missing, too large or of another kind is told; nothing of it is shown."""
    signer = Signer()
    good, bad, large = tmp_path / "good", tmp_path / "bad", tmp_path / "large"
    good.write_bytes(signer.public)
    bad.write_bytes(b"hunter2")
    large.write_bytes(bytes(70_000))

    assert "s" == read_signing((("k", "ES256", good),), "s").scope
    for path, why in ((bad, "no PEM"), (large, "too large"), (tmp_path / "no", "cannot be read")):
        with pytest.raises(PolicyBundleError, match=why) as refusal:
            read_signing((("k", "ES256", path),), "")
        assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(read_signing((("k", "ES256", good),), ""))
