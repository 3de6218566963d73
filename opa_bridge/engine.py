"""The seam behind which Rego is evaluated: one method, any engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Engine(Protocol):
    """A loaded policy with one entrypoint, safe to call from many threads."""

    def evaluate(self, document: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Return the entrypoint's value, a JSON value, for an input document.

        Raises:
            EngineError: undefined, conflicting or unreadable; the caller denies.
        """
        ...
