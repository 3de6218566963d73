"""Completeness: what Envoy's own access log says was decided, and the record does not hold.

Envoy is the second witness. Its access log carries the decision id where the format
names it, in JSON or in text:
    "decision_id": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%"
    decision_id=%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%
A chain shows that no line was taken out after it was written; this shows that a
decision whose answer reached Envoy was written at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.errors import AuditReadError

_MAX_LINE_BYTES: Final = 1024 * 1024  # BUDGET: bytes of an access log's line that are looked at
_MAX_MISSING: Final = 1000  # BUDGET: places kept for the report; all are counted
FIELD: Final = "decision_id"


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A line of an access log that names a decision. `line` counts from 1."""

    file: str
    line: int
    decision_id: str


@dataclass(slots=True)
class AccessLogs:
    """The decisions that access logs name and that were not yet met in the record.

    Every id is held until it is met: about 150 bytes for each line with one.
    """

    field_name: str = FIELD
    lines: int = 0
    without_id: int = 0
    first_without_id: str = ""
    named: int = 0
    _open: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    _met: int = 0

    def load(self, path: Path) -> None:
        """Take up the lines of a log.

        Raises:
            AuditReadError: it cannot be read.
        """
        in_json, in_text = _patterns(self.field_name)
        try:
            for number, raw in enumerate(_lines(path), start=1):
                pattern = in_json if raw.lstrip().startswith(b"{") else in_text
                if raw.strip():
                    self._take(path.name, number, pattern.findall(raw))
        except OSError as exc:
            raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc

    def meet(self, decision_id: str) -> None:
        """Tick off a decision that stands in the record."""
        found = _id_bytes(decision_id)
        if found is not None and self._open.pop(found, None) is not None:
            self._met += 1

    @property
    def is_blind(self) -> bool:
        """Whether there are lines, and none of them names a decision: nothing is compared."""
        return self.lines > 0 and not self.named

    @property
    def missing_count(self) -> int:
        """How many decisions the logs name and the record does not hold."""
        return len(self._open)

    def missing(self) -> Iterator[LoggedDecision]:
        """Yield the first thousand of them, in the order of the logs."""
        for (decision_id, (file, line)), _ in zip(
            self._open.items(), range(_MAX_MISSING), strict=False
        ):
            yield LoggedDecision(file, line, decision_id.hex())

    def notes(self) -> list[str]:
        """Return what a reader should know beside the missing ones."""
        found = [f"access log: {self._met} of {self.named} decisions it names are on record"]
        if self.without_id:
            found.append(
                f"access log: {self.without_id} of {self.lines} lines carry no `{self.field_name}`,"
                f" the first is {self.first_without_id}: whether those requests were decided"
                " cannot be told"
            )
        return found

    def _take(self, file: str, number: int, found: list[bytes]) -> None:
        self.lines += 1
        if not found:
            self.without_id += 1
            self.first_without_id = self.first_without_id or f"{file}:{number}"
        # WHY all of a line: a client may write one into its path, and must not hide ours by it.
        for text in found:
            key = bytes.fromhex(text.decode("ascii"))
            # WHY once: a request that is redirected within Envoy is logged again.
            if key not in self._open:
                self.named += 1
                self._open[key] = (file, number)


def _patterns(field_name: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Return what finds the id in a line of JSON, and in one of text.

    In JSON only a key will do: what a client sent stands in values, its quotes escaped.
    """
    name = re.escape(field_name.encode())
    return (
        re.compile(rb'(?<!\\)"' + name + rb'"\s*:\s*"([0-9a-f]{32})"'),
        re.compile(rb"(?<![\w-])" + name + rb'["\s]*[:=]["\s]*([0-9a-f]{32})(?![0-9A-Za-z])'),
    )


def _id_bytes(decision_id: str) -> bytes | None:
    try:
        return bytes.fromhex(decision_id)
    except ValueError:
        return None


def _lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines, of an overlong one its begin only."""
    with path.open("rb") as file:
        while raw := file.readline(_MAX_LINE_BYTES):
            yield raw
            while not raw.endswith(b"\n") and len(raw) == _MAX_LINE_BYTES:
                raw = file.readline(_MAX_LINE_BYTES)
