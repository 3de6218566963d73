"""The shape of a path: what tells one object from another of its kind becomes `{*}`.

Written as Istio's path templates are, so that a shape can be put into a policy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_ONE: Final = "{*}"
_LONGEST: Final = 24
# Numbers, UUIDs, hexadecimal digests, and words of letters and digits mixed.
_NAMES_AN_OBJECT = re.compile(
    r"[0-9]+"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{8,}"
    r"|[A-Za-z]{0,8}[-_:]?[0-9]{2,}"
)


@lru_cache(maxsize=4096)
def path_shape(path: str) -> str:
    """Return the shape of a path, without its query.

    >>> path_shape("/orders/4711/items?page=2"), path_shape("/v1/users")
    ('/orders/{*}/items', '/v1/users')
    """
    bare = path.partition("?")[0].partition("#")[0]
    return "/".join(_ONE if _is_one_of_many(segment) else segment for segment in bare.split("/"))


def _is_one_of_many(segment: str) -> bool:
    return len(segment) > _LONGEST or _NAMES_AN_OBJECT.fullmatch(segment) is not None
