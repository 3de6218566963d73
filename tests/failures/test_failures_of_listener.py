"""The listener's own certificate, broken under way."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.authz.issuing_root import SERVER_NAME, Authority, write_pair
from tests.failures.serving import Tls, policies, serving
from tests.failures.table import rows

_SERVER = "spiffe://cluster.local/ns/mesh/sa/authorizer"
_GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"


@pytest.mark.failure("listener-certificate-broken")
def test_a_certificate_whose_key_is_another_one(tmp_path: Path) -> None:
    """The last good one is shown, the fault is told, and whole files end it."""
    row, authority = rows()["listener-certificate-broken"], Authority()
    write_pair(tmp_path, authority.issue(_SERVER))
    certificate, key = authority.issue(_GATEWAY)
    tls = Tls(
        settings={
            "certificateFile": "server.pem",
            "keyFile": "server.key",
            "clientCaFile": "roots.pem",
            "clientIds": [_GATEWAY],
        },
        credentials=grpc.ssl_channel_credentials(authority.root_pem, key, certificate),
        server_name=SERVER_NAME,
    )
    files = {"policies.yaml": policies({"rules": [{}]}), "roots.pem": authority.root_pem}
    with serving(tmp_path, files, tls=tls) as house:
        assert row.answers(house.ask())
        (tmp_path / "server.key").write_bytes(authority.issue(_SERVER)[1])
        row.is_told(house)
        assert row.answers(house.ask())
        write_pair(tmp_path, authority.issue(_SERVER))
        row.is_over(house)
        assert row.answers(house.ask())
