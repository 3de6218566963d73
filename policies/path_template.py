"""Path templates: `{*}` is one segment, `{**}` is any number of them.

Spec: Istio AuthorizationPolicy `paths`, Envoy uri_template path matching.
"""

from __future__ import annotations

import re2

from policies.diagnostic import shown
from policies.string_match import TextTest, pattern_problem

_ONE = "{*}"
_MANY = "{**}"
_LITERAL = r"A-Za-z0-9\-._~%!$&'()+,;:@="
# Measured on Envoy 1.40: a `*` in the request's path is an ordinary character.
_MATCHED = _LITERAL + "*"
_MAX_OPERATORS = 5


def is_template(value: str) -> bool:
    """Whether a `paths` value is read as a template."""
    return _ONE in value or _MANY in value


def template_problem(value: str) -> str:
    """Return why a `paths` value is not usable, or an empty text.

    Stray braces are refused in plain paths as well.
    """
    if not is_template(value):
        return "`{` and `}` are only allowed as `{*}` or `{**}`" if set("{}") & set(value) else ""
    if not value.startswith("/"):
        return "a template starts with `/`"
    segments = value[1:].split("/")
    literal = re2.compile(f"[{_LITERAL}]+")
    many_seen = False
    for index, segment in enumerate(segments):
        is_operator = segment in (_ONE, _MANY)
        if many_seen and is_operator:
            return "no operator may follow `{**}`"
        if is_operator:
            many_seen = segment == _MANY
        elif not segment and index == len(segments) - 1:
            continue
        elif not literal.fullmatch(segment):
            return f"the segment `{shown(segment)}` must be a literal, `{{*}}` or `{{**}}`"
    if sum(segment in (_ONE, _MANY) for segment in segments) > _MAX_OPERATORS:
        return f"a template has at most {_MAX_OPERATORS} operators"
    return pattern_problem(_pattern(value))


def template_matcher(value: str) -> TextTest:
    """Return the full-match test of a template that has no problem.

    >>> test = template_matcher("/foo/{*}/bar/{**}")
    >>> test("/foo/buzz/bar/"), test("/foo//bar/x")
    (True, False)
    """
    compiled = re2.compile(_pattern(value))
    return lambda text: compiled.fullmatch(text) is not None


def _pattern(value: str) -> str:
    return "/".join(map(_piece, value.split("/")))


def _piece(segment: str) -> str:
    if segment == _ONE:
        return f"[{_MATCHED}]+"
    if segment == _MANY:
        return f"[{_MATCHED}/]*"
    return str(re2.escape(segment))
