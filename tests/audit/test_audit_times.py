"""Times on record are those of `datetime`, to the microsecond, whatever the clock says."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.document import format_time

_EPOCH = "1970-01-01T00:00:00.000000Z"


@given(
    st.floats(-6e10, 2.5e11)
    | st.floats(0, 4e9)
    | st.builds(lambda second, part: second + part / 2e6, st.integers(0, 2**31), st.integers(0, 9))
)
def test_a_time_is_that_of_datetime(seconds: float) -> None:
    """Rounding, ties and times before 1970 come out as `datetime` has them."""
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    assert format_time(seconds) == at.removesuffix("+00:00") + "Z"


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e12, 1e300, -1e12])
def test_what_is_no_time_is_the_epoch(seconds: float) -> None:
    """A clock that is off the scale stops no record."""
    assert format_time(seconds) == _EPOCH
