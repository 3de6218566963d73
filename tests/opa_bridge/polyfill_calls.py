"""Arguments for calls of built-ins: ordinary ones, edges, and what no honest client sends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Arguments = list[Any]
DAY = 86_400 * 10**9
TEXTS = ["a", "b", "ab", "/", "n", ".", "-", "abc", "a/b/c", "admin", "X", "1", "12", "", "a.b"]
HOSTILE = [
    "\n",
    "a\nb",
    '"',
    'a"b',
    "\\",
    "\\n",
    "a\\b",
    "é",
    "\t",
    "\x01",
    "u0001",
    "<&>",
    "\u2028",
]
UNITS = ["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w", "y"]


def text(rng: random.Random) -> str:
    """Return a short text, one in three hostile."""
    if rng.random() < 0.3:
        return rng.choice(HOSTILE)
    made = "".join(rng.choice("abn/.-1") for _ in range(rng.randrange(8)))
    return rng.choice([*TEXTS, made])


def number(rng: random.Random) -> int | float:
    """Return a number as policies hold them."""
    return rng.choice([0, 1, 2, 8, 9, 10, 32, -1, -7, 1.5, -2.5, rng.randrange(-(2**40), 2**40)])


def ipv4(rng: random.Random) -> str:
    """Return an IPv4 address, rarely a broken one."""
    parts = [str(rng.choice([0, 1, 10, 127, 192, 255, rng.randrange(256)])) for _ in range(4)]
    if rng.random() < 0.05:
        parts[rng.randrange(4)] = rng.choice(["256", "01", "00", "", "-1", "+1", "1e", " 1"])
    if rng.random() < 0.02:
        parts.append("1")
    return ".".join(parts)


def ipv6(rng: random.Random) -> str:
    """Return an IPv6 address: compressed, mapped, embedded, rarely broken."""
    if rng.random() < 0.25:
        return rng.choice(["::ffff:", "::", "64:ff9b::", "0:0:0:0:0:ffff:"]) + ipv4(rng)
    known = ["0", "0", "ffff", "FFFF", "1", "00a0", "fffe"]
    groups = [rng.choice([*known, f"{rng.randrange(65536):x}"]) for _ in range(8)]
    if rng.random() < 0.05:
        groups[rng.randrange(8)] = rng.choice(["12345", "g", ""])
    if rng.random() < 0.5:
        begin = rng.randrange(8)
        end = rng.randrange(begin + (rng.random() < 0.9), 9)
        return ":".join(groups[:begin]) + "::" + ":".join(groups[end:])
    return ":".join(groups) + rng.choice([""] * 20 + ["%eth0", ":1"])


def address(rng: random.Random) -> str:
    """Return an address or an edge of one."""
    edges = ["", "::", "::1", "0.0.0.0", "255.255.255.255", "::ffff:0:0", ":::", "1::2::3", "é"]
    return rng.choice([ipv4, ipv6])(rng) if rng.random() < 0.95 else rng.choice(edges)


def cidr(rng: random.Random) -> str:
    """Return a block, host bits and all, rarely a broken one."""
    first = address(rng)
    size = str(rng.randrange(129 if ":" in first else 33))
    if rng.random() < 0.06:
        size = rng.choice(["", "33", "129", "-1", "+8", "08", "000000000000000008", "1e1", "٣"])
    return f"{first}/{size}"


def two_blocks(rng: random.Random) -> Arguments:
    """Return a block and what may lie inside it."""
    block = cidr(rng)
    first = block.partition("/")[0]
    near = [first, f"{first}/{rng.randrange(33)}", f"{first}/{rng.randrange(129)}"]
    if ":" not in first:
        near.append(f"::ffff:{first}/{rng.randrange(129)}")
    return [block, rng.choice([*near, cidr(rng), address(rng)])]


def moment(rng: random.Random) -> int:
    """Return nanoseconds since 1970: everywhere in 64 bits, at midnights and at the ends."""
    edges = [0, 1, -1, 2**63 - 1, -(2**63), DAY, -DAY, DAY - 1, -DAY - 1, 951_782_400 * 10**9]
    midnight = rng.randrange(-106_751, 106_751) * DAY + rng.choice([0, -1, 1])
    anywhere = rng.randrange(-(2**63), 2**63)
    return rng.choice([anywhere, anywhere, midnight, rng.randrange(2 * 10**18), rng.choice(edges)])


def time_operand(rng: random.Random) -> Any:
    """Return a moment in one of its forms, rarely what is none."""
    if rng.random() < 0.06:
        return rng.choice([1.5, "0", None, True, [], [5, 5], ["x", "UTC"], {}, 3.0, 1e18, 1e25])
    zoned = [moment(rng), rng.choice(["UTC", ""])]
    return rng.choice([moment(rng), moment(rng), zoned, [moment(rng)]])


def zoned_operand(rng: random.Random) -> Any:
    """Return a moment since 2000 in a zone with a history."""
    zones = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]
    return [rng.randrange(946_684_800 * 10**9, 2**63), rng.choice(zones)]


def clock_call(rng: random.Random) -> Arguments:
    """Return the argument of time.clock, time.date and time.weekday."""
    return [zoned_operand(rng) if rng.random() < 0.2 else time_operand(rng)]


def add_date_call(rng: random.Random) -> Arguments:
    """Return a moment and three steps, small, large and broken."""

    def step() -> Any:
        if rng.random() < 0.02:
            return rng.choice([1.5, "1", None, 2.0])
        return rng.choice([0, 1, -1, 12, 31, rng.randrange(-40, 40), rng.randrange(-600, 600)])

    far = [rng.randrange(-(10**9), 10**9), 0, 0] if rng.random() < 0.05 else None
    return [time_operand(rng), *(far or [step(), step(), step()])]


def rfc3339(rng: random.Random) -> Arguments:
    """Return a time stamp: leap days, fractions, offsets, ends of the range, broken ones."""
    odd = rng.random() < 0.25
    year = rng.choice([2000, 1900, 2024, 1677, 2262, rng.randrange(1678, 2262)])
    month = rng.randrange(14) if odd else rng.choice([2, rng.randrange(1, 13)])
    day = rng.randrange(33) if odd else rng.randrange(1, 29)
    hour, minute, second = rng.randrange(24), rng.randrange(60), rng.randrange(60)
    if odd and rng.random() < 0.2:
        hour, minute, second = 24, rng.choice([59, 60]), rng.choice([59, 60, 61])
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 3, 6, 9, 10, 20])))
    fraction = rng.choice(["", "", f".{digits}", f",{digits}"])
    hours, minutes = rng.randrange(26 if odd else 15), rng.randrange(62 if odd else 60)
    offset = f"{rng.choice('+-')}{hours:02}:{minutes:02}"
    zone = rng.choice(["Z", "Z", offset])
    whole = rng.choice([f"{hour:02}", f"{hour:02}", str(hour)])
    made = f"{year:04}-{month:02}-{day:02}T{whole}:{minute:02}:{second:02}{fraction}{zone}"
    if rng.random() < 0.06:
        made = rng.choice(
            [made.replace("T", "t"), made.lower(), made.replace("T", " "), f" {made}", f"{made}\n"]
            + ["1677-09-21T00:12:43.145224192Z", "1677-09-21T00:12:43.145224191Z", "", "é"]
            + ["2262-04-11T23:47:16.854775807Z", "2262-04-11T23:47:16.854775808Z", made[:-1]]
            + ["2020-01-01T00:00:00+0100", "2020-01-01T00:00:00.Z", "２020-01-01T00:00:00Z"]
        )
    return [made]


def duration(rng: random.Random) -> Arguments:
    """Return a duration: every unit, fractions, signs, overflow, broken ones."""
    if rng.random() < 0.06:
        edges = ["0", "-0", "+0", "", "-", ".s", "0.", "1", "1e3s", "1s ", "--1s", "1S", "1mo", "é"]
        ends = ["9223372036854775807ns", "9223372036854775808ns", "-9223372036854775808ns"]
        return [rng.choice([*edges, *ends, "2562048h", "-106751d23h47m16.854775808s", "1d-1h", 5])]

    def piece() -> str:
        unit = rng.choice(UNITS)
        whole = rng.choice(["0", "007", str(rng.randrange(100)), str(rng.randrange(10**6))])
        longest = {"ns": 0, "us": 3, "µs": 3, "μs": 3, "ms": 6, "s": 9, "m": 10, "h": 11}.get(
            unit, 0
        )
        decimals = "".join(rng.choice("0123456789") for _ in range(rng.randrange(longest + 1)))
        if unit in ("d", "w", "y"):
            return rng.choice([whole, whole, f"{whole}.5", f"{whole}.25"]) + unit
        if rng.random() < 0.03:
            decimals += "123456789"
        return rng.choice([whole, f"{whole}.{decimals}"]) + unit

    sign = rng.choice(["", "", "-", "+"])
    return [sign + "".join(piece() for _ in range(rng.choice([1, 1, 2, 3])))]


def sprintf_call(rng: random.Random) -> Arguments:
    """Return a format and its values, rarely too many or too few."""
    pieces = [rng.choice(["%s", "%d", "%v", "a ", ",", "é", '"']) for _ in range(rng.randrange(5))]
    values: list[Any] = [
        {"%s": text(rng), "%d": rng.randrange(-(2**31) + 1, 2**31)}.get(
            each, rng.choice([text(rng), True, False, rng.randrange(10**6)])
        )
        for each in pieces
        if each.startswith("%")
    ]
    return ["".join(pieces), values + [1] * (rng.random() < 0.03)]


def marshal_call(rng: random.Random) -> Arguments:
    """Return a value as denials carry them."""
    scalar = rng.choice([text(rng), None, True, rng.randrange(-(10**9), 10**9)])
    return [rng.choice([scalar, {text(rng): scalar, "reason": text(rng)}, [scalar]])]


def members(rng: random.Random) -> Arguments:
    """Return a list of numbers, of texts, or mixed."""
    made: Callable[[random.Random], Any] = rng.choice([number, number, text])
    found: list[Any] = [made(rng) for _ in range(rng.randrange(7))]
    return [found + [None] * (rng.random() < 0.03)]


def any_two(rng: random.Random) -> Arguments:
    """Return two values of any type, often of one."""

    def one() -> Any:
        made = rng.choice([number, text, small_number])(rng)
        return rng.choice([made, made, made, made, None, True, False, [made], {"a": made}])

    return [one(), one()]


def paths_call(rng: random.Random) -> Arguments:
    """Return a document and paths into it, some of which lead elsewhere."""
    leaf = rng.choice([1, "x", None, [1, 2], {"a": 1, "b": {"a": 2}}])
    document = rng.choice([{"a": leaf, "b": {"a": leaf, "c d": 1}, "ab": 3}] * 9 + [leaf])
    known = ["a", "b", "b/a", "b/c d", "ab", "a/b/a", ["a"], ["b", "a"], "x/y", ["b", "x"]]
    odd = ["/a", "a/", "a//b", "a/0", ["a", 0], "", [], "~0", 5, "b/a~1b", "é"]
    return [document, [rng.choice(known * 5 + odd) for _ in range(rng.randrange(4))]]


def patch_call(rng: random.Random) -> Arguments:
    """Return a document and patches, some of which do not fit."""
    leaf = rng.choice([1, "x", None, [1, 2], {"a": 1, "b": {"a": 2}}])
    document = rng.choice([{"a": leaf, "b": {"a": leaf}, "ab": 3}] * 9 + [leaf])
    paths = ["/a", "/b", "/b/a", "/ab", "/x", "/a/b/a", "a", "/b/x"]

    def patch() -> Any:
        kind = rng.choice(["add", "add", "remove", "replace", "test"])
        return {"op": kind, "path": rng.choice(paths), "value": rng.choice([1, "x", leaf])}

    return [document, [patch() for _ in range(rng.randrange(3))]]


def slice_call(rng: random.Random) -> Arguments:
    """Return an array, rarely none, and two ends."""
    found = rng.choice([members(rng)[0]] * 9 + ["abc", {"a": 1}, None])
    return [found, *(rng.choice([0, 1, 2, 3, 5, -1, 1.5, 2.0]) for _ in range(2))]


def version(rng: random.Random) -> Any:
    """Return a version, one in twenty with too little, too much or no version at all."""
    if rng.random() < 0.05:
        odd = ["v1.2.3", "01.2.3", "1.2.3-", "1.2.3+", "1.2", "1.2.3-01", "", "1.2.3+b", 5, None]
        return rng.choice(odd)
    numbers = ".".join(str(rng.choice([0, 1, 2, 9, 10, 11, 100, 999_999_999])) for _ in range(3))
    return numbers + rng.choice(["", "", "-alpha", "-beta", "-a", "-b", "-rc"])


def small_number(rng: random.Random) -> int | float | str:
    """Return a number around zero, where signs get lost; rarely none."""
    near = rng.choice([0, 0.5, -0.5, -1.0, 1.0, -0.0, 1e-7, -1e-7, 1 / 3, -1 / 3])
    return rng.choice([near, rng.uniform(-3, 3), rng.uniform(-1e6, 1e6), number(rng)] * 9 + ["x"])


def concat_call(rng: random.Random) -> Arguments:
    """Return a delimiter and a list of texts, rarely of other things."""
    found: list[Any] = [text(rng) for _ in range(rng.randrange(5))]
    return [rng.choice([",", "", text(rng)]), found + [1] * (rng.random() < 0.03)]


def numbers_only(rng: random.Random) -> Arguments:
    """Return whole numbers: OPA and the engine round fractions otherwise."""
    found: list[Any] = [rng.randrange(-50, 50) for _ in range(rng.randrange(6))]
    return [found + ["x"] * (rng.random() < 0.1)]


def texts(count: int) -> Callable[[random.Random], Arguments]:
    """Return what makes so many texts; the second one is often a part of the first."""

    def make(rng: random.Random) -> Arguments:
        found = [text(rng) for _ in range(count)]
        if count > 1 and rng.random() < 0.4:
            found[0] = rng.choice([found[1] + found[0], found[0] + found[1], found[0]])
        return list(found)

    return make


def pattern_call(rng: random.Random) -> Arguments:
    """Return a pattern and a text."""
    patterns = ["^/", "a+", "[a-z]+", r"\d", r"^\w+$", "a|b", "(", ".", r"\.", "^a.b$", "n$", "x*"]
    return [rng.choice(patterns), texts(1)(rng)[0]]


def glob_call(rng: random.Random) -> Arguments:
    """Return a glob, its delimiters and a text."""
    globs = ["*", "**", "a*", "*.b", "?", "[a-c]", "{a,b}", "a/**", "*/b", "admin", "a.*"]
    return [
        rng.choice(globs),
        rng.choice([[], ["."], ["/"], None, [""], ["ab"], ["/", "."], "/", [1]]),
        text(rng),
    ]


def substring_call(rng: random.Random) -> Arguments:
    """Return a text, an offset and a length."""
    return [text(rng), rng.choice([0, 1, 2, 5, -1, 1.5]), rng.choice([-1, 0, 1, 2, 9, 2.0])]


def base64_call(rng: random.Random) -> Arguments:
    """Return a text in base64, sometimes damaged."""
    import base64

    made = base64.b64encode("".join(text(rng) for _ in range(3)).encode()).decode()
    return [rng.choice([made, made, made.rstrip("="), made[1:], made + "="])]


# The nine that Envoy users miss first; every other polyfill stands below.
REQUIRED: dict[str, Callable[[random.Random], Arguments]] = {
    "net.cidr_contains": two_blocks,
    "net.cidr_intersects": two_blocks,
    "net.cidr_is_valid": lambda rng: [cidr(rng) if rng.random() < 0.99 else rng.choice([5, None])],
    "time.add_date": add_date_call,
    "time.clock": clock_call,
    "time.date": clock_call,
    "time.parse_duration_ns": duration,
    "time.parse_rfc3339_ns": rfc3339,
    "time.weekday": clock_call,
}
OTHERS: dict[str, Callable[[random.Random], Arguments]] = {
    "abs": lambda rng: [rng.choice([number(rng), -number(rng), 1e-7, -1e-7, -0.123456789, "x"])],
    "array.slice": slice_call,
    "base64.decode": base64_call,
    "base64.encode": texts(1),
    "base64url.encode": texts(1),
    "base64url.encode_no_pad": texts(1),
    "ceil": lambda rng: [small_number(rng)],
    "concat": concat_call,
    "contains": texts(2),
    "count": lambda rng: rng.choice([texts(1), members])(rng),
    "endswith": texts(2),
    "floor": lambda rng: [small_number(rng)],
    "glob.match": glob_call,
    "gt": any_two,
    "gte": any_two,
    "indexof": texts(2),
    "json.filter": paths_call,
    "json.marshal": marshal_call,
    "json.patch": patch_call,
    "json.remove": paths_call,
    "lower": texts(1),
    "lt": any_two,
    "lte": any_two,
    "max": members,
    "min": members,
    "product": numbers_only,
    "regex.match": pattern_call,
    "regex.replace": lambda rng: [text(rng), pattern_call(rng)[0], text(rng)],
    "regex.split": pattern_call,
    "replace": texts(3),
    "semver.compare": lambda rng: [version(rng), version(rng)],
    "semver.is_valid": lambda rng: [version(rng)],
    "sort": members,
    "split": texts(2),
    "sprintf": sprintf_call,
    "strings.any_suffix_match": lambda rng: [
        [text(rng), text(rng)],
        rng.choice([text(rng), [text(rng)]]),
    ],
    "strings.count": texts(2),
    "strings.reverse": texts(1),
    "substring": substring_call,
    "sum": numbers_only,
    "trim": texts(2),
    "trim_left": texts(2),
    "trim_right": texts(2),
    "trim_space": texts(1),
    "trim_suffix": texts(2),
    "upper": texts(1),
}
