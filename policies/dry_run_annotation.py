"""The annotation `istio.io/dry-run`: a policy that is watched but not enforced."""

from __future__ import annotations

from policies.diagnostic import shown
from policies.fields import Fields
from policies.model import Action, Metadata

DRY_RUN_ANNOTATION = "istio.io/dry-run"
_PATH = f"metadata.annotations.{DRY_RUN_ANNOTATION}"
# Go's strconv.ParseBool, which Istio reads the annotation with.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def read_dry_run(fields: Fields, metadata: Metadata, action: Action) -> bool:
    """Return whether the policy is only shadowed."""
    text = metadata.annotations.get(DRY_RUN_ANNOTATION)
    if text is None:
        return False
    # "Dry-run ... is only supported for ALLOW and DENY": Istio refuses it elsewhere, even false.
    if action not in (Action.ALLOW, Action.DENY):
        _refuse(
            fields, "dry-run-action", f"`{_PATH}` is not allowed with action {action}",
            "only ALLOW and DENY policies can be shadowed",
        )  # fmt: skip
    elif text not in _TRUE | _FALSE:
        _refuse(
            fields, "dry-run-value", f"`{_PATH}` cannot be `{shown(text)}`",
            'write "true" or "false"',
        )  # fmt: skip
    return text in _TRUE


def refuse_dry_run(fields: Fields, metadata: Metadata, kind: str) -> None:
    """Refuse the annotation on kinds that have no shadow form."""
    if DRY_RUN_ANNOTATION in metadata.annotations:
        _refuse(
            fields, "dry-run-kind", f"`{_PATH}` is not allowed on {kind}",
            "remove it; only an AuthorizationPolicy can be shadowed",
        )  # fmt: skip


def _refuse(fields: Fields, code: str, message: str, help_: str) -> None:
    meta = fields.child("metadata")
    annotations = meta.child("annotations") if meta else None
    place = (annotations or fields).place(DRY_RUN_ANNOTATION)
    fields.findings.error(code, message, place, help_, path=_PATH)
