"""Istio's own translations, where they are at hand: what we compile is equal to each.

The files are not part of this repository: they stand in `istio-golden` of a
folder named by MESHWARDEN_SHARED, or beside the repository as `../shared`.
`NAME-in.yaml` holds policies, `NAME-out.yaml` (or `-out1`, `-out2`) a filter each.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.load import read_resources
from policies.mesh import Mesh
from policies.mesh_config import load_mesh
from policies.model import AuthorizationPolicy
from policies.rbac import compile_filters
from policies.request import Workload

REPOSITORY = Path(__file__).parents[2]
GOLDEN = Path(os.environ.get("MESHWARDEN_SHARED", REPOSITORY.parent / "shared")) / "istio-golden"
WORKLOAD = Workload(namespace="foo", labels={"app": "httpbin", "version": "v1"})
# A golden whose policies are not under its own name.
INPUTS = {"custom-grpc-provider": "custom-simple-http"}
# The mesh settings a golden was made with; most were made without any.
MESHES = {
    "simple-policy-td-aliases": {"trustDomain": "td1", "trustDomainAliases": ["cluster.local"]},
    "custom-grpc-provider": {
        "extensionProviders": [
            {
                "name": "default",
                "envoyExtAuthzGrpc": {
                    "service": "foo/my-custom-ext-authz.foo.svc.cluster.local",
                    "port": 9000,
                    "timeout": "0.002s",
                    "failOpen": True,
                    "statusOnError": "403",
                    "includeRequestBodyInCheck": {
                        "maxRequestBytes": 4096,
                        "allowPartialMessage": True,
                    },
                },
            }
        ]
    },
}
_OUT = re.compile(r"(.+)-out[0-9]*")


def goldens() -> list[tuple[str, str]]:
    """Return the (layer, name) of every golden."""
    found = {(path.parent.name, path.stem) for path in GOLDEN.glob("*/*-out*.yaml")}
    names = {(layer, match[1]) for layer, stem in found if (match := _OUT.fullmatch(stem))}
    return sorted(names)


def filters_of(layer: str, name: str) -> list[dict[str, Any]]:
    """Return what we make of the policies of a golden."""
    path = GOLDEN / layer / f"{INPUTS.get(name, name)}-in.yaml"
    resources = read_resources([(path.name, path.read_text("utf-8"))]).resources
    policies = [each for each in resources if isinstance(each, AuthorizationPolicy)]
    assert len(policies) == len(resources) > 0
    mesh = load_mesh(yaml.safe_dump(MESHES[name]), "mesh.yaml") if name in MESHES else Mesh()
    return compile_filters(policies, WORKLOAD, mesh, tcp=layer == "tcp")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="Istio's golden files are not at hand")
@pytest.mark.parametrize(("layer", "name"), goldens())
def test_golden(layer: str, name: str) -> None:
    """The filters of a golden's policies are Istio's, in Istio's order."""
    paths = sorted((GOLDEN / layer).glob(f"{name}-out*.yaml"))
    want = [yaml.safe_load(path.read_text("utf-8")) for path in paths]
    assert filters_of(layer, name) == want


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="Istio's golden files are not at hand")
def test_every_input_has_a_golden() -> None:
    """No policies are left untried because their golden goes by a name nobody looked for."""
    inputs = {(path.parent.name, path.stem) for path in GOLDEN.glob("*/*-in.yaml")}
    tried = {(layer, f"{INPUTS.get(name, name)}-in") for layer, name in goldens()}
    assert inputs == tried
