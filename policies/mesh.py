"""The settings of the mesh that change what a policy means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Mesh-wide settings.

    `trusted_proxy_hops` counts the proxies in front whose `x-forwarded-for`
    entries are believed; None means that `remote.ip` cannot be told, and then a
    condition on it never lets a request in and never lets one past a DENY.
    """

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    trusted_proxy_hops: int | None = None

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """The trust domain and then its aliases, in order."""
        return (self.trust_domain, *self.trust_domain_aliases)
