"""The mappings that are shipped: how other meshes name their workloads.

Consul: `spiffe://<td>/[ap/<partition>/]ns/<namespace>/dc/<datacenter>/svc/<service>`.
Linkerd: DNS SAN `<sa>.<ns>.serviceaccount.identity.<its namespace>.<td>`.
OSM: DNS SAN and CN `<sa>.<ns>.<td>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from identity.mapping import RuleTexts


class Preset(StrEnum):
    """A shipped mapping."""

    KUBERNETES = "kubernetes"
    CONSUL = "consul"
    LINKERD = "linkerd"
    OSM = "osm"


# Two datacenters may each have a service of one name, so the service account tells both;
# with the datacenter fixed, the service's name would do and a template can say so.
_CONSUL_ACCOUNT: Final = "{service}.{datacenter}"
_CONSUL_LABELS: Final = MappingProxyType({"datacenter": "{datacenter}", "service": "{service}"})

_RULES: Final[Mapping[Preset, tuple[RuleTexts, ...]]] = MappingProxyType(
    {
        Preset.KUBERNETES: (
            RuleTexts(
                pattern="/ns/{namespace}/sa/{serviceAccount}",
                namespace="{namespace}",
                service_account="{serviceAccount}",
            ),
        ),
        Preset.CONSUL: (
            RuleTexts(
                pattern="/ns/{namespace:label}/dc/{datacenter:label}/svc/{service:label}",
                namespace="{namespace}",
                service_account=_CONSUL_ACCOUNT,
                labels=_CONSUL_LABELS,
            ),
            RuleTexts(
                pattern="/ap/{partition:label}/ns/{namespace:label}"
                "/dc/{datacenter:label}/svc/{service:label}",
                namespace="{namespace}.{partition}",
                service_account=_CONSUL_ACCOUNT,
                labels={**_CONSUL_LABELS, "partition": "{partition}"},
            ),
        ),
        Preset.LINKERD: (
            RuleTexts(
                pattern="{serviceAccount}.{namespace}.serviceaccount.identity"
                ".{linkerdNamespace}.{trustDomain}",
                namespace="{namespace}",
                service_account="{serviceAccount}",
                fixed={"linkerdNamespace": "linkerd"},
                is_dns=True,
            ),
        ),
        Preset.OSM: (
            RuleTexts(
                pattern="{serviceAccount}.{namespace}.{trustDomain}",
                namespace="{namespace}",
                service_account="{serviceAccount}",
                is_dns=True,
            ),
        ),
    }
)


def preset_rules(
    preset: Preset,
    *,
    namespace: str = "",
    service_account: str = "",
    labels: Mapping[str, str] | None = None,
    fixed: Mapping[str, str] | None = None,
) -> tuple[RuleTexts, ...]:
    """Return a preset's rules, with those of its templates replaced that are given."""
    return tuple(
        replace(
            rule,
            namespace=namespace or rule.namespace,
            service_account=service_account or rule.service_account,
            labels={**rule.labels, **(labels or {})},
            fixed={**rule.fixed, **{k: v for k, v in (fixed or {}).items() if _has(rule, k)}},
        )
        for rule in _RULES[preset]
    )


def unknown_fixed(preset: Preset, fixed: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of `fixed` that no rule of the preset has as a variable."""
    return tuple(name for name in fixed if not any(_has(rule, name) for rule in _RULES[preset]))


def _has(rule: RuleTexts, variable: str) -> bool:
    return f"{{{variable}}}" in rule.pattern or f"{{{variable}:label}}" in rule.pattern
