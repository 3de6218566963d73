"""Istio's policies as Envoy's own filters: what the control plane would send to a proxy.

Everything here is plain dicts with protobuf-JSON names, and pure functions over them.
"""

from policies.rbac.compile import compile_filters
from policies.rbac.errors import UnsupportedModeError

__all__ = ["UnsupportedModeError", "compile_filters"]
