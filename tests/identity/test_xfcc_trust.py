"""Whom a forwarded header names: only proxies that are trusted have a word in it."""

from __future__ import annotations

import pytest

from identity.errors import SpiffeIdError
from identity.peer import Peer
from identity.xfcc import parse_xfcc
from identity.xfcc_trust import Forwarded, ForwardMode, XfccTrust, believe, parse_forwarder

GW, EDGE, ME = "spiffe://td/gw", "spiffe://td/edge", "spiffe://td/me"
ALICE, BOB = "spiffe://td/ns/a/sa/alice", "spiffe://td/ns/b/sa/bob"
OWN = f",By={ME};URI={GW}"


def trust(
    *who: str,
    mode: str = "SANITIZE_SET",
    own: str = "APPEND_FORWARD",
    hops: int = 1,
    by: tuple[str, ...] = (),
) -> XfccTrust:
    """Return a configuration that trusts these."""
    return XfccTrust(
        forwarders=tuple(parse_forwarder(each, mode=ForwardMode(mode), by=by) for each in who),
        own_mode=ForwardMode(own),
        max_hops=hops,
    )


def asked(
    text: str, rules: XfccTrust, peer: str = GW, source_ip: str = "10.0.0.1", digest: str = ""
) -> Forwarded:
    """Return what becomes of a header."""
    direct = Peer.from_principal(peer)
    return believe(parse_xfcc(text), direct, source_ip, rules, digest=digest)


def named(found: Forwarded) -> str:
    """Return the first name of the element that is believed."""
    assert found.element is not None, found
    return found.element.names[0]


def test_by_spiffe_id() -> None:
    """The gateway's client is believed of the gateway, by exactly its SPIFFE ID."""
    header = f"By={GW};URI={ALICE}{OWN}"

    assert ALICE == named(asked(header, trust(GW)))
    for other in ("spiffe://td/gw2", "spiffe://td2/gw", "spiffe://td/g", "spiffe://td/gw/x"):
        own = f"By={GW};URI={ALICE},By={ME};URI={other}"
        found = asked(own, trust(GW), peer=other)
        assert found.element is None
        assert "not trusted to forward" in found.ignored


@pytest.mark.parametrize("peer", ["spiffe://td/gw\0", "SPIFFE://td/gw", "CN=gw", "gw", ""])
def test_nearly_the_gateway(peer: str) -> None:
    """A name that is nearly a trusted SPIFFE ID is not it."""
    found = asked(f"By={GW};URI={ALICE},By={ME}", trust(GW), peer=peer)

    assert found.element is None
    assert found.ignored


@pytest.mark.parametrize(
    ("source_ip", "is_believed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("::1", False),
        ("", False),
        ("10.1.2.3 ", False),
        ("010.1.2.3", False),
    ],
)
def test_by_address(source_ip: str, is_believed: bool) -> None:
    """An address range trusts connections from it, whoever stands behind them."""
    rules = trust("10.0.0.0/8", own="ALWAYS_FORWARD_ONLY")
    found = asked(f"URI={ALICE}", rules, peer="", source_ip=source_ip)

    assert is_believed is (found.element is not None)
    assert is_believed is not bool(found.ignored)


def test_plaintext_needs_its_own_mode() -> None:
    """Over plaintext Envoy forwards in one mode only; in others the header cannot be its."""
    for own in ("APPEND_FORWARD", "SANITIZE_SET", "FORWARD_ONLY", "SANITIZE"):
        found = asked(f"URI={ALICE}", trust("10.0.0.0/8", own=own), peer="")
        assert found.element is None, own
        assert found.ignored


def test_own_modes() -> None:
    """Envoy's own mode says whether the last element is Envoy's."""
    assert ALICE == named(asked(f"URI={ALICE}", trust(GW, own="FORWARD_ONLY")))
    assert ALICE == named(asked(f"URI={ALICE}", trust(GW, own="ALWAYS_FORWARD_ONLY")))
    assert asked(f"By={ME};URI={GW}", trust(GW, own="SANITIZE_SET")) == Forwarded(
        steps=("the last element is Envoy's own, about the peer of the connection",)
    )
    assert asked(f"URI={ALICE}", trust(GW, own="SANITIZE")).ignored
    assert "one element" in asked(f"URI={ALICE}{OWN}", trust(GW, own="SANITIZE_SET")).refusal


def test_own_element_must_be_envoys() -> None:
    """A last element about somebody else shows that Envoy's mode is another: refused."""
    assert "not Envoy's own" in asked(f"By={GW};URI={ALICE}", trust(GW)).refusal
    other = f"URI={ALICE},By={ME};URI={GW};Hash={'0' * 64}"
    assert "not Envoy's own" in asked(other, trust(GW), digest="1" * 64).refusal
    assert ALICE == named(asked(other, trust(GW), digest="0" * 64))
    # Envoy may be told to write `By` and `Hash` only.
    assert ALICE == named(asked(f"URI={ALICE},By={ME}", trust(GW)))


