"""Reads PeerAuthentication: whether a request may come without mTLS."""

from __future__ import annotations

import re

from policies.diagnostic import shown
from policies.documents import YamlMap
from policies.dry_run_annotation import refuse_dry_run
from policies.fields import Fields, kind_of, suggestion
from policies.load_metadata import read_attachment
from policies.model import Metadata, PeerAuthentication, PeerMode

_PORT_MAX = 65535


def read_peer_authentication(fields: Fields, metadata: Metadata) -> PeerAuthentication:
    """Return the resource; what is wrong with it is in the findings."""
    refuse_dry_run(fields, metadata, "PeerAuthentication")
    spec = fields.child("spec", ("selector", "mtls", "portLevelMtls"))
    attachment = read_attachment(spec)
    ports = _read_ports(spec) if spec else {}
    if spec is not None and spec.has("portLevelMtls"):
        node = spec.mapping("portLevelMtls")
        if node is not None and not node.entries:
            spec.error(
                "no-ports", "`spec.portLevelMtls` names no port", "portLevelMtls", "leave it out"
            )
        elif not attachment.selector:
            # "port-level mTLS ... requires a workload selector".
            spec.error(
                "ports-need-selector", "`spec.portLevelMtls` needs a selector with labels",
                "portLevelMtls", "a mode for one port is a matter of the workload that has it",
            )  # fmt: skip
    return PeerAuthentication(
        metadata=metadata,
        attachment=attachment,
        mode=_read_mode(spec.child("mtls", ("mode",)) if spec else None),
        port_modes=ports,
    )


def _read_mode(mtls: Fields | None) -> PeerMode:
    text = mtls.text("mode", PeerMode.UNSET) if mtls else PeerMode.UNSET
    try:
        return PeerMode(text)
    except ValueError:
        assert mtls is not None
        mtls.error(
            "unknown-mode", f"unknown mTLS mode `{shown(text)}`", "mode",
            suggestion(text.upper(), list(PeerMode)),
        )  # fmt: skip
        return PeerMode.STRICT


def _read_ports(spec: Fields) -> dict[int, PeerMode]:
    ports = spec.child("portLevelMtls")
    modes: dict[int, PeerMode] = {}
    for key, child in (ports.node.entries if ports else {}).items():
        assert ports is not None
        name = shown(ports.at(key))
        if not re.fullmatch(r"[1-9][0-9]{0,4}", key, re.ASCII) or int(key) > _PORT_MAX:
            ports.error(
                "bad-port", f"`{name}`: not a port from 1 to {_PORT_MAX}", key,
                "write the number of the workload's own port",
            )  # fmt: skip
        elif not isinstance(child, YamlMap):
            ports.error("wrong-type", f"`{name}` must be a mapping, not {kind_of(child)}", key)
        else:
            modes[int(key)] = _read_mode(Fields(child, name, spec.findings, ("mode",)))
    return modes
