"""Reads what all resources share: metadata, selector and targetRefs."""

from __future__ import annotations

from policies.fields import Fields, Findings
from policies.model import Attachment, Metadata

_DEFAULT_NAMESPACE = "default"
_LABEL_MAX = 63


def read_metadata(fields: Fields, findings: Findings) -> Metadata | None:
    """Return the metadata, or None when there is no usable name."""
    node = fields.mapping("metadata")
    if node is None:
        findings.error("no-name", "the resource has no `metadata`", fields.node.location)
        return None
    # Kubernetes keeps many keys here (uid, managedFields, ...); only ours are read.
    meta = Fields(node, "metadata", findings, node.entries)
    name = meta.text("name")
    if not name:
        findings.error("no-name", "the resource has no `metadata.name`", node.location)
        return None
    if not meta.has("namespace"):
        findings.warning(
            "no-namespace",
            f"`{name}` names no namespace and is read as in `{_DEFAULT_NAMESPACE}`",
            node.location,
            "write `metadata.namespace`",
        )
    created = node.entries.get("creationTimestamp")
    return Metadata(
        namespace=meta.text("namespace") or _DEFAULT_NAMESPACE,
        name=name,
        annotations=meta.text_map("annotations"),
        created_at="" if created is None else str(created.plain() or ""),
        location=fields.place("kind"),
    )


def read_attachment(spec: Fields | None, findings: Findings) -> Attachment:
    """Return what the resource applies to."""
    if spec is None:
        return Attachment()
    forms = [key for key in ("selector", "targetRef", "targetRefs") if spec.has(key)]
    if len(forms) > 1:
        findings.error(
            "two-attachments",
            f"only one of `{'` and `'.join(forms)}` may be set",
            spec.place(forms[1]),
        )
    return Attachment(selector=_selector(spec, findings), target_refs=_target_refs(spec, findings))


def _selector(spec: Fields, findings: Findings) -> dict[str, str] | None:
    selector = spec.child("selector", ("matchLabels",))
    if selector is None:
        return None
    labels = selector.text_map("matchLabels")
    if not labels:
        findings.warning(
            "empty-selector",
            f"`{selector.path}` has no labels and selects every workload of its scope",
            selector.node.location,
            "leave it out to say so",
        )
    for key, value in labels.items():
        if not key or "*" in key + value:
            findings.error(
                "bad-selector", f"the label `{key}: {value}` is not allowed",
                selector.node.location, "labels are compared exactly; `*` is no wildcard here",
            )  # fmt: skip
        elif len(value) > _LABEL_MAX:
            findings.error(
                "bad-selector", f"the value of `{key}` is longer than {_LABEL_MAX} characters",
                selector.node.location,
            )  # fmt: skip
    return labels


def _target_refs(spec: Fields, findings: Findings) -> tuple[dict[str, str], ...]:
    known = ("group", "kind", "name", "namespace")
    single = spec.child("targetRef", known)
    refs = [single] if single else list(spec.children("targetRefs", known))
    for ref in refs:
        for key in ("kind", "name"):
            if not ref.text(key):
                findings.error("bad-target", f"`{ref.at(key)}` is missing", ref.node.location)
        if ref.has("namespace"):
            findings.error(
                "bad-target", f"`{ref.at('namespace')}` is not allowed", ref.place("namespace")
            )
        findings.warning(
            "target-refs",
            f"`{ref.path}` applies to gateways and waypoints, never to a sidecar",
            ref.node.location,
        )
    return tuple({key: ref.text(key) for key in known if ref.has(key)} for ref in refs)
