"""The seam behind which Rego is evaluated: any engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine counted since it was loaded; 0 where it has nothing of the kind.

    `workers_replaced` were stopped or died, `remembered_hits` are results that were not
    worked out anew, of the `remembered` ones. `in_process` needed no worker; `handed_over`
    began in process and went to one. `where` the entrypoint is evaluated is `process`,
    `worker` or `opa`; `why` says what keeps it from being the first.
    """

    workers_replaced: int = 0
    remembered_hits: int = 0
    remembered: int = 0
    in_process: int = 0
    handed_over: int = 0
    where: str = "opa"
    why: str = ""


class Engine(Protocol):
    """A loaded policy with one entrypoint, safe to call from many threads."""

    def evaluate(self, document: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Return the entrypoint's value, a JSON value, for an input document.

        Raises:
            EngineTimeout: there was no answer within the time.
            EngineInputError: this input cannot be carried.
            EngineError: undefined, conflicting or unreadable; the caller denies.
        """
        ...

    def stats(self) -> EngineStats:
        """Return what was counted so far."""
        ...
