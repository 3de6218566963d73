"""What is fuzzed: one parser that meets the network, with what must hold of every input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`run` raises when an input breaks a promise; refusing an input is no breach.

    `seeds` are the inputs to begin with. `words` are texts that the fuzzer may put into an
    input. `longest` is in bytes. `share` is the part of a run that goes to this target.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 4096
    share: float = 1.0


_MODULES = {
    "check_request": "on_checks",
    "jwt": "on_tokens",
    "jwt_beside_plain": "on_plain_tokens",
    "jwks": "on_key_sets",
    "xfcc": "on_forwarded_peers",
    "peer_certificate": "on_certificates",
    "peer": "on_peers",
    "spiffe_id": "on_spiffe_ids",
    "trust_bundle": "on_trust_bundles",
    "deny_list": "on_deny_lists",
    "csr": "on_csrs",
    "yaml": "on_policies",
    "rego_result": "on_rego_results",
    "body": "on_bodies",
}
NAMES = tuple(_MODULES)


def load(name: str) -> Target:
    """Return a target by its name; it is imported now, so that the fuzzer can watch it."""
    target: Target = import_module(f"tests.fuzz.{_MODULES[name]}").TARGET
    return target
