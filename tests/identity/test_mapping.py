"""Names of other meshes as namespaces and service accounts, no two of them alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import MappingError
from identity.mapping import IdentityMapping, MappingSet, RuleTexts, make_mapping
from identity.mapping_presets import Preset, preset_rules, unknown_fixed
from identity.name_template import can_meet, parse_template
from identity.spiffe_id import TrustDomain


def mapping(pattern: str, *domains: str, **fields: Any) -> IdentityMapping:
    """Return a mapping of one rule; namespace and account are variables of their names."""
    texts = {"namespace": "{namespace}", "service_account": "{serviceAccount}", **fields}
    rule = RuleTexts(pattern=pattern, **texts)
    return make_mapping("m", [TrustDomain(each) for each in domains or ("td",)], [rule])


def preset(name: str, *domains: str, **fields: Any) -> IdentityMapping:
    """Return a shipped mapping."""
    rules = preset_rules(Preset(name), **fields)
    return make_mapping(name, [TrustDomain(each) for each in domains or ("td",)], rules)


def read(maps: Sequence[IdentityMapping], *names: str) -> tuple[Any, ...]:
    """Return namespace, account and labels that the names get, and their sure form."""
    reading = MappingSet(tuple(maps)).read(names)
    if reading is None:
        return ("untouched",)
    found = reading.workload
    if found is None:
        return ("none", reading.sure, reading.possible)
    return (found.namespace, found.service_account, dict(found.labels), reading.sure)


@pytest.mark.parametrize(
    ("shipped", "name", "wanted"),
    [
        ("consul", "spiffe://td/ns/default/dc/dc1/svc/web", ("default", "web.dc1")),
        ("consul", "spiffe://td/ap/blue/ns/default/dc/dc1/svc/web", ("default.blue", "web.dc1")),
        ("consul", "spiffe://td/ns/default/dc/dc1/svc/web.dc2", None),
        ("consul", "spiffe://td/ns/default.blue/dc/dc1/svc/web", None),
        ("consul", "spiffe://td/agent/client/dc/dc1/id/x", None),
        ("consul", "spiffe://td/gateway/mesh/dc/dc1", None),
        ("linkerd", "web.shop.serviceaccount.identity.linkerd.td", ("shop", "web")),
        ("linkerd", "we.b.shop.serviceaccount.identity.linkerd.td", "untouched"),
        ("linkerd", "web.shop.serviceaccount.identity.other.td", "untouched"),
        ("linkerd", "web.shop.serviceaccount.identity.linkerd.td.evil", "untouched"),
        ("linkerd", "Web.shop.serviceaccount.identity.linkerd.td", "untouched"),
        ("linkerd", "web.shop.serviceaccount.identity.linkerd.tdx", "untouched"),
        ("linkerd", "webx shop.serviceaccount.identity.linkerd.td", "untouched"),
        ("osm", "web.shop.td", ("shop", "web")),
        ("osm", "CN=web.shop.td", ("shop", "web")),
        ("osm", "O=Open Service Mesh,CN=web.shop.td", ("shop", "web")),
        ("osm", "CN=web.shop.td,CN=evil.shop.td", "untouched"),
        ("osm", "O=a\\,CN=web.shop.td", "untouched"),
        ("osm", "CN=x+CN=web.shop.td", "untouched"),
        ("osm", "OCN=web.shop.td", "untouched"),
        ("osm", "web.shop.td.", "untouched"),
        ("osm", "web.shop.td\n", "untouched"),
        ("osm", "spiffe://td/ns/shop/sa/web", None),
        ("kubernetes", "spiffe://td/ns/shop/sa/web", ("shop", "web")),
        ("kubernetes", "spiffe://td/ns/shop/sa/web/x", None),
        ("kubernetes", "spiffe://td/ns/shop/sa/", None),
        ("kubernetes", "spiffe://td/ns/sh%6fp/sa/web", None),
        ("kubernetes", "spiffe://TD/ns/shop/sa/web", None),
        ("kubernetes", "SPIFFE://td/ns/shop/sa/web", None),
        ("kubernetes", "spiffe://td:80/ns/shop/sa/web", None),
        ("kubernetes", "spiffe://x@td/ns/shop/sa/web", None),
        ("kubernetes", "spiffe://%74d/ns/shop/sa/web", None),
        ("kubernetes", "spiffe:///ns/shop/sa/web", None),
        ("kubernetes", "spiffe://td/ns/shop/sa/web\0", None),
        ("kubernetes", "spiffe://td2/ns/shop/sa/web", "untouched"),
        ("kubernetes", "spiffe://tdx/ns/shop/sa/web", "untouched"),
        ("kubernetes", "https://td/ns/shop/sa/web", "untouched"),
    ],
)
def test_shipped(shipped: str, name: str, wanted: Any) -> None:
    """Each mesh's form is read, what is nearly of that form is not."""
    found = read([preset(shipped)], name)
    if wanted is None:
        assert ("none", (), (name,)) == found
    elif wanted == "untouched":
        assert ("untouched",) == found
    else:
        namespace, account = wanted
        assert wanted == found[:2]
        assert (f"spiffe://td/ns/{namespace}/sa/{account}",) == found[3]


