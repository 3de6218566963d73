"""Which of OPA's built-ins the embedded engine answers as OPA does.

Each name was compared with OPA 1.22 on ordinary and hostile arguments. A name that is
not here is refused at load: the engine answers `undefined` for many of them, which under
`not` would let a request pass. Strings live in the engine in escaped spelling, so
built-ins that look inside a string by position are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


def words(text: str) -> frozenset[str]:
    """Return the blank-separated words of a text."""
    return frozenset(text.split())


FAITHFUL: Final = words(
    """
    abs array.concat array.reverse array.slice ceil concat contains count endswith floor
    glob.match graph.reachable intersection is_array is_boolean is_null is_number is_object
    is_set is_string json.filter json.is_valid json.marshal json.patch json.remove
    json.unmarshal max min numbers.range object.filter object.get object.keys object.remove
    object.subset product round semver.compare semver.is_valid split sprintf startswith
    strings.any_prefix_match strings.any_suffix_match strings.count sum trim trim_left
    trim_prefix trim_right trim_space trim_suffix type_name union walk
    """
)

# Supported, with a difference that the author is told of.
APPROXIMATE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lower": "folds ASCII letters only",
        "upper": "folds ASCII letters only and spoils control characters",
        "regex.match": "matches bytes, so `.` is not one character outside ASCII",
        "regex.replace": "matches bytes, so `.` is not one character outside ASCII",
        "regex.split": "matches bytes, so `.` is not one character outside ASCII",
        "replace": "sees `\\n` where a string holds a backslash and an `n`",
        "sort": "orders values of different types otherwise than OPA",
    }
)

# What to do instead, for refusals that people will meet.
ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "to_number": "it reads `12abc` as 12 here; use json.unmarshal, then is_number",
        "opa.runtime": "policies may not read the environment; pass the value as data",
        "http.send": "policies may not use the network; pass the value as data",
        "net.lookup_ip_addr": "policies may not use the network",
        "io.jwt.decode": "tokens are verified already; read input.meshwarden.claims",
        "io.jwt.decode_verify": "tokens are verified already; read input.meshwarden.claims",
        "net.cidr_contains": "use ipBlocks in the AuthorizationPolicy",
        "time.now_ns": "use input.attributes.request.time",
        "print": "remove it before the policy serves",
        "any": "deprecated in OPA; write `true in xs`",
        "all": "deprecated in OPA; write `every x in xs { x }`",
        "re_match": "deprecated in OPA; use regex.match",
    }
)

# First parts of OPA's dotted built-ins; the engine aborts on some unknown names in them.
NAMESPACES: Final = words(
    """
    array base64 base64url bits crypto glob graph graphql hex http internal io json net
    numbers object opa providers rand regex rego semver strings time units urlquery uuid yaml
    """
)
