"""What the command line may ask of the slots, of a running CA or of a state nobody holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ca.authority import AuthorityKeeper
from ca.books import open_books
from ca.clock import Clock
from ca.control import ask
from ca.errors import ControlError
from ca.last_leaf import LastLeaf
from ca.opening import load_plugged_of, open_state
from ca.record_commands import RECORD_COMMANDS, record_commands
from ca.rotation import Rotation
from ca.running import Command
from ca.settings import CaSettings
from ca.slots import Slot
from ca.status import authority_troubles, status_of_state
from identity.bundle_document import encode_bundle
from identity.jwks import Jwk
from identity.trust_bundle import TrustBundle


def carry_out(settings: CaSettings, request: Mapping[str, Any], clock: Clock) -> Mapping[str, Any]:
    """Return the answer of the CA that runs on `settings`, or of its state when none runs.

    The wait for those who have no stream counts without a running CA too: it knows of no stream.

    Raises:
        CaError: it was refused, or there is no state.
    """
    answer = ask(settings.state_folder, request)
    if answer is not None:
        return answer
    with open_state(settings, clock) as (keeper, rotation):
        if request["do"] in RECORD_COMMANDS:
            with open_books(settings, keeper, clock) as books:
                return record_commands(books, clock)[request["do"]](request)
        commands = slot_commands(settings, keeper, rotation, clock)
        commands["status"] = lambda _: status_of_state(
            keeper, rotation, clock(), authority_troubles(keeper, clock())
        )
        if request["do"] != "rotate":
            return commands[request["do"]](request)
        with open_books(settings, keeper, clock) as books:
            rotation.record = books.desk.record_rotation
            rotation.last_leaf = LastLeaf(books.store, keeper.plan.leaf_lifetime)
            return commands["rotate"](request)


def slot_commands(
    settings: CaSettings,
    keeper: AuthorityKeeper,
    rotation: Rotation,
    clock: Clock,
    jwt_authorities: Callable[[], Sequence[Jwk]] = tuple,
) -> dict[str, Command]:
    """Return the commands of the slots: `rotate` and `bundle`.

    `rotate` takes `{"step": "prepare" | "activate" | "retire", "force": bool, "plugged": folder}`;
    `bundle` answers with the roots as PEM and as a SPIFFE bundle document.
    """

    def rotate(request: Mapping[str, Any]) -> Mapping[str, Any]:
        force = request.get("force") is True
        match request.get("step"):
            case "prepare":
                folder = request.get("plugged")
                plugged = load_plugged_of(settings, Path(folder), clock) if folder else None
                return _changed(rotation.prepare(plugged))
            case "activate":
                return _changed(rotation.activate(force=force))
            case "retire":
                return _changed(rotation.retire(force=force))
            case _:
                raise ControlError("a rotation's step is prepare, activate or retire")

    def bundle(_: Mapping[str, Any]) -> Mapping[str, Any]:
        document = TrustBundle(
            trust_domain=keeper.plan.trust_domain,
            x509_authorities=keeper.roots,
            jwt_authorities=tuple(jwt_authorities()),
            sequence=keeper.sequence,
        )
        return {"pem": keeper.bundle_pem(), "spiffe": encode_bundle(document).decode()}

    return {"rotate": rotate, "bundle": bundle}


def _changed(slot: Slot) -> Mapping[str, Any]:
    """Return which authority was moved."""
    return {
        "number": slot.number,
        "phase": slot.phase.value,
        "rootExpiresAt": slot.root.not_valid_after_utc.isoformat(),
    }
