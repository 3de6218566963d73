"""What files in a bundle are called: one spelling for each, none that leads elsewhere."""

from __future__ import annotations

from typing import Final

from opa_bridge.errors import PolicyBundleError
from policies.diagnostic import shown

# BUDGET: POSIX bounds a whole path at 4096 bytes; bundles of OPA users stay below 200.
MAX_NAME_BYTES: Final = 1024
# BUDGET: folders become objects, and the engine takes no more than 128 of those in a row.
MAX_PARTS: Final = 64


def clean_name(name: str) -> str:
    """Return a file's path from the bundle's root, without `./` or the `/` that OPA writes.

    Raises:
        PolicyBundleError: it leads out of the bundle, or has more than one spelling.
    """
    # `opa build` names every file with one leading `/`, tar of a folder with `./`.
    path = name.removeprefix("./").removeprefix("/")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise _refused(name, f"is longer than {MAX_NAME_BYTES} bytes")
    if not path.isprintable() or "\\" in path:
        raise _refused(name, "holds a control character, a backslash or half a character")
    if path.count("/") >= MAX_PARTS:
        raise _refused(name, f"has more than {MAX_PARTS} parts")
    # WHY also empty parts: `a//b` and `a/b` would be two files here and one for others.
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise _refused(name, "leads out of the bundle or holds an empty part")
    return path


def folders_of(path: str) -> tuple[str, ...]:
    """Return the names of the folders that a clean path goes through."""
    return tuple(path.split("/")[:-1])


def base_of(path: str) -> str:
    """Return the last part of a clean path."""
    return path.rpartition("/")[2]


def _refused(name: str, why: str) -> PolicyBundleError:
    return PolicyBundleError("bundle.name", f"the name `{shown(name)}` {why}")
