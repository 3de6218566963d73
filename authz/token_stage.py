"""The tokens of a request, verified: once as they came, and anew where a provider changed them.

Spec: Istio's JWT filter stands behind CUSTOM, and so verifies what a provider left. Here the
tokens are verified before as well, so that a provider sees claims that hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from authz.decide import TokenStage
from authz.selection import Selection
from authz.verified_request import as_verified
from identity.jwt_rule import JwtRule, RuleOrigin
from identity.jwt_verify import Verify
from identity.request_authentication import (
    Authentication,
    KeyLookup,
    TokenFailure,
    authenticate_request,
)
from policies.decision import Decision, Effect, Layer, Mutations, Reason, RuleRef
from policies.request import Request


class Verifying(Protocol):
    """What a verification needs besides the request and the rules; see `walk.Surroundings`."""

    @property
    def keys(self) -> KeyLookup:
        """Where keys come from."""
        ...

    @property
    def now(self) -> Callable[[], float]:
        """The clock."""
        ...

    @property
    def on_unknown_key(self) -> Callable[[JwtRule], bool]:
        """Who hears of unknown keys."""
        ...

    @property
    def verify_token(self) -> Verify:
        """What judges a token."""
        ...


class Tokens:
    """The tokens of one request on its walk. For one thread."""

    def __init__(self, request: Request, selection: Selection, around: Verifying) -> None:
        """Take a request and the rules of its workload; nothing is verified yet."""
        self._selection = selection
        self._around = around
        self._given = request.claims
        self.authentication = Authentication()
        """What was found by the last verification."""
        self.is_moved = False
        """Whether tokens were verified anew, of a request that a provider changed."""

    def verify(self, request: Request) -> TokenStage:
        """Return what became of a request's tokens, and keep it."""
        found = self.authentication = self._authenticated(request)
        request = self.claimed(request)
        failure = found.failure
        return TokenStage(
            refusal=None if failure is None else _refusal(failure),
            verified=request if failure is not None else as_verified(request, found),
            owned_headers=found.owned_headers,
            taken_headers=frozenset(found.remove_request_headers),
            carriers=self._selection.token_carriers | {"cookie"},
            again=self._verify_again,
        )

    def _verify_again(self, request: Request) -> TokenStage:
        self.is_moved = True
        return self.verify(request)

    def claimed(self, request: Request) -> Request:
        """Return a request with the claims that were found, else those it came with."""
        found = self.authentication.claims
        claims = self._given if found is None else found
        return request if request.claims is claims else request.altered(claims=claims)

    def _authenticated(self, request: Request) -> Authentication:
        around = self._around
        return authenticate_request(
            self._selection.token_rules,
            method=request.method,
            path=request.path,
            host=request.host,
            scheme=request.scheme,
            headers=request.headers,
            keys=around.keys,
            now=around.now(),
            on_unknown_key=around.on_unknown_key,
            verify=around.verify_token,
        )


def _refusal(failure: TokenFailure) -> Decision:
    """Return the 401 or 403 that Envoy's jwt_authn gives."""
    return Decision(
        effect=Effect.DENY,
        reason=Reason.TOKEN_INVALID,
        layer=Layer.REQUEST_AUTHENTICATION,
        rule=_rule_of(failure.origin),
        detail=failure.detail,
        http_status=failure.http_status,
        body=failure.body,
        mutations=Mutations(set_response_headers=(("www-authenticate", failure.www_authenticate),)),
    )


def _rule_of(origin: RuleOrigin | None) -> RuleRef | None:
    if origin is None:
        return None
    return RuleRef(
        namespace=origin.namespace, policy=origin.name, file=origin.file, line=origin.line
    )
