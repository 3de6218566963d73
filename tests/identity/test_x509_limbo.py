"""The public x509-limbo chains, under the path rules that X.509-SVIDs are held to.

The data is not part of this repository: it is read from the folder named by
MESHWARDEN_SHARED, or beside the repository as `../shared`. Without it the chains of
`svid_attacks.yaml` stand alone, and only the rules themselves are tested here.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Store

from identity.certificate_path import MAX_INTERMEDIATES, VerifiedPath, verify_path
from identity.certificate_reading import read_certificate, split_pem
from identity.errors import CertificateError
from identity.spiffe_id import TrustDomain
from identity.svid_fault import SvidFault, SvidRefusal
from identity.trust_bundle import TrustBundle
from identity.x509_svid import leaf_fault, verify_svid

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MESHWARDEN_SHARED", REPOSITORY.parent / "shared"))
DATA = SHARED / "x509-limbo" / "limbo-nobettertls.json"
RULES = yaml.safe_load(Path(__file__).with_name("limbo_rules.yaml").read_text("utf-8"))
# Cases without a time of their own are meant for "now"; this moment lies in all their spans.
DEFAULT_TIME = datetime(2026, 7, 1, tzinfo=UTC)
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the x509-limbo data is not here")
pytestmark = pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning"  # serial numbers below one
)


@cache
def cases() -> Mapping[str, Mapping[str, Any]]:
    """Every case by its id."""
    return {case["id"]: case for case in json.loads(DATA.read_text("utf-8"))["testcases"]}


def rule_for(kind: str, case_id: str) -> Mapping[str, Any] | None:
    """The rule of a kind that names this case, or None."""
    fitting = [
        rule
        for rule in RULES[kind]
        if any(fnmatchcase(case_id, pattern) for pattern in rule["cases"])
    ]
    assert len(fitting) <= 1, f"two rules for {case_id}"
    return fitting[0] if fitting else None


def time_of(case: Mapping[str, Any]) -> datetime:
    """The moment a case is verified at."""
    text = case["validation_time"]
    return datetime.fromisoformat(text).astimezone(UTC) if text else DEFAULT_TIME


def chain_of(case: Mapping[str, Any]) -> list[bytes]:
    """The chain that the peer of a case presents."""
    texts = (case["peer_certificate"], *case["untrusted_intermediates"])
    return [split_pem(text.encode())[0] for text in texts]


def roots_of(case: Mapping[str, Any]) -> list[x509.Certificate]:
    """The authorities that a case trusts."""
    return [x509.load_pem_x509_certificate(text.encode()) for text in case["trusted_certs"]]


def verdict_on(case: Mapping[str, Any]) -> VerifiedPath | SvidRefusal:
    """What becomes of a case: the leaf's rules but for its names, then the path's."""
    is_client = case["validation_kind"] == "CLIENT"
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if is_client else ExtendedKeyUsageOID.SERVER_AUTH
    depth = case["max_chain_depth"]
    try:
        leaf, *others = (read_certificate(der) for der in chain_of(case))
    except CertificateError as exc:
        return SvidRefusal(SvidFault.MALFORMED, str(exc))
    return leaf_fault(leaf, time_of(case), frozenset({usage})) or verify_path(
        leaf,
        others,
        Store(roots_of(case)),
        time_of(case),
        max_intermediates=MAX_INTERMEDIATES if depth is None else depth,
    )


def outcomes() -> Iterator[tuple[str, str]]:
    """Each case with what is to be said of it."""
    for case_id, case in cases().items():
        skipped, differing = rule_for("skip", case_id), rule_for("differs", case_id)
        if skipped:
            yield case_id, f"skipped: {skipped['reason']}"
            continue
        is_good = isinstance(verdict_on(case), VerifiedPath)
        agrees = is_good == (case["expected_result"] == "SUCCESS")
        if differing:
            kind = "laxer" if "laxer" in differing else "stricter"
            as_said = not agrees and is_good == (kind == "laxer")
            yield case_id, f"{kind}: {differing[kind]}" if as_said else "a rule that does not hold"
        else:
            yield case_id, "agreed" if agrees else "disagreed"


@needs_data
def test_limbo(capsys: pytest.CaptureFixture[str]) -> None:
    """Every case is agreed with, or its rule says in one line why it is not."""
    found = dict(outcomes())
    counts = Counter(found.values())
    with capsys.disabled():
        print(f"\nx509-limbo: {len(found)} cases")
        for outcome, count in counts.most_common():
            print(f"{count:5} {outcome}")

    assert [] == [case_id for case_id, outcome in found.items() if outcome == "disagreed"]
    assert [] == [case_id for case_id, what in found.items() if what.startswith("a rule")]
    assert counts["agreed"] > 130


@needs_data
def test_no_case_is_anyones_svid() -> None:
    """None of these chains names a SPIFFE ID, and none of them brings more than a refusal."""
    for case in cases().values():
        bundle = TrustBundle(
            trust_domain=TrustDomain("example.com"), x509_authorities=tuple(roots_of(case))
        )
        assert isinstance(verify_svid(chain_of(case), bundle, time_of(case)), SvidRefusal)


@needs_data
def test_every_rule_fits_a_case() -> None:
    """A rule for a case that is gone is gone too."""
    idle = [
        pattern
        for rule in (*RULES["skip"], *RULES["differs"])
        for pattern in rule["cases"]
        if not any(fnmatchcase(case_id, pattern) for case_id in cases())
    ]

    assert [] == idle


def test_every_rule_says_why() -> None:
    """A skip has a reason; a difference says in which direction and why."""
    assert all(set(rule) == {"cases", "reason"} for rule in RULES["skip"])
    assert all(set(rule) - {"cases"} in ({"stricter"}, {"laxer"}) for rule in RULES["differs"])
