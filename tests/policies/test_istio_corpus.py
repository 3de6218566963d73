"""Istio's semantics as named cases: `istio/*.yaml`, each row of `istio/rows.yaml` at least once.

`istio/README.md` says how a case is written. Every request goes the server's way: Envoy's
message is decoded and walked, tokens are signed with keys of the run and verified.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.struct_pb2 import Struct
from joserfc import jwk, jws

from authz.check_request import decode_check_request
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings, walk
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from policies.decision import Effect, ProviderError, ProviderVerdict
from policies.diagnostic import LoadError, Severity
from policies.mesh import ExtensionProvider, Mesh, MeshMode, PathNormalization
from policies.mesh_config import load_mesh
from policies.rbac import compile_filters
from policies.request import Request, Workload
from policies.snapshot import Snapshot, build_snapshot

FOLDER = Path(__file__).with_name("istio")
ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000
KINDS = {"AP": "AuthorizationPolicy", "RA": "RequestAuthentication", "PA": "PeerAuthentication"}
ALGORITHMS = {"issuer": "ES256", "stranger": "ES256", "shared": "HS256"}
EXPECTING = ("match", "miss", "allow", "deny")
# Tokens of `claims` are believed whoever issued them.
ANY_ISSUER = {
    "kind": "RA",
    "meta": {"name": "any-issuer", "namespace": "istio-system"},
    "spec": {"jwtRules": [{"jwksUri": "https://keys.example/jwks"}]},
}


def load_cases() -> Iterator[dict[str, Any]]:
    """Yield every case, with `spec` as a list; a rule is tried both in an ALLOW and in a DENY."""
    for path in sorted(FOLDER.glob("[0-9]*.yaml")):
        for case in yaml.safe_load(path.read_text("utf-8")):
            whole = {**case, "spec": [str(row) for row in as_list(case["spec"])]}
            is_both = "rule" in case and "action" not in case and "refused" not in case
            for action in ("ALLOW", "DENY") if is_both else (case.get("action", "ALLOW"),):
                yield {**whole, "action": action}


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as the one item of a list."""
    return value if isinstance(value, list) else [value]


CASES = list(load_cases())
ROWS: dict[str, Any] = {
    str(row): says
    for row, says in yaml.safe_load((FOLDER / "rows.yaml").read_text("utf-8")).items()
}


# -- tokens and certificates --------------------------------------------------------------------


@cache
def signing_key(name: str) -> Any:
    """Return a throw-away key of this run."""
    if ALGORITHMS[name] == "HS256":
        return jwk.OctKey.generate_key(256, {"kid": name})
    return jwk.ECKey.generate_key("P-256", {"kid": name})


class Keys:
    """Every issuer's keys, but for those whose name begins with `keyless`."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the keys of the run."""
        if rule.issuer.startswith("keyless"):
            return None
        keys = [
            signing_key("issuer").as_dict(private=False),
            signing_key("shared").as_dict(private=True),
        ]
        return parse_jwk_set(json.dumps({"keys": keys}), is_inline=True)


