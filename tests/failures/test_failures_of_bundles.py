"""Bundle services and files of trust that fail: the last good ones go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.failures.serving import configure, policies, refused_start, serving, write
from tests.failures.table import Row, rows
from tests.opa_bridge.bundling import FILES, packed
from tests.opa_bridge.policy_bundle_server import BundleServer, bundle_server

CUSTOM = policies({"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]})
PROVIDERS = [{"name": "rego", "rego": {"bundles": ["b"], "timeoutSeconds": 10}}]


def bundles(service: BundleServer) -> list[dict[str, Any]]:
    """Return the settings of a bundle from a test's service."""
    url = service.url.removesuffix("/bundles/b")
    polling = {"minDelaySeconds": 0.05, "maxDelaySeconds": 0.1}
    return [{"name": "b", "service": {"url": url, "timeoutSeconds": 5}, "polling": polling}]


def check_outage(
    row: Row, folder: Path, break_it: Callable[[BundleServer], None], mend: Callable[..., None]
) -> None:
    """Break the service under way: the last good bundle decides, and the fault is told."""
    with bundle_server(packed(FILES)) as service:
        settings = {"providers": PROVIDERS, "bundles": bundles(service)}
        with serving(folder, {"policies.yaml": CUSTOM}, **settings) as house:
            assert row.answers(house.ask())
            break_it(service)
            row.is_told(house)
            told = house.readyz()[1]["bundles"][0]
            assert "b" == told["name"]
            assert row.answers(house.ask())
            mend(service)
            row.is_over(house)
            assert row.answers(house.ask())


@pytest.mark.failure("bundle-service-outage")
def test_a_service_that_goes_down(tmp_path: Path) -> None:
    """503 and closed connections change nothing but what is told."""
    row = rows()["bundle-service-outage"]
    check_outage(row, tmp_path, lambda it: it.serve(status=503), lambda it: it.serve(status=200))


@pytest.mark.failure("bundle-broken")
@pytest.mark.parametrize(
    "raw",
    [
        b"no archive",
        packed({**FILES, "envoy/allow.rego": b"package envoy.authz\n\nallow if {"}),
        packed({**FILES, ".signatures.json": b'{"signatures": ["a.b.c"]}'}),
    ],
    ids=["no archive", "does not parse", "signature nobody asked for"],
)
def test_a_bundle_that_is_broken(tmp_path: Path, raw: bytes) -> None:
    """What cannot be believed or loaded is not served."""
    row = rows()["bundle-broken"]
    good = packed({**FILES, "settings/data.json": b'{"methods": ["GET", "PUT"]}'})
    check_outage(row, tmp_path, lambda it: it.serve(raw), lambda it: it.serve(good))


@pytest.mark.failure("bundle-service-down-at-start")
def test_a_service_that_is_down_at_the_first_start(tmp_path: Path) -> None:
    """There is no last good bundle, so nothing listens; the reason names the bundle."""
    with bundle_server(packed(FILES), status=503) as service:
        write(tmp_path, {"policies.yaml": CUSTOM})
        configure(tmp_path, providers=PROVIDERS, bundles=bundles(service))

        said = refused_start(tmp_path)

    assert "`b`" in said
    assert "503" in said
