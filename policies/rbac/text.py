"""Policy texts as Envoy StringMatchers, and the matchers that are built on one.

Only the first and the last character of a value are looked at; a `*` anywhere
else is an ordinary character. The exceptions (namespaces, trust domains) become
regular expressions.

Spec: envoy.type.matcher.v3.StringMatcher; envoy.config.route.v3.HeaderMatcher.
"""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]
"""A protobuf message in its JSON mapping: fields at their default are left out."""

_SPIFFE = "spiffe://"
# RE2's special characters, and no more: what is escaped shows in the compiled policy.
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_TEMPLATE_TYPE = (
    "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
)


def exact(text: str) -> Json:
    """Return the matcher of one text; the empty text counts as well."""
    return {"exact": text}


def prefix(text: str) -> Json:
    """Return the matcher of texts that begin so."""
    return {"prefix": text}


def suffix(text: str) -> Json:
    """Return the matcher of texts that end so."""
    return {"suffix": text}


def regex(pattern: str) -> Json:
    """Return the matcher of texts that an RE2 pattern matches as a whole."""
    return {"safeRegex": {"regex": pattern}}


def any_text() -> Json:
    """Return the matcher of every text but the empty one: `*` in most places."""
    return regex(".+")


def text_match(value: str) -> Json:
    """Return the matcher of paths, SNI, claims and metadata.

    >>> text_match("/a/*"), text_match("*/b"), text_match("*")
    ({'prefix': '/a/'}, {'suffix': '/b'}, {'safeRegex': {'regex': '.+'}})
    """
    if value == "*":
        return any_text()
    if value.startswith("*"):
        return suffix(value[1:])
    return prefix(value[:-1]) if value.endswith("*") else exact(value)


def header_match(name: str, value: str) -> Json:
    """Return the HeaderMatcher of a condition; `*` is presence, even of an empty value."""
    if value == "*":
        return {"name": name, "presentMatch": True}
    return {"name": name, "stringMatch": text_match(value)}


def host_match(value: str) -> Json:
    """Return the HeaderMatcher of a host, blind to case."""
    match = header_match(":authority", value)
    if "stringMatch" in match:
        match["stringMatch"] = {**match["stringMatch"], "ignoreCase": True}
    return match


def path_template(value: str) -> Json:
    """Return the extension that matches a path template, in Envoy's spelling of operators."""
    template = value.replace("{*}", "*").replace("{**}", "**")
    return {
        "name": "uri-template",
        "typedConfig": {"@type": _TEMPLATE_TYPE, "pathTemplate": template},
    }


def principal_match(value: str) -> Json:
    """Return the matcher of a peer's identity, which carries `spiffe://` while policies do not."""
    if value == "*":
        return any_text()
    if value.startswith("*"):
        return regex(f"{_SPIFFE}.*{_quoted(value[1:])}")
    return text_match(_SPIFFE + value)


def namespace_match(value: str) -> Json:
    """Return the matcher of the namespace within an identity; every `*` crosses `/`."""
    inner = ".*".join(_quoted(piece) for piece in value.split("*"))
    return regex(f".*/ns/{inner}/.*")


def service_account_match(value: str, policy_namespace: str) -> Json:
    """Return the matcher of `<account>` (of the policy's namespace) or `<namespace>/<account>`."""
    namespace, slash, account = value.partition("/")
    if not slash:
        namespace, account = policy_namespace, value
    return regex(f"{_SPIFFE}.+/ns/{_quoted(namespace)}/(.+/|)sa/{_quoted(account)}(/.+)?")


def trust_domain_match(value: str) -> Json:
    """Return the matcher of an identity's trust domain; its one `*` does not cross `/`."""
    if value == "*":
        return prefix(_SPIFFE)
    if "*" not in value:
        return prefix(f"{_SPIFFE}{value}/")
    left, _, right = value.partition("*")
    return regex(f"{_SPIFFE}{_quoted(left)}[^/]*{_quoted(right)}/.*")


def _quoted(text: str) -> str:
    return _SPECIAL.sub(lambda found: "\\" + found.group(), text)
