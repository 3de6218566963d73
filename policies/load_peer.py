"""Reads PeerAuthentication: whether a request may come without mTLS."""

from __future__ import annotations

import re

from policies.documents import YamlMap
from policies.dry_run_annotation import refuse_dry_run
from policies.fields import Fields, Findings, kind_of
from policies.load_metadata import read_attachment
from policies.model import Metadata, PeerAuthentication, PeerMode

_PORT_MAX = 65535


def read_peer_authentication(
    fields: Fields, metadata: Metadata, findings: Findings
) -> PeerAuthentication:
    """Return the resource; what is wrong with it is in `findings`."""
    refuse_dry_run(metadata, "PeerAuthentication", findings)
    spec = fields.child("spec", ("selector", "mtls", "portLevelMtls"))
    attachment = read_attachment(spec, findings)
    ports = _read_ports(spec, findings) if spec else {}
    if spec is not None and spec.has("portLevelMtls"):
        if not attachment.selector:
            findings.error(
                "ports-need-selector",
                "`spec.portLevelMtls` needs a selector with labels",
                spec.place("portLevelMtls"),
            )
        if not ports:
            findings.error(
                "no-ports", "`spec.portLevelMtls` names no port", spec.place("portLevelMtls")
            )
    return PeerAuthentication(
        metadata=metadata,
        attachment=attachment,
        mode=_read_mode(spec.child("mtls", ("mode",)) if spec else None, findings),
        port_modes=ports,
    )


def _read_mode(mtls: Fields | None, findings: Findings) -> PeerMode:
    text = mtls.text("mode", PeerMode.UNSET) if mtls else PeerMode.UNSET
    try:
        return PeerMode(text)
    except ValueError:
        assert mtls is not None
        findings.error(
            "unknown-mode", f"unknown mTLS mode `{text}`", mtls.place("mode"),
            f"known: {', '.join(PeerMode)}",
        )  # fmt: skip
        return PeerMode.STRICT


def _read_ports(spec: Fields, findings: Findings) -> dict[int, PeerMode]:
    node = spec.mapping("portLevelMtls")
    modes: dict[int, PeerMode] = {}
    for key, child in (node.entries if node else {}).items():
        name = f"{spec.at('portLevelMtls')}.{key}"
        if not re.fullmatch(r"[1-9][0-9]{0,4}", key, re.ASCII) or int(key) > _PORT_MAX:
            findings.error("bad-port", f"`{name}`: not a port from 1 to 65535", child.location)
        elif not isinstance(child, YamlMap):
            findings.error(
                "wrong-type", f"`{name}` must be a mapping, not {kind_of(child)}", child.location
            )
        else:
            modes[int(key)] = _read_mode(Fields(child, name, findings, ("mode",)), findings)
    return modes
