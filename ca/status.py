"""What the CA says of itself: what expires when, who listens, what is wrong.

One document, for programs as it is and for people through `describe_status`. It is the same for a
CA that runs and, with less in it, for a state folder that nobody serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.authority import AuthorityKeeper
from ca.board import SecretBoard
from ca.clock import ClockWatch
from ca.key_kinds import check_public_key, describe_key
from ca.renewal import Renewal
from ca.rotation import Rotation
from ca.running import RunningCa
from ca.slots import Slot
from ca.state import Phase
from ca.streams import OpenStreams
from ca.troubles import Trouble

# BUDGET: of an authority's life, what is left when its end is called near.
_NEAR_AT_REMAINING = 6
_PATIENCE = timedelta(seconds=30)


def status_of_state(
    keeper: AuthorityKeeper, rotation: Rotation, now: datetime, troubles: Iterable[Trouble]
) -> dict[str, Any]:
    """Return what there is to say without a process that serves: authorities and rotation."""
    found = list(troubles)
    state = "failing" if any(t.is_failing for t in found) else "degraded" if found else "ok"
    return {
        "trustDomain": keeper.plan.trust_domain.name,
        "now": _moment(now),
        "state": state,
        "serving": False,
        "bundle": {"sequence": keeper.sequence, "roots": len(keeper.roots)},
        "authorities": [_authority(slot, now) for slot in keeper.slots],
        "rotation": {
            "activationWaitsFor": list(rotation.activation_waits_for()),
            "retirementWaitsFor": list(rotation.retirement_waits_for()),
        },
        "troubles": [
            {"code": t.code, "subject": t.subject, "message": t.message, "failing": t.is_failing}
            for t in found
        ],
    }


def status_of(ca: RunningCa) -> dict[str, Any]:
    """Return what a running CA says of itself."""
    now = ca.clock()
    return status_of_state(ca.keeper, ca.rotation, now, ca.troubles()) | {
        "serving": True,
        "startedAt": _moment(ca.started_at),
        "workloads": [status_of_workload(board, now) for board in ca.boards],
        "streams": ca.streams.by_kind(),
        **{name: describe() for name, describe in ca.sections.items()},
    }


def status_of_workload(board: SecretBoard, now: datetime) -> dict[str, Any]:
    """Return one workload's line."""
    svid = board.svid
    if svid is None:
        return {"spiffeId": str(board.spiffe_id), "state": "none", "expiresAt": None}
    return {
        "spiffeId": str(board.spiffe_id),
        "state": "ok" if svid.is_valid_at(now) else "expired",
        "serial": f"{svid.leaf.serial_number:x}",
        "expiresAt": _moment(svid.expires_at),
        "secondsLeft": _seconds(svid.expires_at, now),
    }


def authority_troubles(keeper: AuthorityKeeper, now: datetime) -> Iterator[Trouble]:
    """Yield what is wrong with the authorities."""
    if keeper.renewal_error:
        message = f"the intermediate cannot be renewed: {keeper.renewal_error}"
        yield Trouble(code="intermediate_renewal_failed", subject="active", message=message)
    for slot in keeper.slots:
        if slot.phase is Phase.RETIRED:
            continue
        for tier, certificate in (("root", slot.root), ("intermediate", slot.intermediate)):
            yield from _certificate_troubles(slot, tier, certificate, now)
            if slot.intermediate == slot.root:
                break


def renewal_troubles(renewals: Iterable[Renewal], now: datetime) -> Iterator[Trouble]:
    """Yield the workloads whose certificate is late or gone."""
    for renewal in renewals:
        svid, subject = renewal.board.svid, str(renewal.board.spiffe_id)
        if svid is None or not svid.is_valid_at(now):
            why = renewal.error or "it is being issued"
            message = f"no certificate is in force: {why}"
            yield Trouble(code="svid_missing", subject=subject, message=message, is_failing=True)
        elif renewal.error:
            message = f"the renewal is late: {renewal.error}"
            yield Trouble(code="svid_late", subject=subject, message=message)


def stream_troubles(streams: OpenStreams, now: datetime) -> Iterator[Trouble]:
    """Yield the streams whose other side refuses what it is sent, or does not read it."""
    for stream in streams:
        if stream.refusal:
            message = f"proxy `{stream.node}` refused the last secret: {stream.refusal}"
            yield Trouble(code="secret_refused", subject=stream.spiffe_id, message=message)
    for stream in streams.slow(now, _PATIENCE):
        message = f"proxy `{stream.node}` does not answer what it is sent"
        yield Trouble(code="slow_reader", subject=stream.spiffe_id, message=message)


