"""Whatever looks like a credential is masked, however it is spelled and escaped."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import secret_text
from audit.redact import Redactor
from audit.replay_facts import SeenHeaders
from audit.secret_text import MASK

_REDACTOR = Redactor()


_NAMED = ("token", "secret", "password", "passwd", "apikey", "api_key", "api-key", "signature")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *((f"a {name}=S3cret1 b", f"a {name}=*** b") for name in _NAMED),
        *((f"a {name}%3DS3cret1 b", f"a {name}%3D*** b") for name in _NAMED),
        *((f'a {name}": "S3cret1" b', f'a {name}": "***" b') for name in _NAMED),
        *((f"a {name} S3cret1 b", f"a {name} *** b") for name in ("bEARER", "Basic", "negotiate")),
        ("at https://me:S3@h/", "at https://***@h/"),
        ("\u00e9 token=S3cret", "\u00e9 token=***"),
        ("token=x", "token=x"),
        ("token=xy", "token=***"),
        ("me@long-name.b.c", "me@long-name.b.c"),
        ("viewkit00.shop.svc", "viewkit00.shop.svc"),
        ("newkings00.shop.svc", "newkings00.shop.svc"),
    ],
)
@pytest.mark.parametrize("size", [0, 127, 128, 129, 1000])
def test_texts_of_every_length(text: str, shown: str, size: int) -> None:
    """Each kind of credential alone, in a text that is remembered and in one that is not."""
    filler = " " * (size - len(text))
    assert Redactor().text(text + filler) == shown + filler or size and text == "token=x"


_BLANKS = [
    each for size in range(5) for each in map("".join, itertools.product(" \t\r\n", repeat=size))
]
_SPELLED = [
    *("{" + begin + '"alg": "none"}' for begin in _BLANKS),
    *(before + '{"alg": "none"}' for before in _BLANKS),
    *(before + "{" + begin + '"alg": "none"}' for before in _BLANKS[:85] for begin in " \t\r\n"),
    *('{"' + name + '": 0, "alg": "none"}' for name in ("1", "", "\u00e9", "\u3042", "_", " ")),
]


@pytest.mark.parametrize("dot", [".", "%2e", "%2E"])
def test_however_a_token_is_spelled(dot: str) -> None:
    """JSON may have blanks and lines: a token of any such spelling is masked, in part or whole."""
    for spelled in _SPELLED:
        part = base64.urlsafe_b64encode(spelled.encode()).decode().rstrip("=")
        others = "eHh4eHh4eHh4"
        for token in (f"{part}{dot}{others}{dot}c2ln", f"{others}{dot}{part}{dot}c2ln"):
            assert Redactor().path(f"/t/{token}/x") == "/t/***/x", spelled


def test_however_a_payload_is_spelled() -> None:
    """A header that holds every claim is not written, whoever looks at it."""
    seen = SeenHeaders(Redactor(), frozenset(), frozenset({"x-payload", "x-product"}))
    for spelled in _SPELLED:
        payload = base64.urlsafe_b64encode(spelled.encode()).decode()
        headers = {"x-payload": (payload,), "x-product": ("viewkit",)}
        assert seen.beside(headers, {}) == ({"x-product": ["viewkit"]}, ["x-payload"]), spelled


_JSON_BLANKS = st.text(" \t\r\n", max_size=6)


@st.composite
def _tokens(draw: st.DrawFn) -> tuple[str, str]:
    """A signed token with blanks wherever JSON may have them, and its signature."""

    def part(name: str) -> str:
        before, begin, between, after = (draw(_JSON_BLANKS) for _ in range(4))
        return before + "{" + begin + f'"{name}"{between}:"RS256"{after}' + "}"

    signature = draw(st.binary(min_size=24, max_size=48))
    parts = [part("alg").encode(), part("sub").encode(), signature]
    texts = [base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts]
    return ".".join(texts), texts[2]


_ESCAPES = {
    "as it is": lambda text: text,
    "dots": lambda text: text.replace(".", "%2E"),
    "dots, twice": lambda text: text.replace(".", "%252e"),
    "every third": lambda text: "".join(
        f"%{ord(each):02X}" if place % 3 == 0 else each for place, each in enumerate(text)
    ),
    "every one": lambda text: "".join(f"%{ord(each):02x}" for each in text),
    "every one, twice": lambda text: "".join(f"%25{ord(each):02x}" for each in text),
}


@pytest.mark.parametrize("escape", _ESCAPES.values(), ids=_ESCAPES.keys())
@given(found=_tokens())
def test_no_token_gets_through(found: tuple[str, str], escape: Callable[[str], str]) -> None:
    """Whatever its blanks, its escapes and its place are."""
    token, signature = escape(found[0]), escape(found[1])
    urls = [f"/a/{token}/b", f"/a/v1_{token}", f"/a?q={token}&r=1", f"/a?q=%22{token}%22"]
    urls += [f"/a;q={token}", f"https://h/cb?u=https%3A%2F%2Fi%2F%3Fq%3D{token}#{token}"]
    for url in urls:
        assert signature not in _REDACTOR.path(url)
        for name in (":path", "referer"):
            assert signature not in str(_REDACTOR.headers({name: (url,)}))
    for text in (token, f"the token {token} is old", f'["{token}"]'):
        assert signature not in _REDACTOR.text(text)
        assert signature not in str(_REDACTOR.headers({"user-agent": (text,), "cookie": (text,)}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bearer%2520Abcdefg1", "Bearer%2520***"),
        ("Bearer%09Abcdefg1", "Bearer%09***"),
        ("tok%65n=S3cret1", "token=***"),
        ("%42earer%20Abcdefg1", "Bearer%20***"),
        ("?s=%7B%22token%22%3A%22S3cret1%22%7D", "?s=%7B%22token%22%3A%22***"),
        ("%257B%2522token%2522%253A%2520%2522S3cret1", "%257B%2522token%2522%253A%2520%2522***"),
        (r'"{\"token\": \"S3cret1\"}"', r'"{\"token\": \"***"}"'),
        ("?h=Authorization%3A%20Bearer%20Abcdefg1", "?h=Authorization%3A%20Bearer%20***"),
        ("?h=%2520basic%2520Abcdefg1", "?h=%2520basic%2520***"),
        ("?s=%7B%27token%27%3A%27S3cret1%27", "?s=%7B%27token%27%3A%27***"),
        ("{'token': 'S3cret1'}", "{'token': '***'}"),
        ("?u=https%3A%2F%2Fme%3AS3%40h%2F", "?u=https%3A%2F%2F***%40h%2F"),
        ("?u=https%253A%252F%252Fme%253AS3%2540h", "?u=https%253A%252F%252F***%2540h"),
        (
            "?u=https%3A%2F%2Fh%2Fa%3Fe%3Dme%40h&e=a%40b",
            "?u=https%3A%2F%2Fh%2Fa%3Fe%3Dme%40h&e=a%40b",
        ),
        ("?u=https%3A%2F%2Fh&e=me%40h", "?u=https%3A%2F%2Fh&e=me%40h"),
        ("/%66iles/100%25/a.b.c", "/%66iles/100%25/a.b.c"),
    ],
)
def test_what_stands_escaped(text: str, shown: str) -> None:
    """A credential is found behind escapes; without one they stay as they came."""
    assert Redactor().text(text) == shown


@pytest.mark.parametrize("head", ["/", "/bearer", "/basic%20", "token%22", "%25"])
@pytest.mark.parametrize(
    "unit",
    ["ey", "eyJa.", "a.", "token", "bearer ", "bearer+", "bearer+abcdef&", "+", "%20", "://"]
    + ["?;=", "%2e", "=", "%25", "25", "token%22%20", "IAkg", "a%2e", "%3A%2F%2F", "%40"],
)
def test_long_hostile_text_is_quick(head: str, unit: str) -> None:
    """Sixty thousand letters of any pattern take no time to speak of (a guard against blow-up)."""
    started = time.process_time()
    _REDACTOR.path(head + unit * (60_000 // len(unit)))
    assert time.process_time() - started < 5


_PIECES = st.sampled_from(
    [
        "ey",
        "eyJhbGciOiJSUzI1NiJ9.eyJ.x",
        "Bearer ",
        "ba\u017fic ",
        "bas\u0130c A1b2c3d4",
        "token=",
        "x",
    ]
    + ["signature%3D", '"secret": "', "://u:p@h/", "A1b2c3d4e5", "&", " ", "api_key=", "Negotiate+"]
)


@given(st.lists(_PIECES | st.text(max_size=6), max_size=6).map("".join))
def test_the_quick_look_finds_whatever_the_searches_find(text: str) -> None:
    """A text that is called harmless has nothing that a search would mask."""
    searched = secret_text._DOTTED.sub(secret_text._mask_jwt, text)
    for pattern in (secret_text._CREDENTIAL, secret_text._NAMED):
        searched = pattern.sub(rf"\1\2{MASK}", searched)
    searched = secret_text._NESTED_USERINFO.sub(rf"\1{MASK}\2", searched)
    searched = secret_text._USERINFO.sub(f"://{MASK}@", searched)

    assert not secret_text._is_harmless(text) or text == searched