def mint(claims: dict[str, Any]) -> str:
    """Return a token; `exp` and `nbf` are relative to the run's clock, null leaves a claim out.

    `_text` is the whole token; `_key` who signs it, `_header` what its header says as well.
    """
    if "_text" in claims:
        return str(claims["_text"])
    body = {"exp": 600, **claims}
    key, header = body.pop("_key", "issuer"), body.pop("_header", {})
    for name in ("exp", "nbf"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value:
            body[name] = value + NOW
    body = {name: value for name, value in body.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        protected = {"alg": ALGORITHMS[key], "kid": key, **header}
        if protected["alg"] == "none":
            parts = (json.dumps(each).encode() for each in (protected, body))
            return ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts)
        payload = json.dumps(body, separators=(",", ":"))
        return str(jws.serialize_compact(protected, payload, signing_key(key)))


@cache
def certificate(uris: tuple[str, ...], dns: tuple[str, ...], subject: str) -> str:
    """Return a client certificate with these names, as Envoy sends it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(each) for each in dns]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    return quote(signed.public_bytes(serialization.Encoding.PEM).decode())


class FixedProvider:
    """A CUSTOM provider that denies paths that begin with `/no`, and breaks at `/broken`."""

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        """Return the verdict."""
        if request.path.startswith("/broken"):
            raise ProviderError("out of order")
        is_denied = request.path.startswith("/no") or request.sni == "no.example"
        return ProviderVerdict(effect=Effect.DENY if is_denied else Effect.ALLOW)


# -- a case's parts -----------------------------------------------------------------------------


def make_mesh(case: dict[str, Any]) -> Mesh:
    """Return the mesh of a case: read from a file's text, or by the names of its fields."""
    if "mesh_file" in case:
        return load_mesh(case["mesh_file"], "mesh.yaml")
    fields = dict(case.get("mesh", {}))
    for name, kind in (("mode", MeshMode), ("path_normalization", PathNormalization)):
        if name in fields:
            fields[name] = kind(fields[name])
    for name in ("trust_domain_aliases", "envoy_version"):
        if name in fields:
            fields[name] = tuple(fields[name])
    fields["extension_providers"] = tuple(
        ExtensionProvider(**each) for each in fields.get("extension_providers", ())
    )
    return Mesh(**fields)


def make_snapshot(case: dict[str, Any]) -> Snapshot:
    """Return the policies of a case, loaded as the server loads them."""
    policies = case.get("policies")
    if policies is None:
        policies = [{"action": case["action"], "rules": [case["rule"]]}]
    asks = [ask for key in EXPECTING for ask in case.get(key, ())]
    if any("claims" in ask for ask in asks):
        policies = [*policies, ANY_ISSUER]
    documents = []
    for index, spec in enumerate(dict(spec) for spec in policies):
        kind = KINDS[spec.pop("kind", "AP")]
        metadata = {"name": f"p{index}", "namespace": "shop", **spec.pop("meta", {})}
        body = spec.pop("spec", spec)
        api = {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata}
        documents.append(api if body is None else {**api, "spec": body})
    return build_snapshot([("case.yaml", yaml.safe_dump_all(documents))], make_mesh(case))


def make_message(case: dict[str, Any], ask: dict[str, Any]) -> CheckRequest:
    """Return Envoy's message for a request of a case."""
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = ask.get("peer", "")
    if "cert" in ask:
        cert = ask["cert"]
        names = tuple(cert.get("uris", ())), tuple(cert.get("dns", ()))
        attributes.source.certificate = certificate(*names, cert.get("subject", "CN=client"))
    if ask.get("ip") == "pipe":
        attributes.source.address.pipe.path = "@socket"
    else:
        attributes.source.address.socket_address.address = ask.get("ip", "192.0.2.7")
    destination = attributes.destination.address.socket_address
    destination.address, destination.port_value = ask.get("to", "10.9.9.9"), ask.get("port", 8080)
    for name, value in ask.get("context", {}).items():
        attributes.context_extensions[name] = value
    for name, value in ask.get("metadata", {}).items():
        section = Struct()
        section.update(value)
        attributes.metadata_context.filter_metadata[name].CopyFrom(section)
    if ask.get("tcp"):
        attributes.destination.service = ask.get("sni", "")
        return message
    if not ask.get("hides_sni"):
        attributes.tls_session.sni = ask.get("sni", "")
    fill_http(attributes.request.http, case, ask)
    return message


def fill_http(http: Any, case: dict[str, Any], ask: dict[str, Any]) -> None:
    """Write the HTTP attributes of a request; `joined` sends headers as a map, as by default."""
    tokens = {f"<{name}>": mint(claims) for name, claims in case.get("tokens", {}).items()}

    def filled(text: str) -> str:
        for mark, token in tokens.items():
            text = text.replace(mark, token)
        return text

    http.method, http.host = ask.get("method", "GET"), ask.get("host", "h.example")
    http.path, http.scheme = filled(ask.get("path", "/")), "https"
    pairs = [(":authority", http.host), (":method", http.method), (":path", http.path)]
    if "claims" in ask:
        pairs.append(("authorization", f"Bearer {mint(ask['claims'])}"))
    for name, values in ask.get("headers", {}).items():
        pairs += [(name, filled(value)) for value in as_list(values)]
    for name, value in pairs:
        if ask.get("joined"):
            before = f"{http.headers[name]}," if name in http.headers else ""
            http.headers[name] = before + value
        else:
            http.header_map.headers.add(key=name, raw_value=value.encode())


def answer(case: dict[str, Any], snapshot: Snapshot, ask: dict[str, Any]) -> Outcome:
    """Return the outcome of a request, as the server has it."""
    request = decode_check_request(make_message(case, ask).SerializeToString())
    providers = {name: FixedProvider() for name in case.get("providers", ())}
    state = ServingState(snapshot=snapshot, providers=providers, revision="r")
    around = Surroundings(
        keys=Keys(), now=lambda: float(NOW), static_workload=workload_of(case, ask)
    )
    return walk(request, state, around)


def workload_of(case: dict[str, Any], ask: dict[str, Any]) -> Workload:
    """Return the workload that is asked about."""
    labels = {**case.get("labels", {"app": "web"}), **ask.get("labels", {})}
    namespace = ask.get("namespace", case.get("namespace", "shop"))
    if ask.get("is_untold"):
        return Workload(namespace=namespace, has_told_labels=False)
    return Workload(namespace=namespace, labels=labels)


# -- the tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['spec'][0]} {case['note']} {case['action']}"
)
def test_case(case: dict[str, Any]) -> None:
    """Policies give the answers that the case says Istio gives."""
    if "refused" in case:
        with pytest.raises(LoadError) as refusal:
            make_snapshot(case)
        errors = [f for f in refusal.value.diagnostics if f.severity is Severity.ERROR]
        assert case["refused"] in {found.code for found in errors}, errors
        return
    snapshot = make_snapshot(case)
    warned = {found.code for found in snapshot.warnings}
    assert set(as_list(case.get("warned", []))) <= warned, warned
    if "compiled" in case:
        check_compiled(case, snapshot)
    fits = case["action"] == "ALLOW"
    wanted = (("match", fits), ("miss", not fits), ("allow", True), ("deny", False))
    asked = 0
    for key, is_allowed in wanted:
        for ask in case.get(key, ()):
            asked += 1
            outcome = answer(case, snapshot, ask)
            assert is_allowed == outcome.decision.is_allowed, (ask, outcome.decision)
            check_more(ask.get("want", {}), outcome)
    assert asked or "compiled" in case or "warned" in case, "a case must expect something"


