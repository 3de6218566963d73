"""Credentials in free texts, found by how they look, wherever a text came from.

Every search is linear in the text, which strangers choose.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MASK: Final = "***"
MEMORABLE_TEXT: Final = 128  # BUDGET: a longer one is searched each time
_SHORTEST: Final = 8  # BUDGET: a shorter text with its name is no credential worth the search
# RFC 8259's blanks in base64url: three of them, and one or two with the `{` behind them.
_BLANKS: Final = r"(?:I[AC]|C[QSgi]|D[QS])[Ako0][gJKN]"
_BLANK_OPENS: Final = r"(?:IH|C[Xn]|DX)s[igJKN]|(?:I[AC]|C[QSgi]|D[QS])[Blp1]7[ICD]"
# How a JSON object in base64url begins, whatever blanks stand before and behind its `{`. What
# words may hold too counts where a part begins and behind blanks alone.
JSON_START: Final = re.compile(
    rf"eyJ|eyAi|ewog|ewoJ|ew0K|{_BLANK_OPENS}"
    rf"|(?:(?<![A-Za-z0-9_-])|%(?:25)*+2[eE]|{_BLANKS})(?:ey[IKL]|(?:eyA|ewk|ewo|ew0)[igJKN])"
)
# An escape, which was escaped again as often as it likes, of a character that needs none.
_ESCAPE = re.compile(r"%(?:25)*+(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
# WHY the look-behind, the possessive repeats and the bounded look ahead: without them a text
# of a stranger's choice takes minutes.
_DOT: Final = r"(?:\.|%(?:25)*+2[eE])"
_DOTTED = re.compile(rf"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{{8,}}+(?:{_DOT}[A-Za-z0-9_-]*+){{2,}}+")
# WHY no word boundary: the digits of an escape, as in `%20Bearer`, are part of a word.
_CREDENTIAL = re.compile(
    r"(?<![A-Za-z_])((?i:bearer|basic|negotiate))((?:\s|%(?:25)*+(?:20|09)|\+)++)"
    r"(?=[^\sA-Z0-9]{0,256}+[A-Z0-9])[A-Za-z0-9._~+/=-]{6,}+"
)
# `=`, or what JSON has between a name and its text; as it stands or escaped.
_QUOTE: Final = r"\\?(?:[\"']|%(?:25)*+2[27])"
_GAP: Final = r"(?:\s|%(?:25)*+(?:20|09|0[aAdD])|\+)*+"
_IS: Final = rf"=|%(?:25)*+3[dD]|{_QUOTE}{_GAP}(?::|%(?:25)*+3[aA]){_GAP}{_QUOTE}"
_NAMED = re.compile(
    r"((?i:token|secret|password|passwd|api[_-]?key|signature))"
    rf"({_IS})(?!\*\*\*)[^&\s;#\"']+"
)
_USERINFO = re.compile(r"://[^/?#@\s]{0,256}@")
# The same within a URL that stands there escaped, which ends at an escaped `/`, `?` or `#`.
_NESTED_USERINFO = re.compile(
    r"(%(?:25)*+3[aA](?:%(?:25)*+2[fF]){2})"
    r"(?:(?!%(?:25)*+(?:2[fF3]|3[fF]))[^/?#@&\s]){0,256}(%(?:25)*+40)"
)
# A text of ASCII without any of these, in lower case, has no match for a pattern above.
# WHY so long: `api` alone stands in most paths.
_MARKS: Final = (
    *("bearer", "basic", "negotiate", "token", "secret"),
    *("passw", "apikey", "api_key", "api-key", "signature", "@", "%40", "2540"),
)


def masked_text(text: str) -> str:
    """Return the text with everything that looks like a credential masked."""
    if len(text) < _SHORTEST:
        return text
    return _known_masked(text) if len(text) <= MEMORABLE_TEXT else _masked(text)


# BUDGET: of the texts of a record most were in the one before: hosts, callers, agents.
@lru_cache(maxsize=4096)
def _known_masked(text: str) -> str:
    return _masked(text)


def _masked(text: str) -> str:
    """Return a text with its credentials masked.

    WHY a second look: an escape of a letter means the letter (RFC 3986 §2.3), and a text without
    such escapes has all that the next server reads. Only what hides a credential is shown so.
    """
    if "%" in text:
        plain = _ESCAPE.sub(_unescaped, text)
        if plain != text and (shown := _searched(plain)) != plain:
            return shown
    return _searched(text)


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _searched(text: str) -> str:
    if _is_harmless(text):
        return text
    text = _DOTTED.sub(_mask_jwt, text)
    text = _CREDENTIAL.sub(rf"\1\2{MASK}", text)
    text = _NAMED.sub(rf"\1\2{MASK}", text)
    text = _NESTED_USERINFO.sub(rf"\1{MASK}\2", text) if "40" in text else text
    return _USERINFO.sub(f"://{MASK}@", text) if "@" in text else text


def _is_harmless(text: str) -> bool:
    """Whether none of the searches can find anything; false where that is not known at once.

    WHY: nearly every text is, and four searches cost many times as much.
    """
    if not text.isascii():
        return False
    folded = text.lower()
    for mark in _MARKS:
        if mark in folded:
            return False
    # A token has two dots.
    return text.count(".") + text.count("%") < 2 or JSON_START.search(text) is None


def _mask_jwt(found: re.Match[str]) -> str:
    """Mask a dotted run when one of its parts starts as a JSON object does in base64url."""
    return MASK if JSON_START.search(found[0]) else found[0]
