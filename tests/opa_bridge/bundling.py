"""Bundles made for tests: archives in every dialect of tar, and signatures by throw-away keys."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from opa_bridge.bundle_signature import SIGNATURES, SigningKey, file_digest

ALLOW_REGO = b"""package envoy.authz

default allow := false

allow if input.attributes.request.http.method in data.settings.methods
"""
FILES: Mapping[str, bytes] = {
    ".manifest": b'{"revision": "r1", "roots": ["envoy", "settings"]}',
    "envoy/allow.rego": ALLOW_REGO,
    "settings/data.json": b'{"methods": ["GET"]}',
}


def tar(files: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT, prefix: str = "/") -> bytes:
    """Return a tar of the files, named as `opa build` names them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def tar_of(*entries: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of bare entries, each without content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for entry in entries:
            archive.addfile(entry)
    return packed.getvalue()


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a bundle as it is served: a gzipped tar."""
    return gzip.compress(tar(files), mtime=0)


def changed(files: Mapping[str, bytes], **by_name: bytes) -> dict[str, bytes]:
    """Return the files with a few replaced: `_` in a name stands for `/`, `__` for `.`."""
    renamed = {
        name.replace("__", ".").replace("_", "/"): content for name, content in by_name.items()
    }
    return {**files, **renamed}


def revised(revision: str, *, methods: list[str] | None = None) -> dict[str, bytes]:
    """Return the sample files as another revision, which may allow other methods."""
    manifest = json.dumps({"revision": revision, "roots": ["envoy", "settings"]}).encode()
    files = {**FILES, ".manifest": manifest}
    if methods is not None:
        files["settings/data.json"] = json.dumps({"methods": methods}).encode()
    return files


class Signer:
    """A throw-away key pair, and what it signs."""

    def __init__(self, algorithm: str = "ES256", key_id: str = "") -> None:
        """Make a key of the algorithm's kind."""
        self.algorithm = algorithm
        self.key_id = key_id
        self.private: Any
        if algorithm.startswith("ES"):
            curve = {"256": ec.SECP256R1, "384": ec.SECP384R1, "512": ec.SECP521R1}[algorithm[2:]]
            self.private = ec.generate_private_key(curve())
        elif algorithm.startswith("HS"):
            self.private = b"0123456789abcdef" * 4
        else:
            self.private = rsa.generate_private_key(65537, 2048)

    @property
    def public(self) -> bytes:
        """The PEM that verifies, or the secret."""
        if isinstance(self.private, bytes):
            return self.private
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        pem: bytes = self.private.public_key().public_bytes(serialization.Encoding.PEM, kind)
        return pem

    @property
    def private_pem(self) -> bytes:
        """The PEM that signs, or the secret."""
        if isinstance(self.private, bytes):
            return self.private
        pem: bytes = self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        return pem

    @property
    def key(self) -> SigningKey:
        """The key as the configuration gives it."""
        return SigningKey(algorithm=self.algorithm, key=self.public, key_id=self.key_id)

    def token(self, payload: Mapping[str, Any], **header: Any) -> str:
        """Return a signed payload."""
        headers = {"kid": self.key_id, **header} if self.key_id else header
        return jwt.encode(dict(payload), self.private, self.algorithm, headers=headers)

    def signed(self, files: Mapping[str, bytes], **claims: Any) -> dict[str, bytes]:
        """Return the files with their signature."""
        listed = [
            {
                "name": name,
                "hash": file_digest(name, content, "SHA-256").hex(),
                "algorithm": "SHA-256",
            }
            for name, content in files.items()
        ]
        token = self.token({"files": listed, **claims})
        return {**files, SIGNATURES: json.dumps({"signatures": [token]}).encode()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files below a folder and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