def test_one_element_of_a_sanitizing_proxy() -> None:
    """A proxy that sets its one element and sends two was made to, by a comma in a name."""
    header = f"URI={ALICE},By={GW};URI={BOB}{OWN}"

    assert "sends one element, and there are 2" in asked(header, trust(GW)).refusal
    assert BOB == named(asked(header, trust(GW, mode="APPEND_FORWARD")))


def test_by_names_the_writer() -> None:
    """`By` must be the proxy's, as far as it is told which certificate that shows."""
    strange = f"By=spiffe://td/other;URI={ALICE}{OWN}"

    assert "`By` names another proxy" in asked(strange, trust(GW)).refusal
    assert ALICE == named(asked(strange, trust(GW, by=("spiffe://td/other",))))
    assert ALICE == named(asked(f"URI={ALICE}{OWN}", trust(GW)))
    rules = trust("10.0.0.0/8", own="FORWARD_ONLY")
    assert ALICE == named(asked(f"By=x;URI={ALICE}", rules))


def test_an_element_without_a_name() -> None:
    """A trusted proxy that names nobody leaves it open who asks: refused."""
    for element in (f"By={GW};Hash={'0' * 64}", f'By={GW};Subject="";URI='):
        assert "names nobody" in asked(f"{element}{OWN}", trust(GW)).refusal


def test_two_uris() -> None:
    """Two URI names may be one that was smuggled in: refused."""
    assert "2 URI names" in asked(f"URI={ALICE};URI={BOB}{OWN}", trust(GW)).refusal


@pytest.mark.parametrize(
    "rest",
    ["x=1", "URI=", f"Hash={'0' * 64}", "By=spiffe://td/gw", 'Subject=""', 'Cert="x"', "DNS=a;URI="]
    + ["DNS=a;x=1", 'DNS=a;Subject="CN=b"'],
)
def test_semicolon_in_a_name(rest: str) -> None:
    """Behind its names Envoy writes nothing: what stands there came out of a name."""
    for name in (f"URI={ALICE}", "URI=;DNS=b", "DNS=b"):
        assert asked(f"By={GW};{name};{rest}{OWN}", trust(GW)).refusal
    assert "behind a name" in asked(f"URI={ALICE};{rest}{OWN}", trust(GW)).refusal


def test_the_order_of_envoy() -> None:
    """All that Envoy can write about a client, in its order, is believed."""
    whole = f'By={GW};Hash={"0" * 64};Subject="CN=a";URI={ALICE};DNS=a;DNS=b'
    assert ALICE == named(asked(f"{whole}{OWN}", trust(GW)))


def test_no_element_of_the_gateway() -> None:
    """A gateway whose client had no certificate is itself who asks."""
    found = asked(f"By={ME};URI={GW}", trust(GW))

    assert (None, "", "") == (found.element, found.refusal, found.ignored)


def test_hops() -> None:
    """Trusted proxies in a row are stepped over up to the limit, and no further than trust."""
    header = f"By={EDGE};URI={ALICE},By={GW};URI={EDGE}{OWN}"

    assert EDGE == named(asked(header, trust(GW, EDGE, mode="APPEND_FORWARD")))
    assert ALICE == named(asked(header, trust(GW, EDGE, mode="APPEND_FORWARD", hops=2)))
    assert ALICE == named(asked(header, trust(GW, EDGE, mode="APPEND_FORWARD", hops=9)))
    assert EDGE == named(asked(header, trust(GW, mode="APPEND_FORWARD", hops=9)))


def test_an_address_proves_the_direct_peer_only() -> None:
    """Behind the first hop no address is known, so no range trusts there."""
    header = f"URI={ALICE},URI={EDGE}"
    rules = trust("10.0.0.0/8", mode="APPEND_FORWARD", own="FORWARD_ONLY", hops=3)

    assert EDGE == named(asked(header, rules))


def test_nobody_is_trusted_by_default() -> None:
    """Without configuration every header but Envoy's own element is ignored, and said to be."""
    assert asked(f"By={ME};URI={GW}", XfccTrust()) == Forwarded()
    assert asked(f"URI={ALICE}{OWN}", XfccTrust()).ignored
    assert asked(f"URI={ALICE}", XfccTrust(), peer="").ignored


@pytest.mark.parametrize("text", ["", "*", "10.0.0.0/33", "10.0.0.1/8", "gw.example", "td/gw"])
def test_forwarders_that_are_none(text: str) -> None:
    """What is neither a SPIFFE ID nor a range trusts nobody."""
    with pytest.raises(ValueError, match=".*"):
        parse_forwarder(text)


def test_a_forwarder_with_a_broken_id() -> None:
    """A SPIFFE ID that is not canonical is refused, never folded."""
    with pytest.raises(SpiffeIdError):
        parse_forwarder("spiffe://TD/gw")