def check_more(want: dict[str, Any], outcome: Outcome) -> None:
    """Check what else a request says of its answer."""
    decision = outcome.decision
    mutations = decision.mutations
    claims = outcome.request.claims
    got: dict[str, Any] = {
        "status": decision.http_status,
        "reason": str(decision.reason),
        "layer": str(decision.layer),
        "body": decision.body,
        "rule": decision.rule.name if decision.rule else None,
        "audited": [ref.name for ref in decision.audited_by],
        "shadow": {verdict.policy: str(verdict.outcome) for verdict in outcome.shadow},
        "shadow_matched": [v.matched.name if v.matched else None for v in outcome.shadow],
        "sets": dict(mutations.set_request_headers),
        "removes": list(mutations.remove_request_headers),
        "answers": dict(mutations.set_response_headers),
        "subject": claims.subject if claims else None,
        "claims": dict(claims.payload) if claims else None,
        "path": outcome.request.path,
    }
    for name, value in want.items():
        # Of claims and headers, those that the case names.
        if isinstance(value, dict):
            assert value == {each: got[name].get(each) for each in value}, (name, decision)
        elif name in ("removes", "keeps"):
            assert set(value).isdisjoint(got["removes"]) == (name == "keeps"), decision
        else:
            assert value == got[name], (name, decision)


def check_compiled(case: dict[str, Any], snapshot: Snapshot) -> None:
    """Check the filters that Envoy would get: their names in order, and texts in them."""
    want = case["compiled"]
    filters = compile_filters(
        [policy for policy, _ in snapshot.policies],
        workload_of(case, {}),
        snapshot.mesh,
        tcp=want.get("tcp", False),
        many_providers=want.get("many_providers", False),
    )
    text = json.dumps(filters)
    if "filters" in want:
        assert want["filters"] == [name_of(each) for each in filters]
    missing = [part for part in want.get("has", ()) if part not in text]
    assert missing == [], text
    assert [part for part in want.get("lacks", ()) if part in text] == [], text
    places = [text.index(part) for part in want.get("order", ())]
    assert places == sorted(places), text


def name_of(each: dict[str, Any]) -> str:
    """Return a filter's last name with its action: `rbac DENY`, `rbac shadow DENY`."""
    config = each["typedConfig"]
    name = each["name"].rpartition(".")[2]
    marks = [
        mark + config[key].get("action", "ALLOW")
        for key, mark in (("rules", ""), ("shadowRules", "shadow "))
        if key in config
    ]
    return " ".join([name, *marks])


def test_every_row_has_a_case() -> None:
    """Each row of the index has a case or a test, and each case names rows of the index."""
    named = {row for case in CASES for row in case["spec"]}
    tested = {row for row, says in ROWS.items() if isinstance(says, dict) and says["tests"]}

    assert ROWS.keys() - named - tested == set(), "rows without a case"
    assert named - ROWS.keys() == set(), "cases that name no row"


def test_every_named_test_stands() -> None:
    """What a row names as its proof elsewhere is a test that exists."""
    named = {
        test for says in ROWS.values() if isinstance(says, dict) for test in as_list(says["tests"])
    }
    for node in sorted(named):
        file, _, function = node.partition("::")
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        found = {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
        assert function in found, node


def test_rows_say_what_they_are() -> None:
    """Every row has an id of its section and a sentence."""
    for row, says in ROWS.items():
        text = says["says"] if isinstance(says, dict) else says
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)?(-[a-z0-9-]+)?", row), row
        assert isinstance(text, str) and len(text) > 10, row


def test_cases_are_named_apart() -> None:
    """No two cases of a row have the same name, and no case has a key that nobody reads."""
    names = [(case["spec"][0], case["note"], case["action"]) for case in CASES]
    assert len(names) == len(set(names)), [each for each in names if names.count(each) > 1]
    known = {"spec", "note", "rule", "action", "policies", "mesh", "mesh_file", "refused", "warned"}
    known |= {"compiled", "tokens", "providers", "labels", "namespace", *EXPECTING}
    assert [case for case in CASES if not case.keys() <= known] == []
    asked = {
        name for case in CASES for key in EXPECTING for ask in case.get(key, ()) for name in ask
    }
    known = {"peer", "cert", "ip", "to", "port", "context", "metadata", "tcp", "sni", "hides_sni"}
    known |= {"method", "host", "path", "claims", "headers", "joined", "labels", "namespace"}
    known |= {"is_untold"}
    assert asked - known - {"want"} == set()
