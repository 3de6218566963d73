"""One trial: policy sets pushed to Envoy and to us, probes asked of both, answers compared."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authz.custom import CustomTerms
from examples.demo.processes import Supervisor
from policies.diagnostic import LoadError
from policies.load import read_resources
from policies.mesh import ExtensionProvider, Mesh, MeshMode
from policies.model import AuthorizationPolicy
from policies.rbac import compile_filters
from policies.snapshot import Snapshot, build_snapshot
from tests.differential import listeners
from tests.differential.authorizers import WORKLOAD, OurSide
from tests.differential.identities import Identities
from tests.differential.model import ROOT_NAMESPACE, Answer, Difference, PolicySet, Probe
from tests.differential.proxy import EnvoyProxy
from tests.differential.tally import Tally
from tests.differential.tokens import TokenMint
from tests.differential.wire import Client, Door

JWKS_MARK = "$JWKS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A policy set that was not tried, for one side does not take it."""

    policies: PolicySet
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A policy set that stands on both sides, ready for probes."""

    policies: PolicySet
    snapshot: Snapshot
    native: Door
    ours: Door


@dataclass(slots=True, kw_only=True)
class Trial:
    """Both sides, running."""

    identities: Identities
    mint: TokenMint
    client: Client
    ours: OurSide
    envoy: EnvoyProxy
    tally: Tally = field(default_factory=Tally)
    _pushes: int = 0

    def stand(
        self, sets: Sequence[PolicySet], refusals: list[Refusal] | None = None
    ) -> list[Standing]:
        """Put policy sets up on both sides; those that either side refuses go to `refusals`."""
        self.client.close()
        self.mint.turn()
        self._pushes += 1
        refusals = [] if refusals is None else refusals
        loaded: list[tuple[PolicySet, Snapshot, str, str]] = []
        wanted: list[dict[str, Any]] = []
        for number, policies in enumerate(sets):
            try:
                snapshot, pair = self._listeners(policies, f"{self._pushes}-{number}")
            except LoadError as exc:
                refusals.append(Refusal(policies=policies, by="us", why=_first_error(exc)))
                continue
            wanted.extend(pair)
            loaded.append((policies, snapshot, pair[0]["name"], pair[1]["name"]))
        doors, refused = self.envoy.push(wanted)
        standing = []
        for policies, snapshot, native, ours in loaded:
            why = refused.get(native) or refused.get(ours)
            if why:
                refusals.append(Refusal(policies=policies, by="Envoy", why=why))
                continue
            standing.append(
                Standing(
                    policies=policies, snapshot=snapshot, native=doors[native], ours=doors[ours]
                )
            )
        return standing

    def run(self, standing: Standing, probes: Sequence[Probe]) -> Iterator[Difference]:
        """Ask both sides each probe, count, and yield where they differ."""
        self.tally.sets += 1
        self.tally.tcp_sets += standing.policies.is_tcp
        for probe in probes:
            native, ours = self.ask(standing, probe)
            self.tally.count(probe, native, is_tcp=standing.policies.is_tcp)
            if native.status == ours.status:
                continue
            # A busy machine may time a side out; a difference is one that comes again.
            found = self.compare(standing, probe)
            if found is None:
                self.tally.unsteady += 1
            else:
                yield found
        self.client.close()

    def compare(self, standing: Standing, probe: Probe) -> Difference | None:
        """Return the difference that one probe shows, if any."""
        native, ours = self.ask(standing, probe)
        if native.status == ours.status:
            return None
        return Difference(policies=standing.policies, probe=probe, envoy=native, ours=ours)

    def ask(self, standing: Standing, probe: Probe) -> tuple[Answer, Answer]:
        """Return Envoy's answer and ours, to which our reason is added."""
        asks_several = mesh_of(standing.policies).multiple_providers is not False
        self.ours.serve(standing.snapshot, CustomTerms(asks_several=asks_several))
        ask = self.client.knock if standing.policies.is_tcp else self.client.ask
        native = ask(standing.native, probe)
        self.ours.last.record = None
        ours = ask(standing.ours, probe)
        why = f"{ours.why} {self.ours.last.why()}".strip()
        return native, Answer(status=ours.status, why=why)

    def _listeners(
        self, policies: PolicySet, name: str
    ) -> tuple[Snapshot, tuple[dict[str, Any], dict[str, Any]]]:
        """Return our snapshot of a set, and its listeners: native and ours."""
        text = policies.text().replace(f"'{JWKS_MARK}'", JWKS_MARK)
        texts = [(policies.name or "set", text.replace(JWKS_MARK, f"'{self.mint.jwks}'"))]
        mesh = mesh_of(policies)
        snapshot = build_snapshot(texts, mesh)
        resources = read_resources(texts).resources
        enforced = tuple(each for each in resources if isinstance(each, AuthorizationPolicy))
        compiled = compile_filters(
            enforced,
            WORKLOAD,
            mesh,
            tcp=policies.is_tcp,
            many_providers=mesh.multiple_providers is not False,
        )
        tls = listeners.tls_socket(
            self.identities.root_pem, self.identities.server_chain, self.identities.server_key
        )
        native_name, our_name = f"native-{name}", f"ours-{name}"
        if policies.is_tcp:
            return snapshot, (
                listeners.tcp_listener(native_name, compiled, tls),
                listeners.tcp_listener(our_name, listeners.our_network_filters(), tls),
            )
        native = listeners.native_filters(compiled, snapshot.select(WORKLOAD).jwt_rules)
        ours = listeners.our_filters(namespaces=(listeners.METADATA,))
        return snapshot, (
            listeners.http_listener(native_name, native, policies.mesh, tls),
            listeners.http_listener(our_name, ours, policies.mesh, tls),
        )


def _first_error(exc: LoadError) -> str:
    errors = [str(each) for each in exc.diagnostics if " error" in f" {each}"]
    return (errors or [str(exc)])[0]


def mesh_of(policies: PolicySet) -> Mesh:
    """Return the mesh settings of a set, as both sides read them."""
    plain = policies.mesh
    return Mesh(
        trust_domain=plain.get("trust_domain", "cluster.local"),
        trust_domain_aliases=tuple(plain.get("trust_domain_aliases", ())),
        root_namespace=ROOT_NAMESPACE,
        multiple_providers=plain.get("multiple_providers"),
        trusted_proxy_hops=plain.get("gateway_hops") or 0,
        mode=MeshMode.SIDECAR if plain.get("gateway_hops") is None else MeshMode.GATEWAY,
        extension_providers=tuple(
            ExtensionProvider(
                name=name,
                kind="envoyExtAuthzGrpc",
                service=listeners.PROVIDER,
                port=port,
                timeout_seconds=5.0,
            )
            for name, port in listeners.PROVIDER_PORTS.items()
        ),
    )


@contextmanager
def running_trial() -> Iterator[Trial]:
    """Start both sides; all ends with the context."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mw-diff-")))
        identities = Identities(folder)
        mint = TokenMint(time.time)
        ours = OurSide()
        stack.callback(ours.close)
        supervisor = stack.enter_context(Supervisor(folder))
        envoy = EnvoyProxy(folder, supervisor, ours.ports)
        stack.callback(envoy.close)
        client = Client(identities=identities, mint=mint)
        stack.callback(client.close)
        yield Trial(identities=identities, mint=mint, client=client, ours=ours, envoy=envoy)
