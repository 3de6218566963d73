"""Files that must not load: texts, bytes and things on disk, with what is said of each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

_KIND = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
_META = "metadata: {name: bad, namespace: shop}\n"
HEAD = _KIND + _META
"""Three lines; what follows begins on line 4."""
GOOD = HEAD.replace("bad", "good") + "spec: {rules: [{}]}\n"
_SOURCE = HEAD + "spec:\n  rules:\n  - from:\n    - source:\n"

TEXTS: dict[str, tuple[str | bytes, str, str]] = {
    # name: (content, where, part of the message)
    "unknown field": (HEAD + "spec:\n  ruels: []", "5:3", "unknown field `spec.ruels`"),
    "unknown field, deep": (
        _SOURCE + "        principal: [a]",
        "8:9",
        "unknown field `spec.rules[0].from[0].source.principal`",
    ),
    "unknown field on top": (HEAD + "sepc: {}", "4:1", "unknown field `sepc`"),
    "wrong type": (HEAD + "spec: {rules: {}}", "4:15", "`spec.rules` must be a list"),
    "wrong type, deep": (
        _SOURCE + "        principals: a",
        "8:21",
        "`spec.rules[0].from[0].source.principals` must be a list, not the text `a`",
    ),
    "number for a text": (
        HEAD + "spec: {rules: [{to: [{operation: {ports: [80]}}]}]}",
        "4:43",
        "`spec.rules[0].to[0].operation.ports[0]` must be text, not the number `80`",
    ),
    "octal number": (
        HEAD + "spec: {rules: [{to: [{operation: {ports: [0777]}}]}]}",
        "4:43",
        "not the number `511`",
    ),
    "boolean for an action": (HEAD + "spec: {action: on}", "4:16", "not the boolean `true`"),
    "boolean for a provider": (
        HEAD + "spec: {action: CUSTOM, provider: {name: no}, rules: [{}]}",
        "4:41",
        "`spec.provider.name` must be text, not the boolean `false`",
    ),
    "boolean for a name": (
        _KIND + "metadata: {name: no, namespace: shop}\nspec: {rules: [{}]}",
        "3:18",
        "`metadata.name` must be text, not the boolean `false`",
    ),
    "text for a boolean": (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n"
        + _META
        + "spec: {jwtRules: [{issuer: a, forwardOriginalToken: 'true'}]}",
        "4:53",
        "must be true or false",
    ),
    "infinity": (
        HEAD + "spec: {rules: [{to: [{operation: {hosts: [.inf]}}]}]}",
        "4:43",
        "`.inf` is a number that JSON has not",
    ),
    "sexagesimal is a text": (
        HEAD + "spec: {rules: [{to: [{operation: {ports: [1:30]}}]}]}",
        "4:43",
        "`1:30`: not a port",
    ),
    "timestamp is a text": (HEAD + "spec: {action: 2026-01-31}", "4:8", "unknown action"),
    "duplicate key": (HEAD + "spec:\n  action: DENY\n  action: ALLOW", "6:3", "`action`"),
    "duplicate key on top": (HEAD + "spec: {}\nspec: {rules: [{}]}", "5:1", "duplicate key"),
    "duplicate key, deep": (
        _SOURCE + "        principals: [a]\n        principals: [b]",
        "9:9",
        "duplicate key `principals`, first written on line 8",
    ),
    "duplicate key, one of them quoted": (
        HEAD + "spec:\n  action: DENY\n  'action': ALLOW",
        "6:3",
        "duplicate key",
    ),
    "duplicate key in a stranger": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}",
        "3:21",
        "duplicate key",
    ),
    "alias bomb": (
        "a: &a [" + "x," * 5000 + "]\nb: [" + "*a," * 1000 + "]",
        "2:8",
        "aliases add more than",
    ),
    "billion laughs": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "\n".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "4:29",
        "aliases add more than",
    ),
    "alias of itself": ("a: &a [*a]", "1:8", "names a node it stands in"),
    "alias of nothing": ("a: *b", "1:4", "the alias `*b` has no anchor"),
    "lists of lists": ("[" * 100_000, "1:66", "nested deeper than 64 levels"),
    "mappings of mappings": ("{a: " * 100_000, "1:261", "nested deeper than 64 levels"),
    "dashes": ("- " * 100_000, "1:131", "nested deeper than 64 levels"),
    "indents": (
        "\n".join(" " * depth + "a:" for depth in range(1000)),
        "66:66",
        "nested deeper than 64 levels",
    ),
    "huge text": (HEAD + "spec: {action: '" + "a" * 2_000_000 + "'}", "4:16", "a text of more"),
    "huge key": (HEAD + "spec: {'" + "a" * 2_000_000 + "': 1}", "4:2000010", "not valid YAML"),
    "many values": (
        _SOURCE + "        principals: [" + "a," * 200_000 + "]",
        "8:200006",
        "more than 100000 nodes in one resource",
    ),
    "pattern too large for RE2": (
        _SOURCE + "        namespaces: [a, " + "a" * 900_000 + "]",
        "8:25",
        "`spec.rules[0].from[0].source.namespaces[1]` is `aaa",
    ),
    "pattern too large for Envoy": (
        HEAD + "spec: {rules: [{when: [{key: source.namespace, values: [" + "a" * 33_000 + "]}]}]}",
        "4:57",
        "too long: Envoy takes no pattern of this size",
    ),
    "suffix too large for Envoy": (
        _SOURCE + "        principals: ['*" + "a" * 33_000 + "']",
        "8:22",
        "too long: Envoy takes no pattern of this size",
    ),
    "trust domain too large for Envoy": (
        _SOURCE + "        trustDomains: ['*" + "a" * 33_000 + "']",
        "8:24",
        "too long: Envoy takes no pattern of this size",
    ),
    "template too large for Envoy": (
        HEAD + "spec: {rules: [{to: [{operation: {paths: ['/{*}/" + "a" * 33_000 + "']}}]}]}",
        "4:43",
        "too long: Envoy takes no pattern of this size",
    ),
    "long account": (
        _SOURCE + "        serviceAccounts: [" + "a" * 900_000 + "]",
        "8:27",
        "longer than 320 characters",
    ),
    "tab": (HEAD + "spec:\n\taction: DENY", "5:1", "not valid YAML"),
    "NUL": (HEAD + "spec: {action: \0}", "4:16", "the character U+0000 is not allowed"),
    "control character": (HEAD + "spec: {action: \x1b}", "4:16", "U+001B is not allowed"),
    "bracket not closed": (HEAD + "spec: {rules: [{}", "5:1", "not valid YAML"),
    "quote not closed": (HEAD + "spec: {action: 'DENY}", "4:22", "not valid YAML"),
    "no colon": (HEAD + "spec\nstatus: {}", "5:1", "not valid YAML"),
    "object of Python": (
        HEAD + "spec: !!python/object/apply:os.system ['true']",
        "4:7",
        "the tag `!!python/object/apply:os.system` is not supported",
    ),
    "tag on a text": (HEAD + "spec: {action: !!binary QUxMT1c=}", "4:16", "tag `!!binary`"),
    "tag on a key": (HEAD + "spec: {!evil action: DENY}", "4:8", "the tag `!evil`"),
    "list as a key": ("? [a]\n: b", "1:3", "a mapping key must be text"),
    "boolean as a key": (
        HEAD + "spec: {selector: {matchLabels: {on: a}}}",
        "4:33",
        "a mapping key must be text, and `on` is a boolean",
    ),
    "null as a key": (
        HEAD + "spec: {selector: {matchLabels: {~: a}}}",
        "4:33",
        "`~` is null",
    ),
    "octal number as a key": (
        HEAD + "spec: {selector: {matchLabels: {010: a}}}",
        "4:33",
        "`010` is a number",
    ),
    "merge key": (HEAD + "spec: {<<: {action: DENY}}", "4:8", "the merge key `<<`"),
    "bad last document": (
        GOOD.replace("good", "one") + "---\n" + HEAD + "spec: {x: 1}",
        "9:8",
        "`spec.x`",
    ),
    "broken last document": (GOOD.replace("good", "one") + "---\nspec: [", "7:1", "not valid YAML"),
    "no apiVersion": ("kind: AuthorizationPolicy\n" + _META, "1:1", "has no `apiVersion`"),
    "apiVersion of another group": (
        HEAD.replace("security.istio.io", "networking.istio.io"),
        "1:1",
        "is unknown",
    ),
    "apiVersion of another version": (
        HEAD.replace("/v1", "/v2"),
        "1:1",
        "`AuthorizationPolicy` of `security.istio.io/v2` is unknown",
    ),
    "apiVersion without a group": (HEAD.replace("security.istio.io/", ""), "1:1", "is unknown"),
    "apiVersion that is a number": (
        HEAD.replace("security.istio.io/v1", "1.0"),
        "1:13",
        "`apiVersion` must be text",
    ),
    "no kind": ("apiVersion: security.istio.io/v1\n" + _META, "1:1", "has no `kind`"),
    "unknown kind": (HEAD.replace("Authorization", "Authz"), "2:1", "unknown kind `AuthzPolicy`"),
    "no metadata": (_KIND + "spec: {}", "1:1", "has no `metadata`"),
    "no name": (_KIND + "metadata: {namespace: shop}", "3:11", "has no `metadata.name`"),
    "name that is none": (HEAD.replace("bad", "'Bad Name'"), "3:12", "`Bad Name` is not a name"),
    "namespace that is none": (HEAD.replace("shop", "a.b"), "3:23", "`a.b` is not a namespace"),
    "document that is a list": ("- a", "1:1", "must be a mapping, not a list"),
    "document that is a text": ("deny everybody", "1:1", "must be a mapping, not the text"),
    "list with null in it": (
        "apiVersion: v1\nkind: List\nitems: [null]",
        "3:9",
        "must be a mapping, not null",
    ),
    "list without items": ("apiVersion: v1\nkind: List", "1:1", "a `List` without `items`"),
    "typed list with a bad item": (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicyList\nitems:\n- "
        + HEAD.replace("\n", "\n  ")
        + "spec: {x: 1}",
        "7:10",
        "unknown field `spec.x`",
    ),
    "given twice": (GOOD, "2:1", "AuthorizationPolicy `shop/good` is defined twice"),
    "not UTF-8": (HEAD.encode() + b"# \xff\n", "", "not UTF-8 at byte"),
    "UTF-16": (GOOD.encode("utf-16"), "", "not UTF-8 at byte 0"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-be"), "1:1", "U+0000 is not allowed"),
    "half a character": (GOOD.encode() + b"# \xc3", "", "not UTF-8"),
    "surrogate": (GOOD.encode() + b"# \xed\xa0\x80", "", "not UTF-8"),
    "empty": (b"", "", "the file is empty"),
    "blank": (b" \n\n", "", "the file is empty"),
}
"""Contents of a file and what its one error says."""


def _sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _socket(path: Path) -> None:
    # WHY by a relative name: a socket's path may be at most 107 bytes long.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def _loop(path: Path) -> None:
    folder = path.with_suffix("")
    folder.mkdir()
    (folder / "one").symlink_to(folder)
    (folder / "two").symlink_to(folder)


THINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    # name: (how to make it, part of the message)
    "50 MB": (_sparse(50_000_000), "larger than 16 MiB"),
    "more than memory": (_sparse(1 << 40), "larger than 16 MiB"),
    "pipe": (os.mkfifo, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "socket": (_socket, "cannot be read"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic"),
    "links to the folder above": (_loop, "again"),
    "link to the whole folder": (lambda path: path.with_suffix("").symlink_to("."), "again"),
}
"""Things in a folder that are no policy files."""
