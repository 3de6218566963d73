"""A request drawn without a look at the policies."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.differential import vocabulary as words
from tests.differential.draft import Draft, concrete, encoded_value


def blind(draft: Draft) -> None:
    """Give every part of the draft a word of the vocabulary."""
    rng = draft.rng
    draft.scheme = rng.choices(("", "http", "https", "ftp"), (65, 30, 4, 1))[0]
    draft.method = rng.choice(("GET", "GET", "GET", "POST", "HEAD", "OPTIONS", "PUT"))
    draft.path = concrete(rng, rng.choice(words.PATHS))
    draft.query = rng.choice(("", "", "", "x=1", "access=1&y"))
    draft.host = concrete(rng, rng.choice(words.HOSTS))
    for _ in range(rng.randrange(3)):
        name = rng.choice(words.HEADER_NAMES[:6])
        draft.headers.append((name, concrete(rng, rng.choice(words.HEADER_VALUES))))
    if rng.random() < 0.3:
        draft.headers.append(("x-forwarded-for", rng.choice(words.FORWARDED)))
    if rng.random() < 0.1:
        draft.headers.append((rng.choice(words.TOKEN_HEADERS[2:5]), rng.choice(("alice", "x=y"))))
    if rng.random() < 0.15:
        draft.headers.append(("x-meta-value", encoded_value(_metadata(rng))))
    draft.headers += [(name, "yes") for name in ("x-custom", "x-second") if rng.random() < 0.2]
    if rng.random() < 0.15:
        draft.headers.append(("x-meta", rng.choice(("admin", "user", "", "[admin]"))))
    if rng.random() < 0.5:
        draft.has_token = True
    draft.claims = {"iss": rng.choice(words.ISSUERS), "sub": rng.choice(words.SUBJECTS)}
    for name, value in _CLAIMS:
        if rng.random() < 0.2:
            draft.claims[name] = value(rng)


def _metadata(rng: random.Random) -> Any:
    word = rng.choice(("admin", "user", "", "[admin]", "a\nb"))
    return rng.choice(
        (word, [word], ["x", word], [[word]], {"x": word}, [{"x": word}], 5, True, None)
    )


def _word(rng: random.Random) -> Any:
    return rng.choice(
        (
            *("admin", "user", "read", "", "read write", 5, True, None, {"x": "admin"}),
            *(["admin", 5], [], [["admin"]], [""], "a\nb", "\n", "a\u00e9x", "admin\0", 1e300),
        )
    )


_CLAIMS: tuple[tuple[str, Callable[[random.Random], Any]], ...] = (
    (
        "scope",
        lambda rng: rng.choice(("read write", "read", "  read  admin ", " ", "", ["read write"])),
    ),
    ("permission", lambda rng: rng.choice(("admin user", "admin", ["admin"]))),
    ("perms", lambda rng: rng.choice(("read write", "admin"))),
    ("groups", lambda rng: rng.choice((["admin", "user"], [], "admin", ["a", 5, {"x": 1}]))),
    ("nested", lambda rng: {"a": _word(rng), "b": {"c": _word(rng)}}),
    ("foo.com/name", _word),
    ("nested.a", _word),
    ("num", lambda rng: rng.choice((5, 5.5, "5", True))),
    ("flag", lambda rng: rng.choice((True, "true"))),
    ("a[b]", _word),
    ("[a", _word),
    ("azp", lambda rng: rng.choice((*words.AUDIENCES, 5))),
    ("aud", lambda rng: rng.choice((*words.AUDIENCES, ["shop", "admin"], []))),
)
