"""What a provider leaves of a token is what is verified, and what goes upstream afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings, walk
from identity.jwks_cache import JwksCache
from policies.decision import Effect, Mutations, ProviderVerdict
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot
from tests.differential.tokens import TokenMint

ISSUER = "https://issuer.example"


@dataclass(slots=True)
class Leaving:
    """A provider that allows, and changes the request; it keeps the claims that it saw."""

    mutations: Mutations
    seen: Any = None

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        """Allow."""
        self.seen = request.claims
        return ProviderVerdict(effect=Effect.ALLOW, mutations=self.mutations)


@pytest.fixture(scope="module")
def mint() -> TokenMint:
    """Return what makes tokens."""
    return TokenMint(time.time)


@pytest.fixture
def keys() -> Iterator[JwksCache]:
    """Yield where keys come from."""
    cache = JwksCache()
    yield cache
    cache.close()


def outcome_of(
    mint: TokenMint,
    keys: JwksCache,
    provider: Leaving,
    token: str = "",
    *,
    path: str = "/",
    **rule: Any,
) -> Outcome:
    """Return what comes of a request with that token in `authorization`."""
    specs: list[tuple[str, dict[str, Any]]] = [
        ("RequestAuthentication", {"jwtRules": [{"issuer": ISSUER, "jwks": mint.jwks} | rule]}),
        (
            "AuthorizationPolicy",
            {"action": "CUSTOM", "provider": {"name": "leaving"}, "rules": [{}]},
        ),
    ]
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": kind,
            "metadata": {"name": kind.lower(), "namespace": "shop"},
            "spec": spec,
        }
        for kind, spec in specs
    ]
    snapshot = build_snapshot([("p.yaml", yaml.safe_dump_all(documents))], Mesh())
    keys.prepare(snapshot.jwt_rules)
    state = ServingState(snapshot=snapshot, providers={"leaving": provider}, revision="r")
    around = Surroundings(keys=keys, static_workload=Workload(namespace="shop"))
    headers = {"authorization": (f"Bearer {token}",)} if token else {}
    request = Request(method="GET", path=path, host="shop.example", headers=headers)
    return walk(request, state, around)


def token_of(mint: TokenMint, subject: str) -> str:
    """Return a token of a subject."""
    return mint.token({"claims": {"iss": ISSUER, "sub": subject}})


def test_provider_sees_the_token_that_came(mint: TokenMint, keys: JwksCache) -> None:
    """The provider knows the client's claims; who asked is whose token it left."""
    bearer = f"Bearer {token_of(mint, 'b')}"
    provider = Leaving(Mutations(set_request_headers=(("authorization", bearer),)))

    outcome = outcome_of(mint, keys, provider, token_of(mint, "a"))

    assert outcome.decision.is_allowed
    assert provider.seen.subject == "a"
    assert outcome.request.claims is not None
    assert outcome.request.claims.subject == "b"


def test_token_that_was_taken_away_gives_no_claims(mint: TokenMint, keys: JwksCache) -> None:
    """Without its token a request has no claims, and carries no identity of them upstream."""
    provider = Leaving(Mutations(remove_request_headers=("authorization",)))
    rule = {"outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}]}

    outcome = outcome_of(mint, keys, provider, token_of(mint, "a"), **rule)

    assert outcome.decision.is_allowed
    assert outcome.request.claims is None
    changes = outcome.decision.mutations
    assert "x-sub" not in dict(changes.set_request_headers)
    assert {"x-sub", "authorization"} <= set(changes.remove_request_headers)


@pytest.mark.parametrize("forwarded", [True, False])
def test_token_that_was_written_goes_as_far_as_its_rule_says(
    mint: TokenMint, keys: JwksCache, forwarded: bool
) -> None:
    """`forwardOriginalToken` is about the token that is verified, whoever wrote it."""
    bearer = f"Bearer {token_of(mint, 'b')}"
    provider = Leaving(Mutations(set_request_headers=(("authorization", bearer),)))

    outcome = outcome_of(mint, keys, provider, forwardOriginalToken=forwarded)

    changes = outcome.decision.mutations
    assert (("authorization", bearer) in changes.set_request_headers) is forwarded
    assert ("authorization" in changes.remove_request_headers) is not forwarded


def test_bad_token_that_was_written_is_refused(mint: TokenMint, keys: JwksCache) -> None:
    """A token that a provider writes is verified, and refused as a client's is."""
    provider = Leaving(Mutations(set_request_headers=(("authorization", "Bearer x"),)))

    decision = outcome_of(mint, keys, provider, token_of(mint, "a")).decision

    assert (decision.reason, decision.http_status) == ("token_invalid", 401)
    assert "Bearer x" not in json.dumps(decision.detail)


@pytest.mark.parametrize(
    ("removed", "written", "subject"),
    [((), "b", "b"), (("access_token",), "", None), ((), "", "a")],
)
def test_token_in_the_query_is_the_one_that_goes_upstream(
    mint: TokenMint, keys: JwksCache, removed: tuple[str, ...], written: str, subject: str | None
) -> None:
    """A parameter that a provider takes away gives no claims; one that it writes is verified."""
    parameters = (("access_token", token_of(mint, written)),) if written else ()
    provider = Leaving(Mutations(set_query_parameters=parameters, remove_query_parameters=removed))
    path = f"/x?a=1&access%5Ftoken={token_of(mint, 'a')}"

    outcome = outcome_of(mint, keys, provider, path=path, fromParams=["access_token"])

    assert outcome.decision.is_allowed
    assert provider.seen.subject == "a"
    claims = outcome.request.claims
    assert subject == (None if claims is None else claims.subject)
    assert outcome.request.path.startswith("/x?a=1")


def test_bad_token_in_a_written_parameter_is_refused(mint: TokenMint, keys: JwksCache) -> None:
    """A parameter is verified as a header is."""
    provider = Leaving(Mutations(set_query_parameters=(("access_token", "a b&c"),)))

    outcome = outcome_of(mint, keys, provider, fromParams=["access_token"])

    assert (outcome.decision.reason, outcome.decision.http_status) == ("token_invalid", 401)


def test_other_changes_leave_the_token_as_verified(mint: TokenMint, keys: JwksCache) -> None:
    """A provider that does not touch a token costs no second verification."""
    provider = Leaving(Mutations(set_request_headers=(("x-other", "1"),)))
    token = token_of(mint, "a")

    outcome = outcome_of(mint, keys, provider, token)

    assert outcome.request.claims is provider.seen
