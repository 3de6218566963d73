"""Which rule of a set of Rego modules is asked when nobody names one."""

from __future__ import annotations

from collections.abc import Iterable

from opa_bridge.capabilities import Module, scan_module

# opa-envoy-plugin: "path: ... Defaults to envoy/authz/allow".
DEFAULT_ENTRYPOINT = "envoy/authz/allow"
_WHOLE_RESULT = "envoy/authz/result"


def choose_entrypoint(texts: Iterable[tuple[str, str]]) -> str:
    """Return opa-envoy-plugin's default, or what stands in its place in `(file, source)` modules.

    In its place stands `envoy/authz/result`, then an `allow` that only one package
    defines. Modules that cannot be read, or hold none of these, get the default:
    loading tells what is wrong.
    """
    modules = [
        found for file, source in texts if isinstance(found := scan_module(file, source), Module)
    ]
    defined = {f"{module.package}/{rule}" for module in modules for rule in module.rules}
    for entrypoint in (DEFAULT_ENTRYPOINT, _WHOLE_RESULT):
        if entrypoint in defined:
            return entrypoint
    allows = [entrypoint for entrypoint in defined if entrypoint.endswith("/allow")]
    return allows[0] if len(allows) == 1 else DEFAULT_ENTRYPOINT
