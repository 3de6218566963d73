"""What the command line may ask of the slots, of a running CA or of a state nobody holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ca.clock import Clock
from ca.errors import ControlError
from ca.plugged import load_plugged
from ca.rotation import Rotation
from ca.slots import Slot
from identity.spiffe_id import TrustDomain


def rotation_command(
    rotation: Rotation, trust_domain: TrustDomain, clock: Clock
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return the command `rotate`: `{"step": ..., "force": bool, "plugged": folder or null}`."""

    def rotate(request: Mapping[str, Any]) -> Mapping[str, Any]:
        force = request.get("force") is True
        match request.get("step"):
            case "prepare":
                folder = request.get("plugged")
                plugged = load_plugged(Path(folder), trust_domain, clock()) if folder else None
                return _changed(rotation.prepare(plugged))
            case "activate":
                return _changed(rotation.activate(force=force))
            case "retire":
                return _changed(rotation.retire(force=force))
            case _:
                raise ControlError("a rotation's step is prepare, activate or retire")

    return rotate


def _changed(slot: Slot) -> Mapping[str, Any]:
    """Return which authority was moved."""
    return {
        "number": slot.number,
        "phase": slot.phase.value,
        "rootExpiresAt": slot.root.not_valid_after_utc.isoformat(),
    }
