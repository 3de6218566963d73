"""The deny list of a companion CA: who is refused before the end of a certificate.

Theory of operation. The CA replaces the file as a whole; one thread looks at it every second, and
`current` returns the newest list that could be read, without any I/O. A file that cannot be read
at the start is an error; one that cannot be read later leaves the last list in force, and says so.
A list only ever takes away: what is on none is judged as without one. The CA's revision only grows,
so that a list of an older one adds what it denies and lifts nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from identity.errors import IdentityError
from identity.jose import unique_pairs

_VERSION: Final = 1
# BUDGET: 100,000 denials take some 15 MB.
_MAX_BYTES: Final = 64 * 1024 * 1024
# What each kind of denial looks like; another text would fit nobody.
_KINDS: Final = {
    "serial": re.compile(r"[0-9a-f]{40,}", re.ASCII),
    "spki_sha256": re.compile(r"[0-9a-f]{64}", re.ASCII),
    "spiffe_id": re.compile(r"spiffe://.+"),
}
_SERIAL_DIGITS: Final = 40


class DenyListError(IdentityError):
    """A deny list cannot be read; the message says why."""

    code = "identity.deny_list"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyList:
    """What is denied until when: `(kind, value)` to the moment, None for without end.

    Kinds: `serial` (40 hex digits), `spki_sha256` (hex) and `spiffe_id`.
    """

    until: Mapping[tuple[str, str], datetime | None] = field(default_factory=dict)
    revision: int = 0

    def denial_of(self, names: Sequence[str], leaf: bytes | None, at: datetime) -> str | None:
        """Return why a peer is denied at `at`, or None; `leaf` is its certificate's DER."""
        if not self.until:
            return None
        asked = [("spiffe_id", name) for name in names]
        if leaf is not None:
            asked += _marks_of(leaf)
        for kind, value in asked:
            if (kind, value) in self.until:
                until = self.until[kind, value]
                if until is None or at <= until:
                    return f"its {kind} `{value}` is on the deny list"
        return None


NOBODY_DENIED: Final = DenyList()
"""The list of a CA that denies nobody, or where none is configured."""


def parse_deny_list(raw: bytes) -> DenyList:
    """Return the list in a document as the CA writes it.

    Raises:
        DenyListError: it is no such document; no part of it is believed then.
    """
    try:
        document = json.loads(raw, object_pairs_hook=unique_pairs)
        if document["version"] != _VERSION:
            raise DenyListError(f"the deny list is not of version {_VERSION}")
        until: dict[tuple[str, str], datetime | None] = {}
        for mark, end in map(_entry, document["denied"]):
            # Of two lines about one of them the one that denies for longer counts.
            until[mark] = _later(until[mark], end) if mark in until else end
        return DenyList(until=until, revision=int(document["revision"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise DenyListError("the deny list cannot be read") from exc


def _entry(entry: Mapping[str, Any]) -> tuple[tuple[str, str], datetime | None]:
    """Return one line of the document."""
    kind, value, until = entry["kind"], entry["value"], entry["until"]
    # WHY an error and not passed over: a denial that is not understood would let somebody in.
    if kind not in _KINDS or _KINDS[kind].fullmatch(value) is None:
        raise DenyListError("the deny list holds a denial that fits nobody")
    return (kind, value), None if until is None else datetime.fromisoformat(until).astimezone(UTC)


def _joined(newest: DenyList, older: DenyList) -> DenyList:
    """Return what either of two lists denies, under the revision of the newest."""
    until = dict(newest.until)
    for mark, end in older.until.items():
        until[mark] = _later(until[mark], end) if mark in until else end
    return DenyList(until=until, revision=newest.revision)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the later of two ends; without one is later than any."""
    return None if one is None or other is None else max(one, other)


@lru_cache(maxsize=1024)
def _marks_of(leaf: bytes) -> tuple[tuple[str, str], ...]:
    """Return by what a certificate itself may be denied."""
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except ValueError:
        # What cannot be read is refused where certificates are judged.
        return ()
    serial = f"{certificate.serial_number:0{_SERIAL_DIGITS}x}"
    return ("serial", serial), ("spki_sha256", hashlib.sha256(spki).hexdigest())


class DenyListWatch:
    """Keeps the newest list of one file; `error` says why the last look failed, empty otherwise."""

    def __init__(
        self,
        path: Path,
        *,
        seconds: float = 1.0,
        tell: Callable[[DenyListWatch], None] = lambda watch: None,
    ) -> None:
        """Read the file; `tell` hears when the list or the error is another than before.

        Raises:
            DenyListError: it cannot be read.
        """
        self.error = ""
        self._path = path
        self._seconds = seconds
        self._tell = tell
        self._raw = self._read()
        self._list = parse_deny_list(self._raw)
        self._went_back = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deny-list", daemon=True)

    def current(self) -> DenyList:
        """Return the newest list that could be read."""
        return self._list

    def start(self) -> None:
        """Begin to look at the file."""
        self._thread.start()

    def stop(self) -> None:
        """Look at it no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Look at the file once; never raises."""
        before = self._list, self.error
        try:
            self._look()
            self.error = self._went_back
        except DenyListError as exc:
            self.error = str(exc)
        # WHY every exception: were this thread to die, no new denial would ever count.
        except Exception as exc:
            self.error = f"the deny list cannot be read: {type(exc).__name__}"
        if before == (self._list, self.error):
            return
        try:
            self._tell(self)
        # WHY every exception: as above; the listener has its own log.
        except Exception as exc:
            self.error = f"the listener failed: {type(exc).__name__}"

    def _look(self) -> None:
        """Take what the file holds, where it is another text than before."""
        raw = self._read()
        if raw == self._raw:
            return
        found, newest, self._went_back = parse_deny_list(raw), self._list, ""
        if found.revision < newest.revision:
            back = f"the deny list went back from revision {newest.revision} to {found.revision}"
            self._went_back = f"{back}: what was denied stays denied"
            found = _joined(newest, found)
        self._list, self._raw = found, raw

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.look()

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except OSError as exc:
            raise DenyListError(
                f"the deny list `{self._path}` cannot be read: {exc.strerror}"
            ) from exc
        if len(raw) > _MAX_BYTES:
            raise DenyListError(f"the deny list is longer than {_MAX_BYTES} bytes")
        return raw


FindDenied = Callable[[], DenyList]
"""Returns the list that counts now."""


def nobody_denied() -> DenyList:
    """Return the list that denies nobody; the one in force where none is configured."""
    return NOBODY_DENIED
