"""Reads what all resources share: metadata, selector and targetRefs.

Spec: Kubernetes object names (RFC 1123), Istio WorkloadSelector and PolicyTargetReference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from sys import intern

from policies.diagnostic import shown
from policies.documents import YamlMap, YamlScalar
from policies.fields import Fields
from policies.model import Attachment, Metadata, selecting

_DEFAULT_NAMESPACE = "default"
_NO_ANNOTATIONS: Mapping[str, str] = {}
_NAME_MAX = 253
_LABEL_MAX = 63
_LABELS_MAX = 4096
_REFS_MAX = 16
_REF_LIMITS = {"group": 253, "kind": 63, "name": 253}
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL, re.ASCII)
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)
_KIND = re.compile(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?", re.ASCII)
FIXED_CODES = frozenset({"target-refs", "empty-selector"})
"""Codes of warnings that are the same whatever names and labels there are."""
# Istio's own marks on resources that it makes; its webhook takes them from nobody.
_INTERNAL = "internal.istio.io/"
_REVISION = "istio.io/rev"
# "Supported targets": the version does not count, and the core group may be written out.
_TARGETS = {
    ("", "Service"), ("core", "Service"), ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"), ("gateway.networking.k8s.io", "GatewayClass"),
}  # fmt: skip
_TARGETS_HELP = (
    "known: Service, ServiceEntry of `networking.istio.io`, Gateway and GatewayClass of"
    " `gateway.networking.k8s.io`"
)


def read_metadata(fields: Fields) -> Metadata | None:
    """Return the metadata, or None when there is no usable name."""
    # Kubernetes keeps many keys here (uid, managedFields, ...); only ours are read.
    meta = fields.child("metadata")
    if meta is None:
        if not fields.has("metadata"):
            fields.error("no-name", "the resource has no `metadata`")
        return None
    name = meta.text("name")
    if meta.lacks("name"):
        meta.error("no-name", "the resource has no `metadata.name`", "name")
    if not name:
        return None
    namespace = meta.text("namespace") or _DEFAULT_NAMESPACE
    if not meta.has("namespace"):
        meta.warning(
            "no-namespace",
            f"`{shown(name)}` names no namespace and is read as in `{_DEFAULT_NAMESPACE}`",
        )
    if not is_name(name):
        meta.error(
            "bad-name", f"`{shown(name)}` is not a name", "name",
            "lower-case letters, digits, `-` and `.`, at most 253",
        )  # fmt: skip
    if not is_namespace(namespace):
        meta.error(
            "bad-name", f"`{shown(namespace)}` is not a namespace", "namespace",
            f"lower-case letters, digits and `-`, at most {_LABEL_MAX}",
        )  # fmt: skip
    annotations = meta.text_map("annotations")
    written = meta.child("annotations")
    for key in annotations:
        if key.startswith(_INTERNAL) and written is not None:
            written.error(
                "internal-annotation", f"the annotation `{shown(key)}` is Istio's own", key,
                "remove it",
            )  # fmt: skip
    _warn_of_revision(meta)
    return Metadata(
        namespace=intern(namespace),
        name=name,
        annotations=annotations or _NO_ANNOTATIONS,
        created_at=_read_created(meta),
        location=fields.place("kind"),
    )


def _warn_of_revision(meta: Fields) -> None:
    """Tell of a resource that only the control plane of one revision would take."""
    labels = meta.node.entries.get("labels")
    node = labels.entries.get(_REVISION) if isinstance(labels, YamlMap) else None
    if isinstance(node, YamlScalar) and node.value not in (None, ""):
        meta.findings.warning(
            "revision", f"it counts here for every revision of Istio, not for"
            f" `{shown(str(node.value))}` alone", node.location,
            "leave out what is for other revisions than yours",
            path=f"metadata.labels.{_REVISION}",
        )  # fmt: skip


def is_name(text: str) -> bool:
    """Whether a resource may be named so."""
    return len(text) <= _NAME_MAX and bool(_DNS_NAME.fullmatch(text))


def is_namespace(text: str) -> bool:
    """Whether a namespace may be named so."""
    return len(text) <= _LABEL_MAX and bool(_DNS_LABEL.fullmatch(text))


def _read_created(meta: Fields) -> str:
    """Return the creation time in Kubernetes' one form, so that times compare as texts."""
    text = meta.text("creationTimestamp")
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        meta.error(
            "bad-timestamp", f"`{shown(text)}` is not an RFC 3339 time", "creationTimestamp",
            "leave it out, or write it like `2026-01-31T12:00:00Z`",
        )  # fmt: skip
        return ""


