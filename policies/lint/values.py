"""Rules about single values: patterns that do not mean what they look like."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policies.diagnostic import shown
from policies.http_path import normalize_path
from policies.lint.facts import Facts
from policies.lint.finding import Spot
from policies.lint.registry import rule
from policies.lint.spots import spot_at
from policies.mesh import Mesh, PathNormalization
from policies.model import Action
from policies.path_template import is_template

_REGEX = re.compile(r"^\^|\$$|\.\*|\\|\[[^\]]+\]|\([^)]*\|")
_IDENTITY = re.compile(r"[a-z0-9._-]+/ns/[^/]+/sa/[^/]+", re.ASCII)
_UNMERGED = frozenset(
    {PathNormalization.NONE, PathNormalization.BASE, PathNormalization.MERGE_SLASHES}
)


@rule("MW0203")
def looks_like_regex(facts: Facts) -> Iterator[Spot]:
    """A value with the marks of a regular expression; Istio compares it as text."""
    for each in facts.values("operation.paths", "operation.hosts", "source.principal"):
        text = each.value.text
        if _REGEX.search(text) and not is_template(text):
            yield spot_at(each, f"`{shown(text)}` looks like a regular expression and is compared"
                        " as text")  # fmt: skip


@rule("MW0206")
def path_not_normal(facts: Facts) -> Iterator[Spot]:
    """A path that normalization would change: no request that is matched has it."""
    mesh = facts.mesh
    for each in facts.values("operation.paths"):
        normal = normal_path(each.value.text, mesh)
        if normal != each.value.text:
            yield spot_at(each, f"`{shown(each.value.text)}` never matches: requests are normalized"
                        " before", f"write `{shown(normal)}`")  # fmt: skip


def normal_path(text: str, mesh: Mesh) -> str:
    """Return a path of a policy as normalized requests have it; the same where that is unsure."""
    level = mesh.path_normalization
    if level is PathNormalization.AS_IS:
        # "BASE": the default of Istio, in front of us.
        level = PathNormalization.BASE
    if level is PathNormalization.NONE or not text.startswith("/"):
        return text
    if any(mark in text[:-1] for mark in "?#{*"):
        return text
    normal = normalize_path(text.removesuffix("*"), level)
    star = "*" if text.endswith("*") else ""
    return text if normal is None else f"{normal}{star}"


@rule("MW0207")
def prefix_without_boundary(facts: Facts) -> Iterator[Spot]:
    """A path prefix that ends inside a segment."""
    for each in facts.values("operation.paths"):
        text = each.value.text
        if text[0] == "/" and text[-1] == "*" and text[-2].isalnum():
            head = shown(text[:-1])
            yield spot_at(each, f"`{shown(text)}` also matches `{head}x`",
                        f"write `{head}` and `{head}/*`")  # fmt: skip


@rule("MW0209")
def path_spellings(facts: Facts) -> Iterator[Spot]:
    """A path that excludes, in a mesh that leaves other spellings of it as they are."""
    level = facts.mesh.path_normalization
    for each in facts.values("operation.paths"):
        excludes = each.is_negated is (each.policy.action is Action.ALLOW)
        if level in _UNMERGED and excludes and each.policy.action is not Action.AUDIT:
            yield spot_at(each, f"`{shown(each.value.text)}` can be walked around: paths are"
                        f" normalized as {level.upper()} only")  # fmt: skip


@rule("MW0214")
def suffix_without_dot(facts: Facts) -> Iterator[Spot]:
    """A host suffix that begins inside a label."""
    for each in facts.values("operation.hosts"):
        text = each.value.text
        if len(text) > 1 and text[0] == "*" and text[1].isalnum():
            tail = shown(text[1:])
            yield spot_at(each, f"`{shown(text)}` also matches `evil{tail}`",
                        f"write `{tail}` and `*.{tail}`")  # fmt: skip


@rule("MW0216")
def host_with_more(facts: Facts) -> Iterator[Spot]:
    """A host with a scheme, a path or a space."""
    for each in facts.values("operation.hosts"):
        text = each.value.text
        if "/" in text or " " in text:
            yield spot_at(each, f"`{shown(text)}` never matches: it is more than a host",
                        f"write `{shown(bare_host(text))}`")  # fmt: skip


def bare_host(text: str) -> str:
    """Return the host in a text that is more than one."""
    return (text.partition("://")[2] or text).strip().partition("/")[0]


@rule("MW0219")
def principal_shape(facts: Facts) -> Iterator[Spot]:
    """An exact principal that is nearly `<trust domain>/ns/<namespace>/sa/<account>`."""
    for each in facts.values("source.principal"):
        text = each.value.text
        if "*" in text or text.startswith("spiffe://") or _IDENTITY.fullmatch(text):
            continue
        # WHY not all others: SPIFFE allows any path, and other issuers use it.
        domain, _, rest = text.partition("/")
        meant = not rest or domain != domain.lower() or f"/{rest}".count("/ns/") != 0
        if meant or "/sa/" in f"/{rest}":
            yield spot_at(each, f"`{shown(text)}` is not"
                        " `<trust domain>/ns/<namespace>/sa/<account>`")  # fmt: skip


@rule("MW0611")
def default_account(facts: Facts) -> Iterator[Spot]:
    """An ALLOW for a namespace's default service account."""
    for each in facts.values("source.principal", "source.serviceAccount"):
        text = each.value.text
        is_default = text.endswith("/sa/default") or (
            each.clause.key == "source.serviceAccount" and text.rpartition("/")[2] == "default"
        )
        if is_default and each.policy.action is Action.ALLOW and not each.is_negated:
            yield spot_at(each, f"`{shown(text)}` is every workload that has no account of its own")


@rule("MW0612")
def principal_prefix(facts: Facts) -> Iterator[Spot]:
    """A principal prefix that ends inside a name."""
    for each in facts.values("source.principal"):
        text = each.value.text
        is_inside = text[-1] == "*" and len(text) > 1 and text[-2] not in "/*"
        if is_inside and "*" not in text[:-1]:
            head = shown(text[:-1])
            yield spot_at(each, f"`{shown(text)}` also matches `{head}-evil`",
                        f"write `{head}/*`")  # fmt: skip