def clock_troubles(watch: ClockWatch) -> Iterator[Trouble]:
    """Yield a recent jump of the wall clock."""
    jump = watch.recent_jump
    if jump is not None:
        message = f"the wall clock jumped by {jump.total_seconds():+.0f} s"
        yield Trouble(code="clock_jump", subject="clock", message=message)


def describe_status(status: Mapping[str, Any]) -> str:
    """Return a status document as lines for people."""
    is_served = "serving" if status["serving"] else "not served by any process"
    bundle = status["bundle"]
    roots = f"{bundle['roots']} root{'s' if bundle['roots'] != 1 else ''}"
    lines = [
        f"trust domain  {status['trustDomain']} ({is_served}), {status['state']}",
        f"bundle        {roots}, sequence {bundle['sequence']}",
    ]
    for authority in status["authorities"]:
        lines.append(f"authority {authority['number']}   {authority['phase']}")
        for tier in ("root", "intermediate"):
            part = authority[tier]
            lines.append(
                f"  {tier:<14}{part['key']}, expires {part['expiresAt']} "
                f"(in {_span(part['secondsLeft'])})"
            )
        if authority["trustedUntil"]:
            lines.append(f"  {'needed':<14}until {authority['trustedUntil']}")
    for step, key in (("activate", "activationWaitsFor"), ("retire", "retirementWaitsFor")):
        lines += [f"{step} waits: {why}" for why in status["rotation"][key]]
    for workload in status.get("workloads", ()):
        left = _span(workload["secondsLeft"]) if workload["expiresAt"] else "-"
        lines.append(f"workload      {workload['spiffeId']}  {workload['state']}, in {left}")
    if "streams" in status:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(status["streams"].items()))
        lines.append(f"streams       {kinds or 'none'}")
    for other in status.get("federation", ()):
        fetched = other["fetchedAt"] or "never"
        lines.append(f"federated     {other['trustDomain']}  {other['roots']} roots, of {fetched}")
    lines += [f"! {t['code']}: {t['subject']}: {t['message']}" for t in status["troubles"]]
    return "\n".join(lines)


def _certificate_troubles(
    slot: Slot, tier: str, certificate: x509.Certificate, now: datetime
) -> Iterator[Trouble]:
    """Yield what is wrong with the validity of one certificate of an authority."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject, is_failing = f"authority {slot.number}", slot.phase is Phase.ACTIVE
    if now > end:
        message = f"the {tier} expired at {_moment(end)}"
        yield Trouble(
            code="authority_expired", subject=subject, message=message, is_failing=is_failing
        )
    elif now < start:
        message = f"the {tier} is not valid before {_moment(start)}"
        yield Trouble(
            code="authority_early", subject=subject, message=message, is_failing=is_failing
        )
    elif end - now <= (end - start) / _NEAR_AT_REMAINING:
        message = f"the {tier} expires at {_moment(end)}"
        yield Trouble(code="authority_ends_soon", subject=subject, message=message)


def _authority(slot: Slot, now: datetime) -> dict[str, Any]:
    """Return one authority."""
    until = slot.entry.trusted_until
    return {
        "number": slot.number,
        "phase": slot.phase.value,
        "since": _moment(slot.entry.since),
        "trustedUntil": _moment(until) if until else None,
        "plugged": slot.entry.root.key is None,
        "root": _certificate(slot.root, now),
        "intermediate": _certificate(slot.intermediate, now),
    }


def _certificate(certificate: x509.Certificate, now: datetime) -> dict[str, Any]:
    """Return what is worth knowing of a certificate."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "key": describe_key(check_public_key(certificate.public_key())),
        "expiresAt": _moment(certificate.not_valid_after_utc),
        "secondsLeft": _seconds(certificate.not_valid_after_utc, now),
    }


def _moment(at: datetime) -> str:
    """Return a moment to the second, as RFC 3339 has it."""
    return at.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _seconds(end: datetime, now: datetime) -> int:
    """Return the whole seconds until `end`."""
    return int((end - now).total_seconds())


def _span(seconds: int) -> str:
    """Return a span as people say it.

    >>> _span(86_400 * 3), _span(7200), _span(90), _span(-5)
    ('3 d', '2 h', '90 s', '-5 s')
    """
    for unit, size in (("d", 86_400), ("h", 3_600)):
        if abs(seconds) >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
