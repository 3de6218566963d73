"""The demo's folders and the configuration files it writes into them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from examples.demo.identities import CLIENTS, SERVER, TRUST_DOMAIN, spiffe_id
from examples.demo.loopback import LOOPBACK

PROVIDER: Final = "orders-rego"
# The name that stands for the issuer in `examples/policies`.
ISSUER_NAME: Final = "https://idp.demo.meshwarden.test"
_EXAMPLES: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the demo keeps its things.

    `root` may be kept for the next run. `run` is a short-lived folder with a short
    name, because the path of a Unix socket has room for about a hundred characters.
    """

    root: Path
    run: Path

    @property
    def policies(self) -> Path:
        """The policies that are served; edit them while the demo stays up."""
        return self.root / "policies"

    @property
    def rego(self) -> Path:
        """The Rego modules of the CUSTOM provider."""
        return self.root / "rego"

    @property
    def audit(self) -> Path:
        """The audit record."""
        return self.root / "audit"

    @property
    def tokens(self) -> Path:
        """One file for each token, for use with curl."""
        return self.root / "tokens"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "logs"

    @property
    def config(self) -> Path:
        """The authorizer's configuration file."""
        return self.root / "meshwarden.yaml"

    @property
    def ca_config(self) -> Path:
        """The CA's configuration file."""
        return self.root / "ca.yaml"

    def socket(self, name: str) -> Path:
        """The Unix socket on which one workload fetches its secrets."""
        return self.run / f"{name}.sock"

    def make_folders(self) -> None:
        """Make the folders that the demo itself writes to."""
        for folder in (self.root, self.tokens, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the state folder, for the owner only."""
        path = self.root / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return path


def write_policies(state: State, issuer_url: str) -> int:
    """Copy the example policies with the issuer's address put in; return how many files."""
    shutil.rmtree(state.policies, ignore_errors=True)
    state.policies.mkdir(mode=0o700)
    sources = sorted((_EXAMPLES / "policies").glob("*.yaml"))
    for source in sources:
        text = source.read_text(encoding="utf-8").replace(ISSUER_NAME, issuer_url)
        state.write(f"policies/{source.name}", text)
    shutil.rmtree(state.rego, ignore_errors=True)
    shutil.copytree(_EXAMPLES / "rego", state.rego)
    return len(sources)


def write_configs(state: State, *, grpc_port: int, http_port: int) -> None:
    """Write `meshwarden.yaml` and `ca.yaml`."""
    workloads = [
        {"spiffeId": spiffe_id(name), "socket": str(state.socket(name))}
        for name in (SERVER, *CLIENTS)
    ]
    rego = {"paths": ["rego"], "entrypoint": "envoy/authz/result"}
    _dump(
        state.config,
        {
            "listen": {"grpc": f"{LOOPBACK}:{grpc_port}", "http": f"{LOOPBACK}:{http_port}"},
            "mesh": {"trustDomain": TRUST_DOMAIN},
            # The demo's issuer stands on loopback, which keys are not fetched from otherwise.
            "identity": {"jwks": {"allowLoopback": True}},
            "policies": {"paths": ["policies"]},
            "providers": [{"name": PROVIDER, "rego": rego}],
            "audit": {"folder": "audit"},
        },
    )
    _dump(
        state.ca_config,
        {"stateFolder": "ca", "trustDomain": TRUST_DOMAIN, "workloads": workloads},
    )


def _dump(path: Path, settings: dict[str, Any]) -> None:
    """Write settings as YAML in the order they were given."""
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
