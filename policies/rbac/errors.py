"""What can go wrong while a policy is translated."""

from __future__ import annotations


class UntranslatableError(Exception):
    """Envoy has no matcher for a value on this kind of filter.

    What that does to the rule is decided in one place, `policies.rbac.rules`.
    """


class UnsupportedModeError(Exception):
    """The data plane of this mode takes no Envoy filters."""
