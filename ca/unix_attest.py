"""The Unix attestor: a process that called, as a caller with selectors that entries can name.

Selectors: `unix:uid:N`, `unix:gid:N`, `unix:supplementary_gid:N`, `unix:user:NAME`,
`unix:group:NAME`, `unix:path:/abs/path` and `unix:sha256:HEX` of the binary. User and groups are
what the kernel noted at `connect`; path and digest are of what the process runs now.

What cannot be read gives no selector, so fewer entries fit: doubt never gives an identity.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

from ca.caller import Caller, Method
from ca.errors import AttestationError
from ca.refusal import Refusal
from ca.unix_peer import UnixPeer

# BUDGET: hashing takes a second for each gigabyte; no program of a workload is larger.
DEFAULT_MAX_BINARY_BYTES: Final = 512 * 1024 * 1024
# BUDGET: more programs than run on one machine; a digest takes 200 bytes.
_MAX_DIGESTS: Final = 1024
_Version = tuple[int, int, int, int, int]


class UnixAttestor:
    """Attests peers of a Unix socket. Any thread may call it; it reads files, so it may block."""

    def __init__(self, *, max_binary_bytes: int = DEFAULT_MAX_BINARY_BYTES) -> None:
        """Digest binaries of up to `max_binary_bytes`; larger ones have no `sha256` selector."""
        self._max_binary_bytes = max_binary_bytes
        self._lock = Lock()
        self._digests: OrderedDict[_Version, str] = OrderedDict()

    def __call__(self, evidence: UnixPeer) -> Caller:
        """Return the caller that `evidence` proves.

        Raises:
            AttestationError: the process that connected is no more; another may have its number.
        """
        selectors = set(_user_selectors(evidence))
        found = {"pid": str(evidence.pid), "uid": str(evidence.uid), "gid": str(evidence.gid)}
        if evidence.is_alive():
            found |= self._binary(evidence)
        selectors |= {f"unix:{key}:{found[key]}" for key in ("path", "sha256") if key in found}
        # INVARIANT: the check comes last: what was read is that process's only if it still is.
        if not evidence.is_alive():
            raise AttestationError(
                f"process {evidence.pid} that connected has ended", reason=Refusal.CALLER_UNKNOWN
            )
        return Caller(method=Method.UNIX, selectors=frozenset(selectors), evidence=found)

    def _binary(self, peer: UnixPeer) -> dict[str, str]:
        """Return path and digest of what the process runs, as far as both can be had."""
        try:
            path = os.readlink("exe", dir_fd=peer.proc)
            descriptor = os.open("exe", os.O_RDONLY | os.O_CLOEXEC, dir_fd=peer.proc)
        except OSError:
            return {}
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            found = {"path": path} if _is_at(path, status) else {}
            version = _version(status)
            digest = self._known(version)
            if digest is None and status.st_size <= self._max_binary_bytes:
                digest = _digest(file)
                # A file that changed while it was read has no digest that means anything.
                if _version(os.fstat(descriptor)) != version:
                    return found
                self._remember(version, digest)
        return found if digest is None else found | {"sha256": digest}

    def _known(self, version: _Version) -> str | None:
        """Return the digest of a file that has not changed since."""
        with self._lock:
            if version in self._digests:
                self._digests.move_to_end(version)
            return self._digests.get(version)

    def _remember(self, version: _Version, digest: str) -> None:
        """Keep a digest; the one unused for longest makes room."""
        with self._lock:
            self._digests[version] = digest
            if len(self._digests) > _MAX_DIGESTS:
                self._digests.popitem(last=False)


def _user_selectors(peer: UnixPeer) -> list[str]:
    """Return the selectors of user and groups, by number and, where there is one, by name."""
    selectors = [f"unix:uid:{peer.uid}", f"unix:gid:{peer.gid}"]
    selectors += [f"unix:supplementary_gid:{gid}" for gid in peer.groups]
    with suppress(KeyError):
        selectors.append(f"unix:user:{pwd.getpwuid(peer.uid).pw_name}")
    with suppress(KeyError):
        selectors.append(f"unix:group:{grp.getgrgid(peer.gid).gr_name}")
    return selectors


def _is_at(path: str, status: os.stat_result) -> bool:
    """Return whether the file of `status` stands at `path` for us too.

    WHY: a process may have mounted a program of its own over any path, in a view of the file
    system that only it sees; the kernel then reports that path.
    """
    try:
        here = Path(path).lstat()
    except OSError:
        return False
    return stat.S_ISREG(here.st_mode) and os.path.samestat(here, status)


def _version(status: os.stat_result) -> _Version:
    """Return what changes whenever a file's content does."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _digest(file: object) -> str:
    """Return the SHA-256 of an open binary file, in hex."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
