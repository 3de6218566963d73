"""The contest of `bench.check`: what is asked is what both sides are made for, and what is told."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from bench.check_contest.load import Load
from bench.check_contest.report import Row, write_plot, write_table
from bench.check_contest.workload import Workload
from identity.jwks_cache import JwksCache
from policies.mesh import Mesh
from policies.snapshot import build_snapshot


class _Nowhere:
    def offer(self, record: object) -> None:
        """Accept a record."""


def _no_network(url: str, timeout_seconds: float) -> bytes:
    raise OSError(url)


@pytest.mark.parametrize(
    "work",
    [
        Workload(policies=10),
        Workload(policies=30, workloads=7),
        Workload(policies=20, with_token=False),
        Workload(policies=20, shadow=True),
    ],
    ids=["few", "workloads", "peer only", "shadow"],
)
def test_one_message_is_let_in_and_one_is_not(work: Workload) -> None:
    """Whatever the workload, its policies allow the message that is asked about, and no other."""
    snapshot = build_snapshot([("p.yaml", "---\n".join(work.istio()))], Mesh())
    state = ServingState(snapshot=snapshot, revision="r")
    keys = JwksCache(fetch=_no_network)
    keys.prepare(snapshot.jwt_rules)
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(keys=keys),
        recorder=_Nowhere(),
        metrics=Metrics(),
    )

    codes = [
        CheckResponse.FromString(authorizer.check(work.message(is_allowed=each))).status.code
        for each in (True, False)
    ]

    keys.close()
    assert [0, 7] == codes


def test_callers_by_header_have_no_peer_to_show() -> None:
    """The policies for clients without certificates name callers by a header alone."""
    texts = Workload(policies=10, with_token=False, by_header=True).istio()

    assert not [text for text in texts if "principals" in text]
    assert [text for text in texts if "request.headers[x-caller]" in text]


def _row(name: str, *rates: float) -> Row:
    loads = tuple(Load(rate=rate, median=0.001, p99=0.002, failed=7, cpu=1e-4) for rate in rates)
    limits = tuple(Load(rate=1000, median=0.001, p99=0.002, failed=0) for _ in rates)
    return Row("some <contest>", name, loads, limits)


def test_a_share_is_of_its_own_rounds(tmp_path: Path) -> None:
    """The share of the limit is the median over rounds, and both forms tell it."""
    rows = [_row("ours", 500, 800, 900), _row("the limit", 1000, 1000, 1000)]

    table = write_table(rows, tmp_path / "t.md")
    write_plot(rows, tmp_path / "t.svg")

    assert 0.8 == rows[0].share
    assert "| some <contest> | ours | 800 | 400 | 0.80 | 100 | 1.00 | 2.00 | 21 |" in table
    drawn = "".join(ET.parse(tmp_path / "t.svg").getroot().itertext())
    assert "some <contest>: ours" in drawn
    assert "0.80" in drawn
