"""Envoy's filters as protobuf-JSON: RBAC and ext_authz, for HTTP and for TCP.

Spec: envoy.extensions.filters.{http,network}.rbac.v3.RBAC; envoy.config.rbac.v3.RBAC.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.model import Action
from policies.rbac.text import Json

TCP_STAT_PREFIX = "tcp."
"""The `statPrefix` that Istio gives its network filters."""

_PACKAGE = "type.googleapis.com/envoy.extensions.filters"
_ENVOY_ACTIONS = {Action.DENY: "DENY", Action.CUSTOM: "DENY", Action.AUDIT: "LOG"}
_DRY_RUN_PREFIXES = {
    Action.ALLOW: "istio_dry_run_allow_",
    Action.DENY: "istio_dry_run_deny_",
    Action.AUDIT: "",
}
EXT_AUTHZ_PREFIX = "istio_ext_authz_"
"""What the shadow verdict of a CUSTOM trigger is called in the filter's metadata."""


def rbac_rules(action: Action, policies: Mapping[str, Json]) -> Json:
    """Return RBAC rules; they stand in byte order, in which Envoy tries them.

    The trigger of a CUSTOM policy is a DENY that only shadows.
    """
    rules: Json = {}
    # ALLOW is the enum's default, which the JSON mapping leaves out.
    if action in _ENVOY_ACTIONS:
        rules["action"] = _ENVOY_ACTIONS[action]
    if policies:
        ordered = sorted(policies, key=lambda name: name.encode())
        rules["policies"] = {name: policies[name] for name in ordered}
    return rules


def dry_run_prefix(action: Action, has_dry_run: bool) -> str:
    """Return the stat prefix of an enforcing filter's shadow rules.

    Without shadow rules it is that of ALLOW, whatever the filter's action.
    """
    return _DRY_RUN_PREFIXES[action if has_dry_run else Action.ALLOW]


def rbac_filter(
    *, rules: Json | None = None, shadow: Json | None = None, prefix: str = "", tcp: bool
) -> Json:
    """Return an RBAC filter; `prefix` names the shadow rules' results."""
    body: Json = {}
    if rules is not None:
        body["rules"] = rules
    if shadow is not None:
        body["shadowRules"] = shadow
    if prefix:
        body["shadowRulesStatPrefix"] = prefix
    if tcp:
        body["statPrefix"] = TCP_STAT_PREFIX
    return _filter("rbac", "RBAC", body, tcp=tcp)


def ext_authz_filter(body: Json, *, tcp: bool) -> Json:
    """Return an external authorization filter."""
    return _filter("ext_authz", "ExtAuthz", body, tcp=tcp)


def rbac_name(*, tcp: bool) -> str:
    """Return the name of the RBAC filter, under which its metadata stands as well."""
    return f"envoy.filters.{_layer(tcp)}.rbac"


def _filter(name: str, message: str, body: Json, *, tcp: bool) -> Json:
    layer = _layer(tcp)
    return {
        "name": f"envoy.filters.{layer}.{name}",
        "typedConfig": {"@type": f"{_PACKAGE}.{layer}.{name}.v3.{message}", **body},
    }


def _layer(tcp: bool) -> str:
    return "network" if tcp else "http"
