"""How the embedded engine answers each built-in that OPA 1.22.2 lists.

The names and their types are OPA's own (`opa_builtins.json`, from `opa capabilities`).
Each was compared with OPA on generated arguments, hostile ones among them. What the engine
answers otherwise is a polyfill or refused at load: a refused call is told, while a wrong
answer, or an `undefined` under `not`, would let a request pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final


class Kind(Enum):
    """What happens to a call of a built-in."""

    NATIVE = "native"
    POLYFILL = "polyfill"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """One built-in. `note` is the reason of a refusal, or what else the author should know.

    `module` is the polyfill's Rego module. `plain_argument` is the argument that, written
    as a text which begins with a harmless character, makes the engine's own answer right.
    """

    name: str
    arguments: tuple[str, ...]
    kind: Kind
    note: str = ""
    advice: str = ""
    module: str = ""
    plain_argument: int | None = None


def words(text: str) -> frozenset[str]:
    """Return the blank-separated words of a text."""
    return frozenset(text.split())


_OPERATORS = words(
    """
    and assign div eq equal internal.member_2 internal.member_3 minus mul neq or plus
    """
)
_NATIVE = words(
    """
    array.concat array.flatten array.reverse graph.reachable
    intersection is_array is_boolean is_null is_number is_object is_set is_string
    json.filter json.is_valid json.patch json.remove json.unmarshal
    numbers.range object.filter object.get object.keys object.remove round
    startswith strings.any_prefix_match trim_prefix type_name
    union walk
    """
)
# What an author should know of a native one.
_NOTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "div": "keeps 16 digits of a fraction",
        "minus": "keeps 16 digits of a fraction",
        "mul": "keeps 16 digits of a fraction: `3 * 0.2` is not 0.6",
        "plus": "keeps 16 digits of a fraction",
        "numbers.range": "undefined for whole numbers that are written as fractions (`3.0`)",
        "round": "numbers of more than 64 bits come out otherwise than from OPA",
        "walk": "goes in an order of its own",
        "json.unmarshal": "stops at a text that holds `\\u`; numbers like `1e3` are undefined",
    }
)
_AT_ESCAPES = "a text with quotes, backslashes or control characters"
_OUTSIDE_ASCII = f"{_AT_ESCAPES}, or outside ASCII,"
# Rego modules of our own: what each answers, and where it ends the evaluation instead.
_POLYFILLS: Final[tuple[tuple[str, str, str], ...]] = (
    ("net", "", "net.cidr_contains net.cidr_intersects net.cidr_is_valid"),
    ("times", "", "time.parse_rfc3339_ns"),
    (
        "times",
        "a time zone other than UTC before the year 2000, or an unknown one,",
        "time.clock time.date time.weekday",
    ),
    ("times", "a time zone other than UTC, or a step of more than 10^9,", "time.add_date"),
    (
        "durations",
        "a decimal that Go rounds (beyond a nanosecond, or of days and more)",
        "time.parse_duration_ns",
    ),
    (
        "texts",
        f"{_AT_ESCAPES} where the sought text could be part of their escapes",
        "split",
    ),
    ("texts", f"an empty `old`, or at {_AT_ESCAPES}", "replace"),
    ("texts", f"{_AT_ESCAPES} where the sought text has such too", "contains endswith trim_suffix"),
    ("texts", "", "count"),
    (
        "texts",
        _OUTSIDE_ASCII,
        """
     base64.encode base64url.encode base64url.encode_no_pad glob.match indexof lower
     regex.match strings.any_suffix_match strings.count strings.reverse substring trim
     trim_left trim_right trim_space upper
     """,
    ),
    (
        "texts",
        "a content with quotes, backslashes, control characters or outside ASCII",
        "base64.decode",
    ),
    ("texts", f"{_OUTSIDE_ASCII} or at a pattern that matches nothing", "regex.split"),
    (
        "texts",
        f"{_OUTSIDE_ASCII} at a pattern that matches nothing, or at `$` in the value",
        "regex.replace",
    ),
    (
        "texts",
        "verbs other than `%s`, `%d` (32 bits) and `%v`, values that do not fit them, `%%`",
        "sprintf",
    ),
    ("texts", "anything but scalars with whole numbers, and objects of them", "json.marshal"),
    (
        "collections",
        "members of several types, more than 200, or texts outside plain ASCII",
        "max min sort",
    ),
    ("collections", "a set of more than 200 texts, or of texts outside plain ASCII", "concat"),
    ("collections", "", "array.slice product sum"),
    (
        "collections",
        "paths that lead into an array or below a scalar, begin with a slash or hold an escape,",
        "json.filter json.remove",
    ),
    (
        "collections",
        "what is no object, a path that leads into an array, the operation `test`,",
        "json.patch",
    ),
    (
        "ordering",
        "two arrays, objects or sets, or two texts with quotes, backslashes or controls",
        "gt gte lt lte",
    ),
    ("rounding", "", "abs ceil floor"),
    (
        "versions",
        "a text other than `1.2.3` or `1.2.3-word`, with numbers of at most nine digits,",
        "semver.compare semver.is_valid",
    ),
)
# The argument that, written as a text with a harmless beginning, needs no polyfill.
_PLAIN_ARGUMENTS: Final[Mapping[str, int]] = MappingProxyType(
    {"contains": 1, "endswith": 1, "split": 1, "trim_suffix": 1, "replace": 1}
)

_ENGINE = "use the `opa` engine"
_OTHERWISE = "the embedded engine answers it otherwise than OPA"
_ENVIRONMENT = "policies may not read the environment"
_NETWORK = "policies may not use the network"
_NOT_PURE = "its answer is not a function of the input"
_TOKENS = "Rego need not verify tokens again"
_CLAIMS = "tokens are verified already; read input.meshwarden.claims"
_DEPRECATED = "deprecated in OPA"
# Reason, advice, names.
_REFUSALS: Final[tuple[tuple[str, str, str], ...]] = (
    (_ENVIRONMENT, "pass the value as data", "opa.runtime"),
    (_NETWORK, "pass the value as data", "http.send net.lookup_ip_addr"),
    (_NOT_PURE, "use input.attributes.request.time", "time.now_ns"),
    (_NOT_PURE, _ENGINE, "rand.intn uuid.rfc4122"),
    ("it serves debugging", "remove it before the policy serves", "print trace internal.print"),
    ("OPA's own test runner uses it", "leave it out", "internal.test_case"),
    ("template strings are not supported", "use sprintf or concat", "internal.template_string"),
    (
        _TOKENS,
        _CLAIMS,
        """
     io.jwt.decode io.jwt.decode_verify io.jwt.verify_eddsa io.jwt.verify_es256
     io.jwt.verify_es384 io.jwt.verify_es512 io.jwt.verify_hs256 io.jwt.verify_hs384
     io.jwt.verify_hs512 io.jwt.verify_ps256 io.jwt.verify_ps384 io.jwt.verify_ps512
     io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512
     """,
    ),
    (
        "a policy decides and signs nothing",
        _ENGINE,
        "io.jwt.encode_sign io.jwt.encode_sign_raw providers.aws.sign_req",
    ),
    (
        _OTHERWISE,
        "verify certificates in the CA or the mesh, or " + _ENGINE,
        """
     crypto.parse_private_keys crypto.x509.parse_and_verify_certificates
     crypto.x509.parse_and_verify_certificates_with_options
     crypto.x509.parse_certificate_request crypto.x509.parse_certificates
     crypto.x509.parse_keypair crypto.x509.parse_rsa_private_key
     """,
    ),
    (
        "the embedded engine hashes the escaped spelling of a text",
        _ENGINE,
        """
     crypto.hmac.equal crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256
     crypto.hmac.sha512 crypto.md5 crypto.sha1 crypto.sha256 hex.encode
     """,
    ),
    (_DEPRECATED, "write `true in xs`", "any"),
    (_DEPRECATED, "write `every x in xs { x }`", "all"),
    (_DEPRECATED, "use regex.match", "re_match"),
    (_DEPRECATED, "use net.cidr_contains", "net.cidr_overlap"),
    (_DEPRECATED, "use `-` between sets", "set_diff"),
    (
        _DEPRECATED,
        "test the type with is_string and its like",
        "cast_array cast_boolean cast_null cast_object cast_set cast_string",
    ),
    ("the embedded engine reads `12abc` as 12", "use json.unmarshal, then is_number", "to_number"),
    (
        "the embedded engine is wrong for many small numbers, such as 71 % 7",
        "write `x - (y * floor(x / y))`",
        "rem",
    ),
    ("the embedded engine ends the process on it", _ENGINE, "object.subset"),
    (_OTHERWISE, "compare each member, or " + _ENGINE, "net.cidr_contains_matches"),
    (
        _OTHERWISE,
        _ENGINE,
        """
     base64.is_valid base64url.decode bits.and bits.lsh
     bits.negate bits.or bits.rsh bits.xor format_int glob.quote_meta
     graph.reachable_paths graphql.is_valid graphql.parse graphql.parse_and_verify
     graphql.parse_query graphql.parse_schema graphql.schema_is_valid hex.decode indexof_n
     json.marshal_with_options json.match_schema json.verify_schema net.cidr_expand
     net.cidr_merge numbers.range_step object.union object.union_n
     regex.find_all_string_submatch_n regex.find_n regex.globs_match regex.is_valid
     regex.template_match rego.metadata.chain rego.metadata.rule rego.parse_module
     strings.render_template strings.replace_n strings.split_n time.diff time.format
     time.parse_ns units.parse units.parse_bytes uri.is_valid uri.parse urlquery.decode
     urlquery.decode_object urlquery.encode urlquery.encode_object uuid.parse
     yaml.is_valid yaml.marshal yaml.unmarshal
     """,
    ),
)

_LISTED: Final[dict[str, Any]] = json.loads(
    files("opa_bridge").joinpath("opa_builtins.json").read_text("utf-8")
)
OPA_VERSION: Final[str] = _LISTED["opa"]


def _classified() -> Iterator[tuple[str, Kind, dict[str, Any]]]:
    for name in _OPERATORS | _NATIVE:
        yield name, Kind.NATIVE, {"note": _NOTES.get(name, "")}
    for module, stops_at, names in _POLYFILLS:
        note = f"ends the evaluation at {stops_at.rstrip(',')}" if stops_at else ""
        for name in names.split():
            plain = _PLAIN_ARGUMENTS.get(name)
            yield name, Kind.POLYFILL, {"note": note, "module": module, "plain_argument": plain}
    for reason, advice, names in _REFUSALS:
        for name in names.split():
            yield name, Kind.REFUSED, {"note": reason, "advice": advice}


BUILTINS: Final[Mapping[str, Builtin]] = MappingProxyType(
    {
        name: Builtin(
            name=name, arguments=tuple(_LISTED["builtins"][name]["args"]), kind=kind, **more
        )
        for name, kind, more in sorted(_classified(), key=lambda found: found[0])
    }
)
# How operators are written, by their names.
OPERATORS: Final[Mapping[str, str]] = MappingProxyType(
    {name: seen["infix"] for name, seen in _LISTED["builtins"].items() if "infix" in seen}
)
# Names that a module may use without giving them a value.
USABLE: Final = frozenset(
    name for name, found in BUILTINS.items() if found.kind is not Kind.REFUSED
)
# First parts of OPA's dotted built-ins; the engine aborts on some unknown names in them.
NAMESPACES: Final = frozenset(name.partition(".")[0] for name in BUILTINS if "." in name)
