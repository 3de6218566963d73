"""Mesh settings from a file: our own, or Istio's MeshConfig as it stands in a cluster.

Our own has the keys of the `mesh:` section of `meshwarden.yaml`. Istio's is told
by its shape: the `istio` ConfigMap, an IstioOperator or Helm's `meshConfig:`
around it, or any key that only MeshConfig has. In Istio's, what does not concern
policies is left alone; in ours, an unknown key is an error.

Spec: istio.mesh.v1alpha1.MeshConfig; camelCase or snake_case, as protobuf JSON allows.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from policies.diagnostic import Diagnostic, LoadError, Location, shown
from policies.documents import YamlList, YamlMap, YamlNode, YamlScalar, parse_documents
from policies.fields import Fields, Findings
from policies.mesh import Mesh, MeshMode, PathNormalization
from policies.mesh_providers import HEADER_MAP, is_foreign_provider, read_number, read_providers

Choice = TypeVar("Choice", bound=StrEnum)

_OWN_KEYS = (
    "trustDomain", "trustDomainAliases", "rootNamespace", "trustedProxyHops", "mode",
    "envoyVersion", "pathNormalization", "extensionProviders", "multipleProviders",
)  # fmt: skip
# The other fields of MeshConfig, retired ones included: any of them tells Istio's file from ours.
_ISTIO_KEYS = frozenset(
    (
        "accessLogEncoding", "accessLogFile", "accessLogFormat", "ca", "caCertificates",
        "certificates", "configSources", "connectTimeout", "defaultConfig",
        "defaultDestinationRuleExportTo", "defaultHttpRetryPolicy", "defaultProviders",
        "defaultServiceExportTo", "defaultVirtualServiceExportTo", "disableEnvoyListenerLog",
        "disablePolicyChecks", "discoverySelectors", "dnsRefreshRate", "enableAutoMtls",
        "enableClientSidePolicyCheck", "enableEnvoyAccessLogService", "enablePrometheusMerge",
        "enableTracing", "h2UpgradePolicy", "hboneIdleTimeout", "inboundClusterStatName",
        "inboundTrafficPolicy", "ingressClass", "ingressControllerMode", "ingressSelector",
        "ingressService", "localityLbSetting", "meshMTLS", "mixerCheckServer",
        "mixerReportServer", "outboundClusterStatName", "outboundTrafficPolicy",
        "policyCheckFailOpen", "protocolDetectionTimeout", "proxyHttpPort",
        "proxyInboundListenPort", "proxyListenPort", "sdsUdsPath", "serviceScopeConfigs",
        "serviceSettings", "tcpKeepalive", "thriftConfig", "tlsDefaults", "trustBundle",
        "verifyCertificateAtClient",
    )
)  # fmt: skip
_MAX_HOPS = 2**31
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(\.[0-9]{1,4})?", re.ASCII)
_BLOCK_SCALAR = re.compile(r"[|>][-+0-9]*\s*(#.*)?$")


def load_mesh(text: str, file: str, *, unusable: list[Diagnostic] | None = None) -> Mesh:
    """Return the mesh settings of a file, ours or Istio's.

    An extension provider that is wrong refuses the file, unless a list is given as
    `unusable`: then it counts as one that does not exist, as it does for Istio's
    control plane, and what is wrong with it is added to the list as warnings.

    Raises:
        LoadError: not YAML, a wrong type or value, or (in our own file) an unknown key.
    """
    findings = Findings()
    root, is_wrapped = _unwrap(_only_document(text, file), text, file)
    renamed = _camel_cased(root)
    assert isinstance(renamed, YamlMap)
    is_istio = is_wrapped or _looks_like_istio(renamed)
    fields = Fields(renamed if is_istio else root, "", findings, None if is_istio else _OWN_KEYS)
    mesh = _read_mesh(fields, is_istio=is_istio, unusable=unusable)
    if findings.has_errors:
        raise LoadError(findings.diagnostics)
    return mesh


def _only_document(text: str, file: str) -> YamlMap:
    documents = parse_documents(text, file)
    if len(documents) > 1:
        raise _refusal(documents[1].location, "mesh settings are one document")
    # An empty file sets nothing: every setting has its default.
    root: YamlNode = documents[0] if documents else YamlMap({}, {}, Location(file, 1, 1))
    if not isinstance(root, YamlMap):
        raise _refusal(root.location, "mesh settings must be a mapping")
    return root


def _unwrap(root: YamlMap, text: str, file: str) -> tuple[YamlMap, bool]:
    """Return the settings inside what is around them, and whether that is Istio's."""
    kind = root.entries.get("kind")
    match kind.value if isinstance(kind, YamlScalar) else None:
        case "ConfigMap":
            return _config_map(root, text, file), True
        case "IstioOperator":
            return _inner(_inner(root, "spec"), "meshConfig"), True
        case None if "meshConfig" in root.entries:
            return _inner(root, "meshConfig"), True
        case None if set(root.entries) == {"mesh"}:
            return _inner(root, "mesh"), False
        case None:
            return root, False
        case other:
            raise _refusal(
                root.key_locations["kind"], f"`{other}` holds no mesh settings",
                "give the istio ConfigMap, an IstioOperator, a MeshConfig or our own settings",
            )  # fmt: skip