def read_attachment(spec: Fields | None) -> Attachment:
    """Return what the resource applies to."""
    if spec is None:
        return selecting(None)
    forms = [key for key in ("selector", "targetRef", "targetRefs") if spec.has(key)]
    if len(forms) > 1:
        spec.error(
            "two-attachments", f"only one of `{'` and `'.join(forms)}` may be set", forms[1],
            "keep one",
        )  # fmt: skip
    selector, targets = _selector(spec), _target_refs(spec)
    if targets:
        return Attachment(selector=selector, target_refs=targets)
    return selecting(None if selector is None else tuple(selector.items()))


def _selector(spec: Fields) -> dict[str, str] | None:
    selector = spec.child("selector", ("matchLabels",))
    if selector is None:
        return None
    labels = selector.text_map("matchLabels")
    if selector.misses("matchLabels"):
        selector.warning(
            "empty-selector",
            f"`{selector.path}` has no labels and selects every workload of its scope",
            "", "leave it out to say so; in ambient mode it selects none",
        )  # fmt: skip
    if len(labels) > _LABELS_MAX:
        selector.error(
            "bad-selector", f"more than {_LABELS_MAX} labels", "matchLabels",
            "no workload has so many",
        )  # fmt: skip
    match_labels = selector.child("matchLabels")
    assert match_labels is not None or not labels
    for key, value in labels.items():
        assert match_labels is not None
        if problem := label_problem(key, value):
            match_labels.error("bad-selector", problem[0], key, problem[1])
    return labels


def label_problem(key: str, value: str) -> tuple[str, str] | None:
    """Return why no selector may ask for a label, and what helps; None where one may."""
    if not key or "*" in key + value:
        return (
            f"the label `{shown(key)}: {shown(value)}` is not allowed",
            "labels are compared exactly; `*` is no wildcard here",
        )
    if len(value) > _LABEL_MAX:
        return (
            f"the value is longer than {_LABEL_MAX} characters",
            "Kubernetes takes no longer label, so no workload has it",
        )
    return None


def _target_refs(spec: Fields) -> tuple[dict[str, str], ...]:
    known = ("group", "kind", "name", "namespace")
    single = spec.child("targetRef", known)
    refs = [single] if single else list(spec.children("targetRefs", known))
    if len(refs) > _REFS_MAX:
        spec.error("bad-target", f"more than {_REFS_MAX} targets", "targetRefs", "split the policy")
    targets = tuple(_read_target(ref) for ref in refs)
    if targets:
        key = "targetRef" if single else "targetRefs"
        spec.warning(
            "target-refs", f"`spec.{key}` applies to gateways and waypoints, never to a sidecar",
            key, "use `selector` for workloads with a sidecar",
        )  # fmt: skip
    return targets


def _read_target(ref: Fields) -> dict[str, str]:
    target = {key: ref.text(key) for key in ("group", "kind", "name", "namespace") if ref.has(key)}
    group, kind = target.get("group", ""), target.get("kind", "")
    missing = [key for key in ("kind", "name") if ref.misses(key)]
    for key in missing:
        ref.error("bad-target", f"`{ref.at(key)}` is missing", key, "a target has both, by name")
    # "Cross namespace referencing is not supported", not even one's own namespace.
    if target.get("namespace"):
        ref.error(
            "bad-target", f"`{ref.at('namespace')}` is not allowed", "namespace",
            "a target stands in the policy's own namespace",
        )  # fmt: skip
    for key, most in _REF_LIMITS.items():
        if len(target.get(key, "")) > most:
            ref.error(
                "bad-target", f"`{ref.at(key)}` is longer than {most} characters", key,
                _TARGETS_HELP,
            )  # fmt: skip
            return target
    if group and not _DNS_NAME.fullmatch(group):
        ref.error("bad-target", f"`{shown(group)}` is not an API group", "group", _TARGETS_HELP)
    elif kind and not _KIND.fullmatch(kind):
        ref.error("bad-target", f"`{shown(kind)}` is not a kind", "kind", _TARGETS_HELP)
    elif kind and (group, kind) not in _TARGETS:
        ref.error(
            "bad-target",
            f"`{shown(kind)}` of the group `{shown(group) or 'core'}` is no target", "kind",
            _TARGETS_HELP,
        )  # fmt: skip
    return target


def resource_name(kind: str, document: Fields) -> str:
    """Return `kind/namespace/name` as far as it can be read, for findings about the resource."""
    meta = document.node.entries.get("metadata")
    entries = getattr(meta, "entries", {})
    parts = []
    for key, default in (("namespace", _DEFAULT_NAMESPACE), ("name", "")):
        node = entries.get(key)
        text = node.value if isinstance(node, YamlScalar) else None
        parts.append(shown(text) if isinstance(text, str) and text else default)
    return f"{shown(kind)}/{parts[0]}/{parts[1]}"