def test_labels() -> None:
    """What a mapping leaves over goes into labels."""
    found = read([preset("consul")], "spiffe://td/ap/p/ns/n/dc/d/svc/s")

    assert {"partition": "p", "datacenter": "d", "service": "s"} == found[2]


def test_a_fixed_value() -> None:
    """A variable with one value need not show in a name, and others of it are not read."""
    maps = [preset("consul", service_account="{service}", fixed={"datacenter": "dc1"})]

    assert ("n", "web") == read(maps, "spiffe://td/ns/n/dc/dc1/svc/web")[:2]
    assert "none" == read(maps, "spiffe://td/ns/n/dc/dc2/svc/web")[0]
    assert ("nosuch",) == unknown_fixed(Preset.CONSUL, {"nosuch": "x", "partition": "y"})


def test_by_template() -> None:
    """A template of one's own reads paths of its trust domains."""
    maps = [
        mapping("/team/{namespace}/app/{serviceAccount}", "a", "b"),
        mapping("/{x:label}/v-{y}", "c", namespace="n-{x}", service_account="{y}"),
    ]

    assert ("shop", "web.v1") == read(maps, "spiffe://a/team/shop/app/web.v1")[:2]
    assert ("shop", "web") == read(maps, "spiffe://b/team/shop/app/web")[:2]
    assert ("n-q", "w-v-") == read(maps, "spiffe://c/q/v-w-v-")[:2]
    assert "none" == read(maps, "spiffe://c/team/shop/app/web")[0]
    assert ("untouched",) == read(maps, "spiffe://d/team/shop/app/web")


def test_several_names() -> None:
    """Each name is read by itself; one that no mapping fits lets nobody in, and keeps out."""
    maps = [mapping("/team/{namespace}/app/{serviceAccount}")]
    names = (
        "spiffe://td/ns/a/sa/b",
        "spiffe://td/team/shop/app/web",
        "a.b",
        "spiffe://x/ns/c/sa/d",
    )
    reading = MappingSet(tuple(maps)).read(names)

    assert reading is not None
    mapped = "spiffe://td/ns/shop/sa/web"
    assert (mapped, *names[2:]) == reading.sure
    assert (names[0], mapped, *names[2:]) == reading.possible
    assert reading.workload is not None
    assert "shop" == reading.workload.namespace


def test_a_common_name_beside_better_names() -> None:
    """A certificate with SANs is not known by its common name."""
    assert ("untouched",) == read([preset("osm")], "other.example", "CN=web.shop.td")


def test_without_mappings() -> None:
    """Without configuration nothing is read other than Istio reads it."""
    assert MappingSet().read(("spiffe://td/ns/a/sa/b", "x", "")) is None


@pytest.mark.parametrize(
    ("pattern", "fields", "why"),
    [
        ("/team/{namespace}/app/{x}", {"service_account": "a"}, "drops `{x}`"),
        ("/{namespace}/{a}/{serviceAccount}", {"labels": {"l": "{a}"}}, "drops `{a}`"),
        ("/{namespace}/{namespace}", {"service_account": "a"}, "`{namespace}` twice"),
        ("/{a}{b}", {"namespace": "{a}", "service_account": "{b}"}, "where `{a}` ends"),
        ("/{a}-{b}", {"namespace": "{a}", "service_account": "{b}"}, "where `{a}` ends"),
        ("/{a}/{b}", {"namespace": "{a}.{b}", "service_account": "x"}, "where `{a}` ends"),
        ("/{a}/{b}", {"namespace": "{a}{b}", "service_account": "x"}, "where `{a}` ends"),
        ("/{a:label}/{b}", {"namespace": "{b}.{a}", "service_account": "x"}, "where `{b}` ends"),
        ("/{a}/{b}", {"namespace": "{a}", "service_account": "{c}"}, "holds `{c}`"),
        ("/{a}/{b}", {"namespace": "{a}/{b}", "service_account": "x"}, "holds only letters"),
        ("/{a}", {"namespace": "{a}", "service_account": ""}, "is empty"),
        ("{namespace}/{serviceAccount}", {}, "is no path"),
        ("/{namespace}/{serviceAccount", {}, "begins or ends no variable"),
        ("/{namespace}/{service account}", {}, "begins or ends no variable"),
        ("/{namespace}/{serviceAccount}", {"fixed": {"x": "y"}}, "has no `{x}`"),
        ("/{namespace}/{serviceAccount}", {"fixed": {"namespace": "a/b"}}, "cannot be the value"),
        ("/{namespace}/{serviceAccount}", {"fixed": {"namespace": ""}}, "cannot be the value"),
    ],
)
def test_refused(pattern: str, fields: dict[str, Any], why: str) -> None:
    """A mapping that could give two names the same words is refused, and says by what."""
    with pytest.raises(MappingError) as caught:
        mapping(pattern, **fields)

    assert why in str(caught.value)


