"""The path of a recorded request under another normalization than then."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dryrun.past import NotReplayable, Past
from policies.http_path import normalize_path
from policies.mesh import PathNormalization
from policies.request import Request

_HEADER: Final = ":path"
# What nothing was done to, but that a fragment was cut, which no condition looks at.
_AS_IT_CAME: Final = (PathNormalization.AS_IS, PathNormalization.NONE)
# BASE and what it leaves to do come to the same as MERGE_SLASHES: those steps are the last ones.
_ONE_STEP_MORE: Final = (PathNormalization.BASE, PathNormalization.MERGE_SLASHES)


def normalized(past: Past, level: PathNormalization) -> Past | None:
    """Return a past request with the path that policies see at a level; None where it is refused.

    Where the path was written otherwise then, and cannot be told back, it is hidden.

    Raises:
        NotReplayable: it is not known whether the path would be refused.
    """
    if level is past.level or not past.request.is_http:
        return past
    is_exact = past.level in _AS_IT_CAME or (past.level, level) == _ONE_STEP_MORE
    if past.hidden.is_path_hidden or not is_exact:
        if level not in _AS_IT_CAME and past.hidden.is_path_hidden:
            raise NotReplayable("the record does not hold the path, which is normalized otherwise")
        return _with_path_hidden(past)
    path = normalize_path(past.request.path, level)
    if path is None:
        return None
    seen = past.seen
    is_untouched = seen.path == past.request.path
    return replace(
        past,
        request=_with_path(past.request, path),
        seen=_with_path(seen, path) if is_untouched else seen,
    )


def is_refused_again(path: str, level: PathNormalization) -> bool:
    """Whether a message that was refused then is refused at this level as well.

    `path` is that of the record: empty where the message could not be read at all.
    """
    return not path or normalize_path(path, level) is None


def _with_path(request: Request, path: str) -> Request:
    headers = dict(request.headers)
    if _HEADER in headers:
        headers[_HEADER] = (path,)
    return replace(request, path=path, headers=headers)


def _with_path_hidden(past: Past) -> Past:
    hidden = past.hidden
    return replace(
        past,
        hidden=replace(
            hidden,
            headers=hidden.headers | {_HEADER},
            rules_headers=hidden.rules_headers | {_HEADER},
            is_path_hidden=True,
        ),
    )
