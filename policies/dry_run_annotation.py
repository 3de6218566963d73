"""The annotation `istio.io/dry-run`: a policy that is watched but not enforced."""

from __future__ import annotations

from policies.diagnostic import shown
from policies.fields import Findings
from policies.model import Action, Metadata

DRY_RUN_ANNOTATION = "istio.io/dry-run"
_PATH = f"metadata.annotations.{DRY_RUN_ANNOTATION}"
# Go's strconv.ParseBool, which Istio reads the annotation with.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def read_dry_run(metadata: Metadata, action: Action, findings: Findings) -> bool:
    """Return whether the policy is only shadowed."""
    text = metadata.annotations.get(DRY_RUN_ANNOTATION)
    if text is None:
        return False
    # "Dry-run ... is only supported for ALLOW and DENY": Istio refuses it elsewhere, even false.
    if action not in (Action.ALLOW, Action.DENY):
        findings.error(
            "dry-run-action",
            f"`{DRY_RUN_ANNOTATION}` is not allowed on a {action} policy",
            metadata.location,
            "only ALLOW and DENY policies can be shadowed",
            path=_PATH,
        )
    if text not in _TRUE | _FALSE:
        findings.error(
            "dry-run-value",
            f"`{shown(text)}` is not a value of `{DRY_RUN_ANNOTATION}`",
            metadata.location,
            'write "true" or "false"',
            path=_PATH,
        )
    return text in _TRUE


def refuse_dry_run(metadata: Metadata, kind: str, findings: Findings) -> None:
    """Refuse the annotation on kinds that have no shadow form."""
    if DRY_RUN_ANNOTATION in metadata.annotations:
        findings.error(
            "dry-run-kind",
            f"`{DRY_RUN_ANNOTATION}` is not allowed on {kind}",
            metadata.location,
            path=_PATH,
        )
