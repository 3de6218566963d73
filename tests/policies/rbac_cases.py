"""The cases of `rbac/*.yaml`, made into policies and compiled; several tests share them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from policies.diagnostic import Diagnostic, Location
from policies.load import read_resources
from policies.mesh import Mesh, MeshMode
from policies.mesh_config import load_mesh
from policies.model import AuthorizationPolicy, Clause, Rule, Value
from policies.rbac import compile_filters
from policies.request import Service, Workload

NAMESPACE = "shop"
SERVICE = Service(kind="Service", namespace=NAMESPACE, name="cart")
NOWHERE = Location("case.yaml")
_FOLDER = Path(__file__).with_name("rbac")
_TYPES = "type.googleapis.com/envoy.extensions.filters"
_MESSAGES = {"rbac": "RBAC", "ext_authz": "ExtAuthz"}
_OPERATIONS = {
    "operation.hosts": "hosts",
    "operation.methods": "methods",
    "operation.paths": "paths",
}


@cache
def cases(file: str) -> list[dict[str, Any]]:
    """Return the cases of a file."""
    found: list[dict[str, Any]] = yaml.safe_load((_FOLDER / file).read_text("utf-8"))
    return found


def note_of(case: Mapping[str, Any]) -> str:
    """Return what pytest calls a case."""
    return str(case["note"])


def compiled(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the filters of a case of any file."""
    mesh, _ = mesh_of(case)
    if "policies" in case:
        policies = [_policy(each) for each in case["policies"]]
    else:
        rule = case["rule"] if "rule" in case else _rule_of_condition(case)
        policies = [_policy_of_rule(rule, case, is_targeted=mesh.mode is MeshMode.WAYPOINT)]
    return compile_filters(
        policies,
        _workload(case.get("workload", {})),
        mesh,
        tcp=case.get("tcp", False),
        many_providers=case.get("many_providers", False),
    )


def mesh_of(case: Mapping[str, Any]) -> tuple[Mesh, list[Diagnostic]]:
    """Return the mesh of a case, and what is wrong with its providers."""
    unusable: list[Diagnostic] = []
    if "mesh" not in case:
        return Mesh(), unusable
    return load_mesh(json.dumps(case["mesh"]), "mesh.yaml", unusable=unusable), unusable


def translated(case: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what became of the one rule of a case: its Envoy policy, or None."""
    (found,) = compiled(case)
    body = found["typedConfig"]
    policies: dict[str, Any] = body["rules"].get("policies", {})
    return next(iter(policies.values()), None)


def spelled_out(short: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filter that `{<layer>.<name>: <body>}` stands for."""
    ((title, body),) = short.items()
    layer, _, name = title.partition(".")
    kind = f"{_TYPES}.{title}.v3.{_MESSAGES[name]}"
    return {"name": f"envoy.filters.{layer}.{name}", "typedConfig": {"@type": kind, **body}}


def _policy(short: Mapping[str, Any]) -> AuthorizationPolicy:
    metadata: dict[str, Any] = {
        "name": short["name"],
        "namespace": short.get("namespace", NAMESPACE),
    }
    if "dry_run" in short:
        metadata["annotations"] = {"istio.io/dry-run": short["dry_run"]}
    return _loaded(metadata, short["spec"], short.get("unchecked"))


def _policy_of_rule(
    rule: Mapping[str, Any], case: Mapping[str, Any], *, is_targeted: bool
) -> AuthorizationPolicy:
    action = case.get("action", "ALLOW")
    spec: dict[str, Any] = {"action": action, "rules": [rule]}
    if is_targeted:
        spec["targetRefs"] = [{"kind": SERVICE.kind, "name": SERVICE.name}]
    if action == "CUSTOM":
        spec["provider"] = {"name": "unknown"}
    unchecked = [rule["when"]] if case.get("unchecked") else None
    return _loaded({"name": "case", "namespace": NAMESPACE}, spec, unchecked)


def _rule_of_condition(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule of one condition, written where a policy has a place for its key."""
    values, none_of = case.get("values", []), case.get("not", [])
    field = _OPERATIONS.get(case["key"])
    if field is None:
        return {"when": [{"key": case["key"], "values": values, "notValues": none_of}]}
    operation = {field: values, f"not{field.capitalize()}": none_of}
    return {"to": [{"operation": {name: texts for name, texts in operation.items() if texts}}]}


def _loaded(
    metadata: dict[str, Any], spec: Mapping[str, Any], unchecked: list[list[Any]] | None
) -> AuthorizationPolicy:
    """Return a policy as it is loaded; `unchecked` rules go past admission, `when` by `when`."""
    if unchecked is not None:
        spec = {**spec, "rules": [{}]}
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": spec,
    }
    (policy,) = read_resources([("case.yaml", json.dumps(document))]).resources
    assert isinstance(policy, AuthorizationPolicy)
    if unchecked is None:
        return policy
    rules = tuple(Rule(when=tuple(map(_clause, when)), location=NOWHERE) for when in unchecked)
    return AuthorizationPolicy(
        metadata=policy.metadata,
        attachment=policy.attachment,
        action=policy.action,
        rules=rules,
    )


def _clause(when: Mapping[str, Any]) -> Clause:
    def texts(name: str) -> tuple[Value, ...]:
        return tuple(Value(each, NOWHERE) for each in when.get(name, []))

    return Clause(
        key=when["key"],
        spelled=when["key"],
        values=texts("values"),
        not_values=texts("notValues"),
        location=NOWHERE,
    )


def _workload(short: Mapping[str, Any]) -> Workload:
    # Who says nothing of a workload means one that is asked for the service of this name.
    default_service = None if short else SERVICE
    service = short.get("service")
    return Workload(
        namespace=short.get("namespace", NAMESPACE),
        labels=short.get("labels", {"app": "cart"}),
        service=Service(**service) if service else default_service,
    )
