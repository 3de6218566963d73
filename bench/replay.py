"""What does deciding a recorded request again cost, beside reading its line with its hash?

The goal of `policy replay` is 100,000 records in a minute; as a ratio: deciding again costs
no more than a few times what reading does, so that the record's size decides.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from audit.chain import ChainState, link_line, parse_line
from audit.document import document_from_record
from audit.redact import Redactor
from authz.record import record_decision
from authz.replay_parts import candidate_set
from authz.walk import Surroundings, walk
from bench.decide import load, requests
from bench.harness import Contestant, Goal, judge, measure, publish
from dryrun.replay import Change, Replayer
from dryrun.replay_report import report_of
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule

_POLICIES = 1000
_RECORDS = 100_000
_SECONDS = 60.0
_RATIO = 5.0


class _NoKeys:
    """No tokens are in these requests."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return nothing."""
        return None


def lines() -> list[bytes]:
    """Return the log of the requests of `bench.decide`, as the server writes it."""
    state, _ = load(_POLICIES)
    around, redactor = Surroundings(keys=_NoKeys()), Redactor()
    chain, found = ChainState(0, "0" * 64), []
    for request in requests(_POLICIES):
        outcome = walk(request, state, around)
        record = record_decision(
            outcome, decision_id="0" * 32, revision="bench", decided_at=1.8e9, duration=0.0
        )
        document = document_from_record(record, node="bench", redactor=redactor)
        line, chain = link_line(chain, document)
        found.append(line)
    return found


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed."""
    log = lines()
    documents: list[dict[str, Any]] = [parse_line(line).document for line in log]
    state, _ = load(_POLICIES)
    replayer = Replayer(candidate_set(state, {}))
    report = report_of(replayer.replay(documents))
    assert report.counts == {Change.SAME: len(documents)}, report.unknown
    reading: Iterator[bytes] = itertools.cycle(log)
    again: Iterator[dict[str, Any]] = itertools.cycle(documents)
    goal = Goal(
        name="replay over reading",
        numerator="replay a record",
        denominator="read a record",
        limit=_RATIO,
        kind="at_most",
    )
    contestants = [
        Contestant("read a record", lambda: parse_line(next(reading))),
        Contestant("replay a record", lambda: report_of(replayer.replay([next(again)]))),
    ]
    code = publish(judge("replay", measure(contestants), [goal]))
    begun = time.perf_counter()
    turn = itertools.islice(itertools.cycle(log), _RECORDS)
    report_of(replayer.replay(parse_line(line).document for line in turn))
    seconds = time.perf_counter() - begun
    Console().print(f"{_RECORDS} records: {seconds:.1f} s, goal {_SECONDS:.0f} s")
    return code if seconds <= _SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
