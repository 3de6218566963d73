"""Edges: what makes a request that should match one that perhaps does not."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential import vocabulary as words
from tests.differential.draft import Draft, connection
from tests.differential.identities import PEERS


def bend(draft: Draft) -> None:
    """Bend one thing of the draft."""
    draft.rng.choice(_BENDS)(draft)


_BEFORE_A_PATH = (
    "http://shop.example", "https://other.example:443", "HTTP://SHOP.example", "http://",
    "//shop.example", "*", "?", "x", "ftp://h",
)  # fmt: skip


def _bend_path(draft: Draft) -> None:
    rng, path = draft.rng, draft.path
    cut = rng.randrange(len(path) + 1) if path else 0
    pieces = ("/", "//", "/./", "/../", "%2F", "%2f", ";x=1", "\\", "%5c", "%252e", "*", "%c0%ae")
    piece = rng.choice(
        (*pieces, "ü", "%00", "#frag", "[1]", "%2e%2e/", "%zz", "..;/", '"', "{", "|")
    )
    kind = rng.randrange(7)
    if kind == 0:
        draft.path = path.swapcase()
    elif kind == 1 and cut < len(path):
        draft.path = f"{path[:cut]}%{ord(path[cut]) & 0xFF:02X}{path[cut + 1 :]}"
    elif kind == 2:
        draft.path = path + "/"
    elif kind == 3:
        draft.path = path[:-1]
    elif kind == 4:
        draft.path = rng.choice(_BEFORE_A_PATH) + path
    else:
        draft.path = path[:cut] + piece + path[cut:]


def _bend_query(draft: Draft) -> None:
    draft.query = draft.rng.choice(("x=1", "", "?", "a=/admin", "access_token", "x=%2F#f", "#f?x"))


def _bend_host(draft: Draft) -> None:
    host = draft.host or ""
    rng = draft.rng
    draft.host = rng.choice(
        (host.swapcase(), host + ".", host + ":80", host + ":8080", host[:-1], "x" + host, "", None)
    )


def _bend_header(draft: Draft) -> None:
    rng = draft.rng
    if not draft.headers:
        draft.headers.append(("x-role", rng.choice(("", "admin", "a,b", "ü", "\xff\xfe"))))
        return
    at = rng.randrange(len(draft.headers))
    name, value = draft.headers[at]
    changes: tuple[Callable[[], None], ...] = (
        lambda: draft.headers.append((name, value)),
        lambda: draft.headers.insert(at, (name, "user")),
        lambda: draft.headers.append((name.upper(), "admin")),
        lambda: draft.headers.append((name, "")),
        lambda: draft.headers.__setitem__(at, (name, "")),
        lambda: draft.headers.__setitem__(at, (name.swapcase(), value)),
        lambda: draft.headers.__setitem__(at, (name.replace("-", "_"), value)),
        lambda: draft.headers.__setitem__(at, (name, f"{value},user")),
        lambda: draft.headers.__setitem__(at, (name, f"user, {value}")),
        lambda: draft.headers.__setitem__(at, (name, f"  {value} ")),
        lambda: draft.headers.__setitem__(at, (name, f"{value}\xff")),
        lambda: draft.headers.__delitem__(at),
    )
    rng.choice(changes)()


def _bend_method(draft: Draft) -> None:
    rng = draft.rng
    draft.method = rng.choice(
        (draft.method.swapcase(), "POST", "PURGE", "G", "M-SEARCH", "CONNECT")
    )


def _bend_scheme(draft: Draft) -> None:
    """Go over HTTP/2, beside what HTTP/1 knows: crumbs of a cookie, a host and an authority."""
    rng = draft.rng
    draft.scheme = "http"
    draft.headers += rng.choice(
        (
            [("cookie", "a=b"), ("cookie", "session=x")],
            [("host", "other.example")],
            [("te", "trailers")],
            [(":path", "/admin")],
            [("x-role", "admin"), ("x-role", "")],
            [("connection", "x-role"), ("x-role", "admin")],
        )
    )


def _bend_connection(draft: Draft) -> None:
    draft.peer, draft.sni, draft.source, draft.destination = connection(draft.rng)


def _bend_peer(draft: Draft) -> None:
    draft.peer = draft.rng.choice(PEERS)


def _bend_token(draft: Draft) -> None:
    rng = draft.rng
    draft.has_token = rng.random() < 0.8
    kind = rng.randrange(8)
    if kind == 0:
        draft.fault = rng.choice(("stranger", "garbled", "none"))
    elif kind == 1:
        draft.claims["exp"] = rng.choice(("-1", "-600", "+600", 0))
    elif kind == 2:
        draft.claims["nbf"] = rng.choice(("+5", "+600", "-5"))
    elif kind == 3:
        draft.claims.pop(rng.choice(("iss", "sub")), None)
    elif kind == 4:
        draft.claims["iss"] = rng.choice((*words.ISSUERS, "https://unknown.example", ""))
    elif kind == 5:
        draft.claims["sub"] = rng.choice((*words.SUBJECTS, "*"))
    else:
        draft.claims["aud"] = rng.choice((*words.AUDIENCES, ["shop"], "http://shop/"))


_HOPS_BEFORE = ("", " ", "\t", ",", "0", "::ffff:", "[", "+", "0x", '"')
_HOPS_BEHIND = ("", " ", ",", ", ,", "%lo", "%25lo", "/32", ":", ":0", "]", ".", "\x85", '"')


def _bend_forwarded(draft: Draft) -> None:
    rng = draft.rng
    hops = [rng.choice(words.FORWARDED) for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.5:
        hops[-1] = rng.choice(_HOPS_BEFORE) + hops[-1] + rng.choice(_HOPS_BEHIND)
    draft.headers.append(("X-Forwarded-For", rng.choice((",", ", ", " ,", ",\t")).join(hops)))


def _bend_preflight(draft: Draft) -> None:
    draft.method = "OPTIONS"
    draft.headers += [("origin", "x"), ("access-control-request-method", "GET")]


_BENDS: tuple[Callable[[Draft], None], ...] = (
    _bend_path,
    _bend_path,
    _bend_query,
    _bend_host,
    _bend_header,
    _bend_header,
    _bend_method,
    _bend_connection,
    _bend_peer,
    _bend_token,
    _bend_token,
    _bend_forwarded,
    _bend_preflight,
    _bend_scheme,
)