def test_a_dns_pattern_for_two_trust_domains() -> None:
    """A DNS name belongs to one trust domain, so the pattern must tell which."""
    with pytest.raises(MappingError, match="does not tell the trust domains apart"):
        mapping("{serviceAccount}.{namespace}.x", "a", "b", is_dns=True)


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        (preset("linkerd"), preset("osm"), True),
        (preset("linkerd"), preset("osm", "other"), False),
        (preset("kubernetes"), preset("linkerd"), True),
        (preset("kubernetes"), preset("kubernetes"), True),
        (preset("consul"), preset("kubernetes"), True),
        (mapping("/a/{x}", namespace="a", service_account="{x}"),
         mapping("/b/{x}", namespace="b", service_account="{x}"), False),
        (mapping("/a/{x}", namespace="a", service_account="{x}"),
         mapping("/b/{x}", namespace="{x}", service_account="b"), True),
        (mapping("/a/{x:label}", namespace="a.{x}", service_account="s"),
         mapping("/b/{x:label}", namespace="{x}", service_account="s"), False),
        (mapping("/a/{x}", namespace="a-{x}", service_account="s"),
         mapping("/b/{x}", namespace="{x}-b", service_account="s"), True),
        (mapping("/a/{x}", namespace="a{x}", service_account="s"),
         mapping("/b/{x}", namespace="b{x}", service_account="s"), False),
    ],
)  # fmt: skip
def test_overlap(first: IdentityMapping, second: IdentityMapping, is_refused: bool) -> None:
    """Two mappings of one trust domain may not be able to give the same words."""
    try:
        MappingSet((first, second))
    except MappingError as exc:
        assert is_refused, exc
        assert "could give a name of `td`" in str(exc)
    else:
        assert not is_refused


PIECES = st.lists(
    st.sampled_from(["{a}", "{b}", "{a:label}", "{b:label}", ".", "-", "x", "/", "/x/"]),
    min_size=1,
    max_size=6,
).map("".join)
WORDS = st.text(alphabet="xy.-", min_size=1, max_size=4)


PATTERNS = st.sampled_from(
    ["{a}/{b}", "{a:label}.{b:label}", "x{a}/{b:label}", "{a:label}.{b}", "{a:label}/x/{b:label}x"]
)
IMAGES = st.lists(
    st.sampled_from(["{a}", "{b}", ".", "-", "x", "x.x"]), min_size=1, max_size=4
).map("".join)


@given(PATTERNS, IMAGES, IMAGES, st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=12))
@settings(max_examples=400)
def test_no_two_names_become_one(
    pattern: str, namespace: str, account: str, values: list[tuple[str, str]]
) -> None:
    """Of any mapping that is not refused, different names get different words."""
    try:
        maps = MappingSet((mapping(f"/{pattern}", namespace=namespace, service_account=account),))
    except MappingError:
        return
    by_words: dict[tuple[str, ...], str] = {}
    for a, b in values:
        filled = pattern
        for text, value in (("{a}", a), ("{a:label}", a), ("{b}", b), ("{b:label}", b)):
            filled = filled.replace(text, value)
        name = f"spiffe://td/{filled}"
        reading = maps.read((name,))
        if reading is not None and reading.workload is not None:
            assert name == by_words.setdefault(reading.sure, name)


@given(PIECES, PIECES, st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8))
def test_templates_that_never_meet(first: str, second: str, values: list[tuple[str, str]]) -> None:
    """Two templates of which it is said that no text fits both have none."""
    try:
        ours, theirs = parse_template(first), parse_template(second)
    except MappingError:
        return
    if can_meet(ours, theirs):
        return
    for a, b in values:
        text = ours.filled({"a": a, "b": b})
        assert not (ours.pattern().fullmatch(text) and theirs.pattern().fullmatch(text))


@given(st.lists(st.text(), max_size=3))
def test_any_names(names: list[str]) -> None:
    """Any names are read without an error, and what lets in is among what keeps out."""
    maps = MappingSet((preset("consul", "a"), preset("linkerd", "b"), preset("osm", "c")))
    reading = maps.read(names)

    assert reading is None or set(reading.sure) <= set(reading.possible)
