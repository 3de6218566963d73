"""A request as the filters behind the verification of tokens see it."""

from __future__ import annotations

from identity.request_authentication import Authentication
from policies.request import Request


def as_verified(request: Request, authentication: Authentication) -> Request:
    """Return the request with the headers that the verification took away and wrote.

    What DENY and ALLOW rules say of such a header is said of what was verified,
    never of what a client claimed. CUSTOM rules come before, and see the original.

    Spec: Envoy `jwt_authn`: a provider's `forward_payload_header` and `claim_to_headers`
    are removed from what came in; `forward: false` removes the header of the token.
    """
    removed, written = authentication.remove_request_headers, authentication.set_request_headers
    if not written and not any(name in request.headers for name in removed):
        return request
    headers = {name: each for name, each in request.headers.items() if name not in removed}
    headers |= {name: () for name, _ in written}
    for name, value in written:
        headers[name] = (*headers[name], value)
    return request.altered(headers=headers)
