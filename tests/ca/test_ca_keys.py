"""Keys on disk: private, whole, and refused where others could have had them."""

from __future__ import annotations

import pytest

from ca.errors import KeyFileError, StateError
from ca.keys import FileKeyStore, generate_key


def test_round_trip_and_modes(tmp_path):
    """A stored key comes back the same from a 0600 file in a 0700 folder."""
    store, key = FileKeyStore(tmp_path / "keys"), generate_key()
    store.store_key("root-1", key)
    assert store.load_key("root-1").private_numbers() == key.private_numbers()
    assert (tmp_path / "keys/root-1.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_absent_and_removed(tmp_path):
    """A key that is not there is None; removing it twice is no error."""
    store = FileKeyStore(tmp_path / "keys")
    store.store_key("a", generate_key())
    store.remove_key("a")
    store.remove_key("a")
    assert store.load_key("a") is None


def test_a_name_is_used_once(tmp_path):
    """A taken name is an error and the first key stays."""
    store, key = FileKeyStore(tmp_path / "keys"), generate_key()
    store.store_key("a", key)
    with pytest.raises(KeyFileError, match="cannot be written"):
        store.store_key("a", generate_key())
    assert store.load_key("a").private_numbers() == key.private_numbers()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_wider_file_refused(tmp_path, mode):
    """A key file that anyone else may touch is refused, with advice."""
    store = FileKeyStore(tmp_path / "keys")
    store.store_key("a", generate_key())
    (tmp_path / "keys/a.pem").chmod(mode)
    with pytest.raises(KeyFileError, match=f"has mode {mode:04o}") as caught:
        store.load_key("a")
    assert "chmod 600" in caught.value.help


def test_wider_folder_refused(tmp_path):
    """A key folder that others may enter is refused."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o750)
    with pytest.raises(StateError, match="has mode 0750"):
        FileKeyStore(tmp_path / "keys")


@pytest.mark.parametrize("name", ["", "../a", "a/b", "A", "a\n", "a.pem", "a" * 81])
def test_hostile_names(tmp_path, name):
    """A name that could leave the folder is refused."""
    with pytest.raises(KeyFileError, match="is not a key name"):
        FileKeyStore(tmp_path / "keys").load_key(name)


@pytest.mark.parametrize("content", [b"", b"secret-words", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_unreadable_key(tmp_path, content):
    """A damaged key file is named, and its content is not quoted."""
    store = FileKeyStore(tmp_path / "keys")
    path = tmp_path / "keys/a.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="does not hold a PEM private key") as caught:
        store.load_key("a")
    assert "secret-words" not in str(caught.value)


def test_link_refused(tmp_path):
    """A symbolic link in a key's place is refused."""
    store = FileKeyStore(tmp_path / "keys")
    store.store_key("a", generate_key())
    (tmp_path / "keys/b.pem").symlink_to("a.pem")
    with pytest.raises(KeyFileError, match="cannot be opened"):
        store.load_key("b")


def test_temporary_files_are_swept(tmp_path):
    """What a killed writer left behind is gone at the next start."""
    FileKeyStore(tmp_path / "keys")
    (tmp_path / "keys/.tmp-1-a.pem").write_bytes(b"half")
    FileKeyStore(tmp_path / "keys")
    assert list((tmp_path / "keys").iterdir()) == []
