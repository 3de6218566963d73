"""The pytest plugin: the fixture `policy_engine`.

def test_who_reads(policy_engine):
    engine = policy_engine("policies/")
    assert engine.ask("GET", "/orders", caller="shop/web").allowed
    assert not engine.ask("DELETE", "/orders", caller="shop/web").allowed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from authz.policytest.engine import PolicyEngine


@pytest.fixture
def policy_engine() -> type[PolicyEngine]:
    """What loads policies to be asked: `policy_engine("policies/", rego=["rego/"])`."""
    # WHY here: every run of pytest loads this file, and few ask a policy.
    from authz.policytest.engine import PolicyEngine  # noqa: PLC0415 - see above

    return PolicyEngine
