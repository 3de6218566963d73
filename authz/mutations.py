"""What an allowed request carries upstream: verified identity, and nothing the client forged."""

from __future__ import annotations

from authz.settings import IdentityHeaderSettings
from identity.request_authentication import Authentication
from policies.decision import Mutations
from policies.request import Request

_HEADER_BYTES_MAX = 16_384


def merge_mutations(
    custom: Mutations,
    authentication: Authentication,
    request: Request,
    headers: IdentityHeaderSettings,
) -> Mutations:
    """Return everything to do to an allowed request; later words win.

    Order: what RequestAuthentication passes on, what the provider set, then the
    identity headers, which neither a client nor a provider can speak for.
    """
    identity = _identity_headers(request, headers)
    protected = {name for name, _ in identity}
    wanted = _overlay(authentication.set_request_headers, custom.set_request_headers)
    wanted = tuple((name, value) for name, value in wanted if name not in protected)
    present = tuple((name, value) for name, value in identity if value)
    absent = tuple(name for name, value in identity if not value)
    set_headers = wanted + present
    names = {name for name, _ in set_headers}
    removed = dict.fromkeys(
        (*authentication.remove_request_headers, *custom.remove_request_headers, *absent)
    )
    return Mutations(
        set_request_headers=set_headers,
        # Envoy removes after it sets: a name that is set must not be on this list.
        remove_request_headers=tuple(name for name in removed if name not in names),
        set_response_headers=custom.set_response_headers,
        set_query_parameters=custom.set_query_parameters,
        remove_query_parameters=(
            *authentication.remove_query_parameters,
            *custom.remove_query_parameters,
        ),
        dynamic_metadata=custom.dynamic_metadata,
    )


def _overlay(
    first: tuple[tuple[str, str], ...], second: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """Return both lists, without those names of the first that the second sets as well."""
    taken = {name for name, _ in second}
    return tuple((name, value) for name, value in first if name not in taken) + second


def _identity_headers(
    request: Request, headers: IdentityHeaderSettings
) -> tuple[tuple[str, str], ...]:
    """Return each identity header with its value; an empty value means remove it."""
    peer = request.peer.principal if request.peer else ""
    subject = (request.claims.request_principal or "") if request.claims else ""
    pairs = ((headers.peer, peer), (headers.subject, subject))
    return tuple((name, _header_safe(value)) for name, value in pairs if name)


def _header_safe(value: str) -> str:
    """Return the value, or nothing when it cannot be a header value (RFC 9110 section 5.5).

    WHY nothing and not an escape: a changed identity is another identity.
    """
    is_safe = value.isascii() and value.isprintable() and len(value) <= _HEADER_BYTES_MAX
    return value if is_safe else ""
