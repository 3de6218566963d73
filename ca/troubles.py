"""What is wrong at this moment, as values that `status` shows and the metrics count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that is not as it should be; `code` is for programs, `message` for people.

    `is_failing` says that certificates are not issued or served as long as it lasts.
    """

    code: str
    subject: str
    message: str
    is_failing: bool = False


Probe: TypeAlias = Callable[[], Iterable[Trouble]]
"""Returns what is wrong in one part of the CA now; it must not block."""
