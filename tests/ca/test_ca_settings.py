"""Settings of the CA: what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from authz.settings import LogSettings
from ca.log_settings import CaLogSettings
from ca.settings import CaSettings

GOOD = {
    "stateFolder": "state",
    "trustDomain": "example.org",
    "workloads": [{"spiffeId": "spiffe://example.org/a", "socket": "a.sock"}],
}


def _workload(**changes):
    return {"workloads": [GOOD["workloads"][0] | changes]}


def test_defaults_and_paths():
    """Relative paths are taken from the settings file's folder; defaults are the stated ones."""
    settings = CaSettings.model_validate(GOOD).resolved(Path("/etc/meshwarden"))
    assert settings.svid_lifetime_seconds == 3600
    assert settings.state_folder == Path("/etc/meshwarden/state")
    assert settings.workloads[0].socket == Path("/etc/meshwarden/a.sock")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"statefolder": "x"}, "Extra inputs are not permitted"),
        ({"trustDomain": "Example.org"}, "is not a SPIFFE ID"),
        ({"trustDomain": "example.org\n"}, "is not a SPIFFE ID"),
        ({"workloads": []}, "nobody can ask"),
        (_workload(spiffeId="spiffe://other.org/a"), "is not in the trust domain"),
        (_workload(spiffeId="spiffe://example.org"), "not a workload"),
        (_workload(spiffeId="spiffe://example.org/../a"), "`.` or `..` segment"),
        (_workload(dnsNames=["*.example.org"]), "not a lower-case DNS name"),
        (_workload(dnsNames=["a..b"]), "not a lower-case DNS name"),
        (_workload(dnsNames=["a\n"]), "not a lower-case DNS name"),
        (_workload(uid=0), "Extra inputs are not permitted"),
        ({"workloads": GOOD["workloads"] * 2}, "is given to two workloads"),
        ({"svidLifetimeSeconds": 86400, "intermediateLifetimeDays": 5}, "six svidLifetimeSeconds"),
        ({"rootLifetimeDays": 100}, "three intermediateLifetimeDays"),
        ({"svidLifetimeSeconds": 1}, "greater than or equal to 2"),
    ],
)
def test_refused(change, words):
    """Every setting that is wrong, alone or with another, is refused by name."""
    with pytest.raises(ValidationError, match=words):
        CaSettings.model_validate(GOOD | change)


def test_every_setting_is_described():
    """Every setting has a description in the JSON Schema."""
    schema = CaSettings.model_json_schema()
    blocks = [schema, *schema["$defs"].values()]
    missing = [n for b in blocks for n, p in b["properties"].items() if not p.get("description")]
    assert missing == []


def test_the_log_is_set_up_by_the_same_words():
    """`log` of the CA is `log` of the authorizer: keys, values, defaults and meanings."""
    assert (
        LogSettings.model_json_schema()["properties"]
        == (CaLogSettings.model_json_schema()["properties"])
    )