def _inner(outer: YamlMap, key: str) -> YamlMap:
    """Return the mapping at `key`; one that is not written sets nothing."""
    node = outer.entries.get(key)
    if node is None or (isinstance(node, YamlScalar) and node.value is None):
        return YamlMap({}, {}, outer.location)
    if not isinstance(node, YamlMap):
        raise _refusal(node.location, f"`{key}` must be a mapping")
    return node


def _config_map(root: YamlMap, text: str, file: str) -> YamlMap:
    """Return the MeshConfig in `data.mesh`, its places being those in the file around it."""
    mesh = _inner(root, "data").entries.get("mesh")
    if not isinstance(mesh, YamlScalar) or not isinstance(mesh.value, str):
        raise _refusal(
            root.location, "the ConfigMap has no text at `data.mesh`",
            "give the ConfigMap `istio` of the root namespace",
        )  # fmt: skip
    lines = text.splitlines()
    line = mesh.location.line
    inner = mesh.value
    if _BLOCK_SCALAR.search(lines[line - 1]):
        # The text stands in the file as it is, further down and further in.
        below = next((each for each in lines[line:] if each.strip()), "")
        margin = " " * (len(below) - len(below.lstrip(" ")))
        inner = "\n" * line + "".join(margin + each for each in inner.splitlines(keepends=True))
    try:
        return _only_document(inner, file)
    except LoadError as exc:
        raise LoadError(
            replace(found, message=f"`data.mesh`: {found.message}") for found in exc.diagnostics
        ) from exc


def _camel_cased(node: YamlNode) -> YamlNode:
    """Return the tree with `snake_case` keys as protobuf's JSON names, header names left alone."""
    if isinstance(node, YamlList):
        return YamlList(tuple(_camel_cased(item) for item in node.items), node.location)
    if not isinstance(node, YamlMap):
        return node
    entries: dict[str, YamlNode] = {}
    places: dict[str, Location] = {}
    for key, value in node.entries.items():
        head, *rest = key.split("_")
        name = head + "".join(part[:1].upper() + part[1:] for part in rest)
        if name in entries:
            raise _refusal(node.key_locations[key], f"`{shown(name)}` is written twice")
        entries[name] = value if name == HEADER_MAP else _camel_cased(value)
        places[name] = node.key_locations[key]
    return YamlMap(entries, places, node.location)


def _looks_like_istio(root: YamlMap) -> bool:
    if not _ISTIO_KEYS.isdisjoint(root.entries):
        return True
    if isinstance(root.entries.get("pathNormalization"), YamlMap):
        return True
    providers = root.entries.get("extensionProviders")
    items = providers.items if isinstance(providers, YamlList) else ()
    return any(is_foreign_provider(item) for item in items if isinstance(item, YamlMap))


