"""Runs benches by name, or all of them: `python -m bench [NAME...]`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_FRAME = {"__init__", "__main__", "harness"}


def part_names() -> list[str]:
    """The names of the benches that stand beside this file, sorted."""
    return sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _FRAME
    )


def main(arguments: list[str]) -> int:
    """Run the named benches, all without a name; 1 when a goal is missed, 2 for an unknown name."""
    known = part_names()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"no bench named `{unknown[0]}`; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    codes = [importlib.import_module(f"bench.{name}").main() for name in arguments or known]
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
