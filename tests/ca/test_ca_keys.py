"""Keys on disk: private, whole, and refused where others could have had them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ca.errors import KeyFileError, StateError
from ca.key_kinds import KeyKind
from ca.keys import FileKeyStore, generate_key, load_passphrase


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


PASSPHRASE = b"x" * 32


def test_encrypted_on_disk(tmp_path):
    """With a passphrase no key lies on disk in the clear, and only the passphrase opens it."""
    store, key = FileKeyStore(tmp_path / "keys", PASSPHRASE), generate_key()
    store.store_key("a", key)
    pem = (tmp_path / "keys/a.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert store.load_key("a").private_numbers() == key.private_numbers()
    with pytest.raises(KeyFileError, match="no passphrase is configured"):
        FileKeyStore(tmp_path / "keys").load_key("a")
    with pytest.raises(KeyFileError, match="cannot be decrypted"):
        FileKeyStore(tmp_path / "keys", b"y" * 32).load_key("a")


def test_plain_keys_are_encrypted_when_read(tmp_path):
    """A passphrase that comes later takes the plain keys in as they are read."""
    key = generate_key()
    FileKeyStore(tmp_path / "keys").store_key("a", key)
    store = FileKeyStore(tmp_path / "keys", PASSPHRASE)
    assert store.load_key("a").private_numbers() == key.private_numbers()
    assert b"ENCRYPTED" in (tmp_path / "keys/a.pem").read_bytes()
    assert (tmp_path / "keys/a.pem").stat().st_mode & 0o777 == 0o600
    assert store.load_key("a").private_numbers() == key.private_numbers()


@pytest.mark.parametrize("kind", list(KeyKind))
def test_each_kind_of_key(tmp_path, kind):
    """Every kind of key that may be configured comes back the same."""
    store, key = FileKeyStore(tmp_path / "keys", PASSPHRASE), generate_key(kind)
    store.store_key("a", key)
    assert store.load_key("a").public_key() == key.public_key()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "refused by Envoy and gRPC peers"),
        (ec.generate_private_key(ec.SECP521R1()), "on the curve `secp521r1`"),
        (rsa.generate_private_key(65_537, 1024), "the RSA key has 1024 bits"),
    ],
    ids=["ed25519", "p-521", "rsa-1024"],
)
def test_keys_that_do_not_sign_here(tmp_path, key, words):
    """A key file of another kind is named with the reason."""
    store = FileKeyStore(tmp_path / "keys")
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "keys/a.pem").write_bytes(pem)
    (tmp_path / "keys/a.pem").chmod(0o600)
    with pytest.raises(KeyFileError, match=words):
        store.load_key("a")


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (None, 0o600, "is missing"),
        (b"short\n", 0o600, "has 5 bytes, expected 22 or more"),
        (b"z" * 44 + b"\n", 0o640, "has mode 0640"),
    ],
)
def test_passphrase_files_refused(tmp_path, content, mode, words):
    """A passphrase that is missing, guessable or open to others is refused, unquoted."""
    if content is not None:
        (tmp_path / "p").write_bytes(content)
        (tmp_path / "p").chmod(mode)
    with pytest.raises(KeyFileError, match=words) as caught:
        load_passphrase(tmp_path / "p")
    assert "short" not in str(caught.value)
    assert caught.value.help


def test_passphrase_without_its_newline(tmp_path):
    """The newline that editors put at the end is no part of the passphrase."""
    (tmp_path / "p").write_bytes(PASSPHRASE + b"\r\n")
    (tmp_path / "p").chmod(0o600)
    assert load_passphrase(tmp_path / "p") == PASSPHRASE


def test_keys_that_no_authority_names(keeper_of, tmp_path):
    """A start forgets keys of ours that nobody names, and leaves alone what is not ours."""
    folder = tmp_path / "s"
    with keeper_of(folder) as keeper:
        named = {path.name for path in (folder / "keys").iterdir()}
        keeper.prepare()
        keeper.activate()
        store = FileKeyStore(folder / "keys")
        for name in (f"root-{1:040x}", f"jwt-1-{7:040x}", f"plugged-{7:040x}", "root-backup"):
            store.store_key(name, generate_key())
    with keeper_of(folder) as keeper:
        kept = {path.name for path in (folder / "keys").iterdir()}
        assert "root-backup.pem" in kept
        assert named < kept
        names = {name for slot in keeper.slots for name in slot.key_names}
        assert {path.removesuffix(".pem") for path in kept} - names == {"root-backup"}
