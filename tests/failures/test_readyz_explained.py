"""Whatever `/readyz` tells of a server with every kind of part stands in docs/signals.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from authz.workers import readiness_of
from ca.revocations import encode_deny_list
from tests.authz.issuing_root import Authority
from tests.failures.serving import eventually, policies, serving
from tests.opa_bridge.bundling import FILES, packed

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "signals.md"
_NOBODY = "http://127.0.0.1:9"
_POLICIES = policies(
    {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]},
    {
        "kind": "RequestAuthentication",
        "jwtRules": [{"issuer": _NOBODY, "jwksUri": f"{_NOBODY}/jwks"}],
    },
)


def _explained() -> dict[str, set[str]]:
    """Each field of the first column, with what its explanation names."""
    section = _PAGE.read_text("utf-8").partition("## `/readyz` of the authorizer")[2]
    return {
        field: set(re.findall(r"`([^`]+)`", words))
        for names, words in re.findall(
            r"^\| (`[^|]*) \|([^|]*)\|", section.partition("\n## ")[0], re.MULTILINE
        )
        for field in re.findall(r"`([^`]+)`", names)
    }


def test_every_field_is_explained(tmp_path: Path) -> None:
    """With keys, bundles, Rego, sinks, trust bundles, denials and TLS; the page names no other."""
    identity = {
        "trustBundles": [{"trustDomain": "cluster.local", "file": "roots.pem"}],
        "denyList": "denied.json",
    }
    files = {
        "policies.yaml": _POLICIES,
        "roots.pem": Authority().root_pem,
        "bundle.tar.gz": packed(FILES),
        "denied.json": encode_deny_list([], revision=1, now=datetime.now(UTC)),
    }
    sections: Mapping[str, Any] = {
        "identity": identity,
        "bundles": [{"name": "b", "path": "bundle.tar.gz"}],
        "providers": [{"name": "rego", "rego": {"bundles": ["b"]}}],
        "audit": {"folder": "audit", "sinks": {"uploads": [{"name": "u", "url": _NOBODY}]}},
    }
    explained = _explained()
    with serving(tmp_path, files, **sections) as house:
        eventually(house.readyz, lambda seen: seen[1]["keys"])
        found = house.readyz()[1]
    _, together = readiness_of({"1": found}, is_stopping=False)

    known = {name.removesuffix("[]") for name in explained}
    assert {*found, *together, "listener_tls"} == known
    for name, value in found.items():
        if isinstance(value, list) and name != "refused":
            assert value, f"nothing of `{name}` was served"
            assert set() == set(value[0]) - explained[f"{name}[]"]
    assert set() == set(found["deny_list"]) - explained["deny_list"]
