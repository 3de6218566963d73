"""What tests of the `policy` commands stand on: a run of the command, and resources as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from click.testing import CliRunner, Result

from authz.cli import policy_main


def run_policy(*arguments: object, stdin: bytes | None = None) -> Result:
    """Return what `policy ARGUMENTS` printed and its exit code; it must not raise."""
    result = CliRunner().invoke(policy_main, [str(each) for each in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def resources(shorts: Iterable[Mapping[str, Any]]) -> str:
    """Return the YAML of resources written short, one document and one line each piece."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": short.get("kind", "AuthorizationPolicy"),
            "metadata": {
                "name": short["name"],
                "namespace": short.get("namespace", "shop"),
                "annotations": short.get("annotations", {}),
            },
            "spec": short["spec"],
        }
        for short in shorts
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)
