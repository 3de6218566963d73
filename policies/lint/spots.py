"""Where a value stands, as a rule of the linter tells of it."""

from __future__ import annotations

from policies.lint.facts import Written, resource_name
from policies.lint.finding import Spot


def spot_at(written: Written, message: str, help_: str = "") -> Spot:
    """Return the spot of a value of a policy's rule."""
    return Spot(
        message=message,
        location=written.value.location,
        resource=resource_name(written.policy),
        path=written.path,
        help=help_,
    )
