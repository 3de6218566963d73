"""What is tried: a policy set and the requests (probes) sent to it, as plain values.

Everything here converts to and from the plain data of a YAML case, so that what
the generator makes, what the shrinker cuts and what stands in `cases/` are one thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

WORKLOAD_NAMESPACE = "foo"
WORKLOAD_LABELS = {"app": "httpbin", "version": "v1"}
ROOT_NAMESPACE = "istio-system"
PLAINTEXT = "plain"
NO_CERTIFICATE = "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One request, to the byte.

    Texts are Latin-1, one character a byte. `host` None sends no `Host`. `peer`
    names a client certificate (`identities.CLIENTS`), `plain` or `tls` (TLS, no
    certificate). `destination` (`address:port`) is told by the PROXY protocol;
    empty is the listener's own. `client` is the source that is told with it, empty the
    true one. `{tokenN}` in `target` and header values stands for the N-th of `tokens`.
    `scheme` is told over HTTP/2; without it the probe goes over HTTP/1.1.
    """

    method: str = "GET"
    target: str = "/"
    host: str | None = "shop.example"
    headers: tuple[tuple[str, str], ...] = ()
    peer: str = PLAINTEXT
    sni: str = ""
    source: str = "127.0.0.1"
    destination: str = ""
    client: str = ""
    scheme: str = ""
    tokens: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Probe:
        """Return the probe a case spells."""
        return cls(
            **{
                **plain,
                "headers": tuple((str(n), str(v)) for n, v in plain.get("headers", ())),
                "tokens": tuple(plain.get("tokens", ())),
            }
        )

    def plain(self) -> dict[str, Any]:
        """Return what a case spells: only what is not the default."""
        default = Probe()
        spelled: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value == getattr(default, name):
                continue
            spelled[name] = [list(pair) for pair in value] if name == "headers" else value
            if name == "tokens":
                spelled[name] = [dict(token) for token in value]
        return spelled


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """Istio resources as plain data, with the settings that change what they mean.

    `mesh` has the keys `trust_domain`, `trust_domain_aliases` and `path_normalization`
    (`NONE`, `BASE`, `MERGE_SLASHES`, `DECODE_AND_MERGE_SLASHES`), `gateway_hops` (None:
    a sidecar, which does not add to `x-forwarded-for`), `multiple_providers` (False:
    CUSTOM policies of more than one deny), `tcp` (network filters).
    """

    resources: tuple[Mapping[str, Any], ...]
    mesh: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def is_tcp(self) -> bool:
        """Whether the set stands on a TCP port."""
        return bool(self.mesh.get("tcp"))

    def text(self) -> str:
        """Return the resources as the YAML text that both sides load."""
        return dump_all(self.resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: the status (0: the connection was closed), and why, for people."""

    status: int
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A probe that the two sides answered differently."""

    policies: PolicySet
    probe: Probe
    envoy: Answer
    ours: Answer

    def __str__(self) -> str:
        """The difference as a YAML case, its answers as comments."""
        case = {
            "name": self.policies.name or "found",
            "mesh": dict(self.policies.mesh),
            "policies": [dict(each) for each in self.policies.resources],
            "requests": [self.probe.plain()],
        }
        heads = [
            f"# envoy: {self.envoy.status} {self.envoy.why}".rstrip(),
            f"# ours:  {self.ours.status} {self.ours.why}".rstrip(),
        ]
        return "\n".join([*heads, dump([case])])


def dump(value: Any) -> str:
    """Return plain data as YAML without aliases."""
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=100)


def dump_all(values: Sequence[Mapping[str, Any]]) -> str:
    """Return plain mappings as YAML documents without aliases."""
    return yaml.dump_all([dict(v) for v in values], Dumper=_Plain, sort_keys=False, width=100)


class _Plain(yaml.CSafeDumper):
    """YAML without anchors: a case is read by people, and resources may not use them."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an alias."""
        return True


def _text(dumper: _Plain, value: str) -> yaml.ScalarNode:
    # `080` is text to one YAML reader and a number to another: quoted, it is text to all.
    style = "'" if value[:1].isdigit() or value[:1] in "+-." else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Plain.add_representer(str, _text)
