"""What issuers said of opaque tokens, remembered for a while, within bounds.

Two memories: of tokens that are good, and of all others. Anyone may send texts that are no
tokens, as many as he likes; those drive out one another, and no token that is good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from identity.jose import RegisteredClaims
from identity.token_status import TokenStatus

# BUDGET: an answer is about 1 KiB, so all of them are some tens of MiB.
MAX_ANSWERS: Final = 20_000
# BUDGET: the texts of all of them; what is kept of each is a small multiple.
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024

TokenKey: TypeAlias = tuple[str, bytes]
"""The issuer, and the digest of the whole token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an issuer said of a token: its payload, or in `why` why there is none.

    `length` is that of its text, in bytes.
    """

    payload: Mapping[str, Any] | None = None
    claims: RegisteredClaims | None = None
    status: TokenStatus = TokenStatus.INACTIVE
    why: str = ""
    length: int = 0


class _Remembered(NamedTuple):
    answer: Answer
    until: float


class AnswerMemory:
    """Answers by token, those used longest ago forgotten first; not thread-safe."""

    def __init__(self) -> None:
        """Begin with nothing remembered."""
        self._good: OrderedDict[TokenKey, _Remembered] = OrderedDict()
        self._refused: OrderedDict[TokenKey, _Remembered] = OrderedDict()
        self._good_bytes = 0

    def __len__(self) -> int:
        """Return how many answers are remembered."""
        return len(self._good) + len(self._refused)

    @property
    def size_bytes(self) -> int:
        """The length of the texts of all answers; a refusal has none."""
        return self._good_bytes

    def recall(self, key: TokenKey, at: float) -> Answer | None:
        """Return the answer that may be used at a time (monotonic seconds); None: ask."""
        for memory in (self._good, self._refused):
            found = memory.get(key)
            if found is not None and at < found.until:
                memory.move_to_end(key)
                return found.answer
        return None

    def remember(self, key: TokenKey, answer: Answer, until: float) -> None:
        """Keep an answer in place of any before, and forget as many as the bounds demand."""
        before = self._good.pop(key, None)
        self._good_bytes -= before.answer.length if before is not None else 0
        self._refused.pop(key, None)
        if answer.payload is None:
            self._refused[key] = _Remembered(answer, until)
            if len(self._refused) > MAX_ANSWERS:
                self._refused.popitem(last=False)
            return
        self._good[key] = _Remembered(answer, until)
        self._good_bytes += answer.length
        while len(self._good) > MAX_ANSWERS or self._good_bytes > MAX_ANSWER_BYTES:
            _, forgotten = self._good.popitem(last=False)
            self._good_bytes -= forgotten.answer.length
