"""Whose word it is which labels a workload has, and that nobody's word is none."""

from __future__ import annotations

import pytest

from authz.serve import static_workload
from authz.settings import WorkloadSettings
from authz.workload import resolve_workload
from policies.request import Request, Workload

_BY_ENVOY = {"app": "orders"}
_ROUTE = {"meshwarden.namespace": "shop"}


@pytest.mark.parametrize(
    ("settings", "sent", "labels", "is_told"),
    [
        ({}, {}, {}, False),
        ({}, _BY_ENVOY, _BY_ENVOY, True),
        ({"namespace": "shop"}, {}, {}, False),
        ({"namespace": "shop"}, _BY_ENVOY, _BY_ENVOY, True),
        ({"labels": {"app": "web"}}, {}, {"app": "web"}, True),
        ({"labels": {"app": "web"}}, _BY_ENVOY, {"app": "web"}, True),
    ],
)
def test_labels_are_told_by_envoy_or_the_configuration(
    settings: dict[str, object], sent: dict[str, str], labels: dict[str, str], is_told: bool
) -> None:
    """Labels count as told where either tells any; without any it is left to Envoy."""
    static = static_workload(WorkloadSettings.model_validate(settings))
    request = Request(context_extensions=_ROUTE, destination_labels=sent)
    found = resolve_workload(request, static)
    assert found is not None
    assert (found.labels, found.has_told_labels) == (labels, is_told)


def test_a_workload_that_is_named_has_the_labels_that_are_named() -> None:
    """A workload that a command or a test names without labels is one that has none."""
    found = resolve_workload(Request(), Workload(namespace="shop"))
    assert found is not None
    assert found.has_told_labels
