"""A record that is rendered by sections is, byte for byte, what the long way makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import header_forms, sections
from audit.chain import MAX_LINE_BYTES, encode_json, read_raw_lines
from audit.document import document_from_record
from audit.keyed_hash import KeyedHash
from audit.record import (
    AuditRecord,
    DecisionFacts,
    DestinationFacts,
    FailedOpenFacts,
    PeerFacts,
    RequestFacts,
    ShadowFacts,
    SubjectFacts,
)
from audit.redact import Redactor
from audit.replay_facts import ReplayFacts
from audit.secret_text import MASK
from audit.sections import SectionRenderer
from audit.settings import AuditSettings
from audit.trace import TracedPolicy, TracedRule, TraceFacts
from audit.verify import verify_folder
from audit.writer import AuditWriter

_SECRETS = (
    *("Bearer ABCDEF12345", "token=hunter2", "/x?access_token=abc&b=1", "eyJabcdefgh.eyJ.sig"),
    *("/a;jsessionid=x/b?code=1#id_token=z", "https://u:p@h/", "/?a/token=1", "/x?co/de=1&=2"),
)
_ODD = ("", MASK, "%", "%s", "{}", '"', "\\", "é", "\udcff", "~/", "a" * 300, "\n", "api_key=abc")
_TEXTS = st.sampled_from(_ODD + _SECRETS + ("GET", "x", "shop")) | st.text(max_size=12)
_NAMES = (
    *(":path", ":method", "x-request-id", "traceparent", "x-api-key", "referer", "cookie"),
    *("authorization", "user-agent", "x-caller", "x~/odd", "x-token=abc"),
)
_CARRIERS = (frozenset({"authorization"}), frozenset({"x-caller", "t", "access_token"}))
_REDACTORS = (
    Redactor(),
    Redactor(headers=("x-caller", ":path", "cookie"), claims=("scope", "m", "f")),
    Redactor(secret_headers=("traceparent",), headers=_NAMES, secret_parameters=("page",)),
    Redactor(
        headers=_NAMES,
        hashing=KeyedHash(b"k" * 32, headers=("x-request-id", "cookie"), claims=("sub", "aud")),
    ),
)
_HEADERS = st.dictionaries(
    st.sampled_from(_NAMES), st.lists(_TEXTS, max_size=3).map(tuple), max_size=7
)
_CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "sub", "aud", "scope", "exp", "m", "f", "access_token"]),
    _TEXTS
    | st.sampled_from([1, True, 1.0, 0, False, None, float("nan"), 2**80])
    | st.lists(_TEXTS, max_size=2)
    | st.dictionaries(st.sampled_from(["sub", "secret", "n"]), _TEXTS, max_size=2),
    max_size=5,
)
_LABELS = st.dictionaries(st.sampled_from(["app", "version"]), _TEXTS, max_size=2)
_DECISIONS = st.builds(
    DecisionFacts,
    effect=st.sampled_from(["allow", "deny"]),
    reason=_TEXTS,
    layer=st.sampled_from(["ALLOW", "DENY"]),
    http_status=st.sampled_from([200, 403]),
    policy=st.none() | _TEXTS,
    rule=st.none() | st.integers(0, 2),
    place=_TEXTS,
    detail=_TEXTS,
    near_miss=_TEXTS,
)
_SHADOWS = st.builds(
    ShadowFacts,
    policy=_TEXTS,
    action=_TEXTS,
    matched=st.none() | _TEXTS,
    effect=_TEXTS,
    outcome=_TEXTS,
    detail=_TEXTS,
    would=st.none() | _DECISIONS,
    revision=_TEXTS,
    rules=st.integers(0, 2),
)
_TRACES = st.builds(
    TraceFacts,
    policies=st.just((TracedPolicy("a/b", "DENY", "no_match", (TracedRule(0, "f:1", False),)),)),
    left_out=st.integers(0, 1),
)


@st.composite
def _replays(draw: st.DrawFn, headers: dict[str, tuple[str, ...]]) -> ReplayFacts:
    """Return what a replay needs, with the very headers, fewer, or some that were changed."""
    later = {
        "same": headers,
        "equal": dict(headers),
        "fewer": {name: each for name, each in headers.items() if name != "authorization"},
        "changed": headers | draw(_HEADERS),
        "others": draw(_HEADERS),
    }[draw(st.sampled_from(["same", "equal", "fewer", "changed", "others"]))]
    names = st.lists(_TEXTS, max_size=2).map(tuple)
    return ReplayFacts(
        is_http=draw(st.booleans()),
        scheme=draw(_TEXTS),
        destination_address=draw(st.sampled_from(["", "10.1.2.3"])),
        sni=draw(st.none() | _TEXTS),
        headers_merged=draw(st.booleans()),
        rules_headers=later,
        looked_at_headers=draw(st.frozensets(st.sampled_from(_NAMES), max_size=2)),
        looked_at_claims=draw(
            st.frozensets(st.sampled_from([("m",), ("m", "n"), ("scope",), ("sub",)]), max_size=2)
        ),
        looked_at_metadata=frozenset({("a", "k")}),
        metadata=draw(st.sampled_from([{}, {"a": {"k": "v"}}, {"a": {"k": "v", "l": 1}}])),
        peer_names=draw(names),
        peer_sure=draw(st.none() | names),
        peer_possible=draw(names),
        peer_over_mtls=draw(st.booleans()),
        service=draw(st.sampled_from([None, ("Service", "shop", "orders")])),
        token=draw(st.sampled_from(["none", "verified", "refused"])),
        token_rules=draw(_TEXTS),
        token_rule=draw(_TEXTS),
        asked=draw(st.sampled_from([(), (("opa", "r1"),)])),
        default_provider=draw(_TEXTS),
    )


@st.composite
def _records(draw: st.DrawFn) -> AuditRecord:
    headers = draw(_HEADERS)
    return AuditRecord(
        decision_id=draw(_TEXTS),
        received_at=draw(st.floats(-1, 4e9)),
        decided_at=draw(st.sampled_from([1.9999995, 1e18, float("nan")])),
        revision=draw(_TEXTS),
        request=RequestFacts(
            method=draw(_TEXTS),
            host=draw(_TEXTS),
            path=draw(_TEXTS),
            protocol=draw(_TEXTS),
            id=draw(_TEXTS | st.just("1234567890")),
            size=draw(st.integers(-3, 9)),
            headers=headers,
            token_carriers=draw(st.sampled_from(_CARRIERS)),
        ),
        decision=draw(_DECISIONS),
        peer=draw(
            st.none()
            | st.builds(
                PeerFacts,
                principal=_TEXTS,
                spiffe_id=st.none() | _TEXTS,
                mapping=st.sampled_from(["", "vms"]),
                namespace=_TEXTS,
                labels=_LABELS,
            )
        ),
        subject=draw(
            st.none()
            | st.builds(
                SubjectFacts, issuer=st.none() | _TEXTS, sub=st.none() | _TEXTS, claims=_CLAIMS
            )
        ),
        destination=draw(st.none() | st.builds(DestinationFacts, namespace=_TEXTS, labels=_LABELS)),
        source_address=draw(_TEXTS),
        xfcc=draw(_TEXTS),
        audited_by=draw(st.lists(_TEXTS, max_size=2).map(tuple)),
        shadow=draw(st.lists(_SHADOWS, max_size=2).map(tuple)),
        failed_open=draw(
            st.lists(
                st.builds(FailedOpenFacts, provider=_TEXTS, reason=_TEXTS, error=_TEXTS),
                max_size=1,
            ).map(tuple)
        ),
        replay=draw(st.none() | _replays(headers)),
        trace=draw(st.none() | _TRACES),
        duration_microseconds=draw(st.integers(-5, 10**9)),
        phases=draw(st.dictionaries(st.sampled_from(["decode", "%s", "{}"]), st.integers(0, 9))),
    )


def _long_way(record: AuditRecord, redactor: Redactor, node: str = "n") -> str:
    return encode_json(document_from_record(record, node=node, redactor=redactor))[1:-1]


@st.composite
def _mixed(draw: st.DrawFn) -> list[AuditRecord]:
    """Return records that have parts in common, in other company each time."""
    made = draw(st.lists(_records(), min_size=2, max_size=3))
    return [
        AuditRecord(**{name: getattr(draw(st.sampled_from(made)), name) for name in _FIELDS})
        for _ in range(3)
    ] + made


_FIELDS = tuple(AuditRecord.__dataclass_fields__)


_LITTLE = {
    sections: {"_MOST": 2, "_CONTEXTS": 1},
    header_forms: {"_NAMES": 2, "_VALUES": 1, "_PLANS": 1, "_ROWS": 1, "_LONGEST_ROW": 40},
}
_BOUNDS: dict[str, dict[Any, dict[str, int]]] = {
    "as it is": {},
    "with hardly any memory": _LITTLE,
    "where a second value is new each time": {header_forms: {"_VALUES": 1}},
}


# WHY of a class: one of a module stays for what comes after it.
@pytest.fixture(scope="class", params=_BOUNDS)
def _memory(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module, bounds in _BOUNDS[request.param].items():
            for name, bound in bounds.items():
                patch.setattr(module, name, bound)
        yield


@pytest.mark.usefixtures("_memory")
@settings(max_examples=60, deadline=None)
@given(_mixed(), st.sampled_from(_REDACTORS))
def test_sections_give_what_the_long_way_gives(
    records: list[AuditRecord], redactor: Redactor
) -> None:
    """Whatever came before and whatever stands in a record, the text is the same byte for byte."""
    renderer = SectionRenderer("n", redactor)
    for record in records * 2:
        rendered = renderer.render(record)
        assert rendered is not None
        assert rendered.text == _long_way(record, redactor)


def test_headers_that_are_new_each_time_are_masked_each_time() -> None:
    """After hundreds of harmless values the next one may hold a secret, or signs of a template."""
    redactor = Redactor()
    renderer = SectionRenderer("n", redactor)
    odd = [*_ODD, *_SECRETS, "%(x)s", "100 %"]
    for number in range(300):
        text = f"/a%20b?page={number}" if number < 250 else odd[number % len(odd)]
        headers = {
            "x-request-id": (f"{number:032x}",),
            ":path": (text,),
            "user-agent": (f"a %s agent {number % 3}",),
            "authorization": ("Bearer s3cr3t-of-a-caller",) * (1 + (number % 7 == 0)),
        }
        if number % 5 == 0:
            headers[":path"] = (text, text)
        request = RequestFacts(path=text, headers=headers)
        record = _record(request=request, replay=ReplayFacts(rules_headers={}))
        rendered = renderer.render(record)
        assert rendered is not None
        assert rendered.text == _long_way(record, redactor)
        assert "hunter2" not in rendered.text
        assert "s3cr3t" not in rendered.text
    (forms,) = renderer._headers.values()
    (plan,) = forms._plans.values()
    assert [name for name, _ in plan.new] == [":path", "x-request-id"]
    assert len(plan.rows) == 3


def _record(path: str = "/", **changes: Any) -> AuditRecord:
    facts = {
        "decision_id": "a" * 32,
        "received_at": 1.0,
        "decided_at": 2.0,
        "revision": "r",
        "request": RequestFacts(method="GET", host="h", path=path, headers={":path": (path,)}),
        "decision": DecisionFacts(effect="allow", reason="r", layer="ALLOW", http_status=200),
    }
    return AuditRecord(**facts | changes)


def test_every_field_of_a_record_is_told() -> None:
    """What differs in one field alone, of any part, is another text: nothing is taken for known."""
    facts = {
        PeerFacts: ("peer", {"principal": "p"}),
        SubjectFacts: ("subject", {}),
        DestinationFacts: ("destination", {"namespace": "n"}),
        ReplayFacts: ("replay", {}),
        DecisionFacts: (
            "decision",
            {"effect": "allow", "reason": "r", "layer": "l", "http_status": 200},
        ),
    }
    others: dict[str, Any] = {
        "claims": {"aud": "x", "zzz": 1},
        "labels": {"a": "b"},
        "headers_merged": True,
        "peer_over_mtls": False,
        "is_http": False,
        "rules_headers": {"a": ("b",)},
        "looked_at_headers": frozenset({"x"}),
        "looked_at_claims": frozenset({("x",)}),
        "looked_at_metadata": frozenset({("x", "y")}),
        "metadata": {"x": {"y": "z"}},
        "service": ("Service", "a", "b"),
        "asked": (("a", "b"),),
        "http_status": 403,
        "port": 5,
        "rule": 7,
        "effect": "deny",
    }
    renderer, redactor = SectionRenderer("n", Redactor()), Redactor()
    for kind, (name, least) in facts.items():
        for field in kind.__dataclass_fields__:
            for value in (least.get(field), others.get(field, ("other",))):
                given = least if value is None else least | {field: _fitting(field, value)}
                record = _record(**{name: kind(**given)})
                rendered = renderer.render(record)
                assert rendered is not None, field
                assert rendered.text == _long_way(record, redactor), field


def _fitting(field: str, value: Any) -> Any:
    """Return another value of a field: a tuple of texts where it has such, else a text."""
    is_many = field in ("peer_names", "peer_sure", "peer_possible")
    return value[0] if value == ("other",) and not is_many else value


def test_claims_that_are_gone_are_not_taken_for_later_ones() -> None:
    """Claims are known by their identity, which nobody else has as long as they are known."""
    renderer, redactor = SectionRenderer("n", Redactor()), Redactor()
    for number in range(2000):
        claims = {"aud": f"a{number}", "sub": "s"}
        record = _record(subject=SubjectFacts(issuer="i", sub="s", claims=claims))
        rendered = renderer.render(record)
        assert rendered is not None
        assert f'"a{number}"' in rendered.text
        assert rendered.text == _long_way(record, redactor)


def test_who_sends_the_mask_hides_no_other_value() -> None:
    """A secret header is masked, whether one with the mask itself came before it or not."""
    redactor = Redactor()
    for values in ((("tok3n-value",), (MASK,)), ((MASK,), ("tok3n-value",))):
        renderer = SectionRenderer("n", redactor)
        for each in values:
            request = RequestFacts(headers={"authorization": each})
            record = _record(request=request, replay=ReplayFacts(rules_headers={}))
            rendered = renderer.render(record)
            assert rendered is not None
            assert rendered.text == _long_way(record, redactor)
            assert "tok3n" not in rendered.text


def test_no_secret_is_kept() -> None:
    """Values that are never written are not held in memory either."""
    renderer = SectionRenderer("n", Redactor())
    headers = {"authorization": ("Bearer s3cr3t-of-a-caller",), "x-unshown": ("s3cr3t-too",)}
    for _ in range(2):
        renderer.render(_record(request=RequestFacts(headers=headers)))
    (forms,) = renderer._headers.values()
    kept: list[Any] = [key for name in forms._names.values() for key in name.forms]
    kept += [row for plan in forms._plans.values() for row in plan.rows.items()]
    assert len(kept) == 3
    assert "s3cr3t" not in repr(kept)


def test_what_is_kept_is_bounded() -> None:
    """However many callers, headers and values come, what is remembered stays small."""
    renderer = SectionRenderer("n", Redactor())
    for number in range(3000):
        headers = {f"x-{number}": ("v",), "user-agent": (f"agent {number}",)}
        decision = DecisionFacts(
            effect="deny", reason="r", layer="ALLOW", http_status=403, near_miss=f"path {number}"
        )
        peer = PeerFacts(principal=f"p{number}")
        claims = {"sub": f"{number}", "aud": "x" * 5000}
        renderer.render(
            _record(
                request=RequestFacts(headers=headers),
                decision=decision,
                peer=peer,
                destination=DestinationFacts(namespace=f"n{number}"),
                subject=SubjectFacts(sub=f"{number}", claims=claims),
                phases={f"phase {number}": 1},
                replay=ReplayFacts(scheme=f"s{number}", rules_headers={}),
            )
        )
    for kept in (renderer._peers, renderer._decisions, renderer._standing, renderer._templates):
        assert 0 < len(kept) <= 512
    assert not renderer._subjects  # of long claims
    (forms,) = renderer._headers.values()
    assert len(forms._names) <= 64
    assert len(forms._gone) <= 64
    assert 0 < len(forms._plans) <= 16
    assert all(len(each.forms) <= 64 for each in forms._names.values())


_NO_TEXT: Any = []
_SEVEN: Any = 7


@pytest.mark.parametrize(
    "odd",
    [
        {"phases": {"decode": 1.5}},
        {"destination": DestinationFacts(namespace="n", labels={"a": _NO_TEXT})},
        {"revision": 7},
        {"request": RequestFacts(path="/" + "x" * 70_000)},
        {"request": RequestFacts(headers={"accept": (_SEVEN,)})},
        {"request": RequestFacts(headers={"accept": (_NO_TEXT,)})},
    ],
)
def test_what_does_not_fit_goes_the_long_way(odd: dict[str, Any]) -> None:
    """A value that is none of its type, or a long text, is left to the long way."""
    assert SectionRenderer("n", Redactor()).render(_record(**odd)) is None


def test_the_writer_writes_by_sections_what_verifies(tmp_path: Path) -> None:
    """Lines by sections and by the long way stand in one chain, which holds."""
    writer = AuditWriter(AuditSettings(folder=tmp_path), node="n")
    for path in ("/a", "/" + "x" * 70_000, "/b?token=s3cr3t"):
        writer.offer(_record(path))
    huge = RequestFacts(headers={"accept": ("x" * MAX_LINE_BYTES,)})
    writer.offer(_record(request=huge))
    writer.close()
    assert verify_folder(tmp_path).intact
    (segment,) = tmp_path.glob("audit-*.jsonl")
    lines = [json.loads(raw) for raw in read_raw_lines(segment)]
    paths = [line["request"]["path"] for line in lines if line["kind"] == "decision"]
    assert paths == ["/a", "/" + "x" * 70_000, "/b?token=***"]
    assert [line["event"] for line in lines if line["kind"] == "event"] == [
        *("start", "record_fault", "stop")
    ]
