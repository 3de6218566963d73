"""The soak's parts: what is asked has the answer that is expected, and a slope is a slope."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from bench.check_contest.open_load import Period, failures
from bench.check_contest.processes import Sample
from bench.soak_run.capacity import NothingSustained, highest_sustained
from bench.soak_run.issuer import Issuer
from bench.soak_run.memory import by_minute, slope
from bench.soak_run.shop import canary_check, checks, in_one_file, write_canary, write_shop
from identity.address_guard import AddressRules
from identity.document_fetch import DocumentFetcher
from identity.jwks_cache import JwksCache
from policies.mesh import Mesh
from policies.snapshot import build_snapshot


class _Nowhere:
    def offer(self, record: object) -> None:
        """Accept a record."""


def _answers(folder: Path, messages: list[bytes]) -> list[bool]:
    """Decide by the policies of the folder, but for CUSTOM ones, with the keys as they are now."""
    texts = [
        (path.name, re.sub(r".*CUSTOM.*\n", "", path.read_text("utf-8")))
        for path in sorted((folder / "policies").iterdir())
    ]
    snapshot = build_snapshot(texts, Mesh())
    keys = JwksCache(fetch=DocumentFetcher(addresses=AddressRules(allow_loopback=True)).fetch)
    keys.prepare(snapshot.jwt_rules)
    authorizer = Authorizer(
        state=lambda: ServingState(snapshot=snapshot, revision="r"),
        around=Surroundings(keys=keys),
        recorder=_Nowhere(),
        metrics=Metrics(),
    )
    answers = [CheckResponse.FromString(authorizer.check(each)) for each in messages]
    keys.close()
    return [answer.status.code == 0 for answer in answers]


def test_each_check_has_the_answer_that_is_expected_of_it(tmp_path: Path) -> None:
    """Whatever is drawn, also when keys changed and tokens of the old ones are still used."""
    dice = random.Random(7)
    with Issuer(dice) as issuer:
        write_shop(tmp_path, issuer)
        for _ in range(3):
            asked = checks(issuer, dice, 60)

            assert [expected for expected, _ in asked] == _answers(tmp_path, [m for _, m in asked])
            assert {True, False} == {expected for expected, _ in asked}
            for _ in range(3):
                issuer.turn()

        assert issuer.rotations > 0


def test_the_canary_is_let_in_at_its_own_path_alone(tmp_path: Path) -> None:
    """An edit moves it on, so that whoever asks sees whether the edit counts."""
    with Issuer(random.Random(7)) as issuer:
        write_shop(tmp_path, issuer)
        write_canary(tmp_path, 3)

        assert [False, True] == _answers(tmp_path, [canary_check(2), canary_check(3)])


def test_a_broken_canary_is_no_policy(tmp_path: Path) -> None:
    """What is written to be refused cannot be read."""
    with Issuer(random.Random(7)) as issuer:
        write_shop(tmp_path, issuer)
    write_canary(tmp_path, 1, is_broken=True)

    with pytest.raises(json.JSONDecodeError):
        json.loads((tmp_path / "policies" / "canary.yaml").read_text("utf-8"))


def test_checks_stand_in_a_file_behind_answer_and_length() -> None:
    """The two loads read them so, one of them without the answer."""
    every = [(True, b"abc"), (False, b"")]

    assert b"\1\0\0\0\3abc\0\0\0\0\0" == in_one_file(every, with_answer=True)
    assert b"\0\0\0\3abc\0\0\0\0" == in_one_file(every, with_answer=False)


@pytest.mark.parametrize("limit", [310, 555, 700, 998])
def test_capacity_is_a_rate_that_was_tried_and_held(limit: float) -> None:
    """It is below what failed, just below what would not, and never only supposed."""
    tried: dict[float, bool] = {}

    def is_sustained(rate: float) -> bool:
        return tried.setdefault(rate, rate <= limit)

    found = highest_sustained(1000, is_sustained, steps=8)
    assert tried[found]
    assert limit * 0.98 < found <= limit


def test_nothing_that_held_is_no_capacity() -> None:
    """Where every step failed nothing is made up."""
    with pytest.raises(NothingSustained, match="not even 3"):
        highest_sustained(1000, lambda _: False)


def test_what_was_found_in_a_good_minute_only_is_no_capacity() -> None:
    """A rate counts that is held for several steps on end, else a tenth less is tried."""
    asked: list[float] = []

    def is_sustained(rate: float) -> bool:
        asked.append(rate)
        # The machine is as fast as that in the first steps, and never again.
        return rate <= (800 if len(asked) <= 5 else 600)

    found = highest_sustained(1000, is_sustained, steps=5, held_steps=3)

    assert 540 < found <= 600
    assert asked[-3:] == [found] * 3


def test_a_rate_that_is_never_held_is_no_capacity() -> None:
    """It ends below what would be worth a soak."""
    steps = iter([True] * 5)
    with pytest.raises(NothingSustained):
        highest_sustained(1000, lambda _: next(steps, False))


def test_a_slope_is_that_of_the_line() -> None:
    """Two megabytes an hour are found again, with no error where there is no noise."""
    found = slope([(60.0 * minute, 100 + minute / 30) for minute in range(30)])

    assert found is not None
    assert pytest.approx(2.0) == found.megabytes_an_hour
    assert pytest.approx(0.0, abs=1e-6) == found.error


def test_two_points_have_no_slope() -> None:
    """Nothing is said where nothing can be known."""
    assert slope([(0.0, 1.0), (1.0, 2.0)]) is None


def test_a_minute_counts_by_its_least() -> None:
    """What a helper takes for a moment is left out, what stays is not."""
    samples = [Sample(100.0 + at, 500, each, 0, 0, 1) for at, each in ((0, 10), (5, 90), (10, 11))]
    samples.append(Sample(170.0, 500, 12, 0, 0, 1))

    assert [(30.0, 10), (90.0, 12)] == by_minute(samples, 100.0)


def test_what_was_not_decided_rightly_is_counted_by_kind() -> None:
    """Failures by gRPC's status, refusals, wrong answers, and what was never sent."""
    waits = {"median_milliseconds": 1, "p99_milliseconds": 2, "longest_milliseconds": 3}
    told = {"period": 0, "sent": 9, "unsent": 1, "decided": 4, "wrong": 1, "refused": 0}
    told |= {"failed": {"Canceled": 2}, "decisions": waits, "others": waits}
    period = Period.read(json.dumps(told | {"longest_late_milliseconds": 0.5}))

    assert {"Canceled": 4, "unsent": 2, "wrong": 2} == failures([period, period])
