"""Who takes part in the demo, by SPIFFE ID."""

from __future__ import annotations

from typing import Final

TRUST_DOMAIN: Final = "demo.meshwarden.test"
PLAINTEXT: Final = "plaintext"
SERVER: Final = "orders"
_PLACES: Final = {
    "web": ("shop", "web"),
    "batch": ("jobs", "batch"),
    "intruder": ("elsewhere", "intruder"),
    SERVER: ("shop", "orders"),
}
CLIENTS: Final = tuple(name for name in _PLACES if name != SERVER)
SERVER_NAMESPACE, SERVER_ACCOUNT = _PLACES[SERVER]


def spiffe_id(name: str) -> str:
    """Return the SPIFFE ID of a workload of the demo, in Istio's shape."""
    namespace, account = _PLACES[name]
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}"
