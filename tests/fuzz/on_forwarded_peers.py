"""XFCC: a header that is read can be written again, and is then read as the same."""

from __future__ import annotations

import re
from urllib.parse import quote

from identity.errors import XfccError
from identity.xfcc import XfccElement, parse_xfcc
from tests.fuzz.target import Target

_QUOTABLE = re.compile(r'(?:[^"\\]|\\.)*')
_WEB = "spiffe://cluster.local/ns/shop/sa/web"


def _run(data: bytes) -> None:
    try:
        elements = parse_xfcc(data.decode("utf-8", "surrogateescape"))
    except XfccError:
        return
    written = ",".join(_written(element) for element in elements)
    # A pair is at most three times as long when it is written, which may be over the limit.
    if len(written) < 90_000:
        assert parse_xfcc(written) == elements


def _written(element: XfccElement) -> str:
    pairs = [
        *(("By", _quoted(each)) for each in element.by),
        *(("URI", _quoted(each)) for each in element.uris),
        *(("DNS", _quoted(each)) for each in element.dns_names),
        *((key, _quoted(value)) for key, value in element.others),
        ("Hash", element.hash),
        ("Cert", f'"{quote(element.cert)}"'),
        ("Chain", f'"{quote(element.chain)}"'),
    ]
    if element.subject is not None:
        # A subject keeps its escapes; one that came without quotes may hold a backslash anywhere.
        is_quotable = _QUOTABLE.fullmatch(element.subject)
        pairs.append(("Subject", f'"{element.subject}"' if is_quotable else element.subject))
    return ";".join(f"{key}={value}" for key, value in pairs)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _seeds() -> list[bytes]:
    texts = (
        f'By=spiffe://a/b;Hash={"ab" * 32};Subject="CN=a,O=b";URI={_WEB};DNS=a.test',
        f"URI={_WEB},By=x;URI=,Subject=",
        'Cert="-----BEGIN%20CERTIFICATE-----%0AAA%0A";Chain="%2B+"',
        'Subject="CN=\\"x\\"";URI="a\\"b\\\\"',
        f"{_WEB}",
        "",
    )
    return [text.encode() for text in texts]


TARGET = Target(
    run=_run,
    seeds=_seeds,
    words=("By=", "Hash=", "Cert=", "Chain=", "Subject=", "URI=", "DNS=", '\\"', '"', _WEB),
    share=2.0,
)