def _read_mesh(fields: Fields, *, is_istio: bool, unusable: list[Diagnostic] | None) -> Mesh:
    default = Mesh()
    return Mesh(
        trust_domain=_name(fields, "trustDomain", default.trust_domain),
        trust_domain_aliases=fields.texts("trustDomainAliases"),
        root_namespace=_name(fields, "rootNamespace", default.root_namespace),
        trusted_proxy_hops=_hops(fields),
        mode=_choice(fields, "mode", MeshMode, default.mode),
        envoy_version=_envoy_version(fields, default.envoy_version),
        path_normalization=_path_normalization(fields),
        extension_providers=read_providers(fields, is_istio=is_istio, unusable=unusable),
        multiple_providers=_asks_several(fields),
    )


def _name(fields: Fields, key: str, default: str) -> str:
    """Return a text; protobuf does not tell an empty one from one that is not written."""
    return fields.text(key) or default


def _asks_several(fields: Fields) -> bool | None:
    """Return the setting; istiod has it in its environment, where no mesh file tells."""
    return fields.boolean("multipleProviders") if fields.has("multipleProviders") else None


def _choice(fields: Fields, key: str, choices: type[Choice], default: Choice) -> Choice:
    """Return the member of an enumeration, however its letters are cased."""
    text = fields.text(key)
    if not text:
        return default
    try:
        return choices(text.lower())
    except ValueError:
        known = [str(each) for each in choices]
        near = difflib.get_close_matches(text.lower(), known, n=1)
        fields.error(
            "unknown-value", f"`{fields.at(key)}` cannot be `{shown(text)}`", key,
            f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}",
        )  # fmt: skip
        return default


def _hops(fields: Fields) -> int | None:
    """Return our setting, or `defaultConfig.gatewayTopology.numTrustedProxies` of Istio's."""
    if fields.has("trustedProxyHops"):
        return read_number(fields, "trustedProxyHops", most=_MAX_HOPS)
    default_config = fields.child("defaultConfig") if fields.has("defaultConfig") else None
    topology = default_config.child("gatewayTopology") if default_config else None
    if topology is None or not topology.has("numTrustedProxies"):
        return None
    return read_number(topology, "numTrustedProxies", most=_MAX_HOPS)


def _envoy_version(fields: Fields, default: tuple[int, int]) -> tuple[int, int]:
    text = fields.text("envoyVersion")
    if not text:
        return default
    found = parse_envoy_version(text)
    if found is None:
        fields.error(
            "bad-version", f"`{shown(text)}` is not an Envoy version", "envoyVersion",
            'write it like `"1.40"`',
        )  # fmt: skip
    return found or default


def parse_envoy_version(text: str) -> tuple[int, int] | None:
    """Return (major, minor) of `1.40` or `1.40.2`, or None.

    >>> parse_envoy_version("1.40.2")
    (1, 40)
    """
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


def _path_normalization(fields: Fields) -> PathNormalization:
    """Return our word, or Istio's `{normalization: WORD}`; not written means as it is.

    WHY as it is, where Istio's default is BASE: an Envoy that asks has normalized
    already. `DEFAULT` written out is a wish to have it done.
    """
    place, key = fields, "pathNormalization"
    if isinstance(fields.node.entries.get(key), YamlMap):
        inner = fields.child(key)
        assert inner is not None
        place, key = inner, "normalization"
    # "DEFAULT: Apply default normalizations. Currently, this is BASE."
    if place.text(key).lower() == "default":
        return PathNormalization.BASE
    return _choice(place, key, PathNormalization, PathNormalization.AS_IS)


def _refusal(location: Location, message: str, help_: str = "") -> LoadError:
    return LoadError(
        [Diagnostic(code="mesh-invalid", message=message, location=location, help=help_)]
    )
