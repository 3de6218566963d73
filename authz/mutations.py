"""What an allowed request carries upstream: verified identity, and nothing the client forged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from authz.mutation_sequence import settled
from authz.settings import IdentityHeaderSettings
from identity.request_authentication import Authentication
from policies.decision import NO_MUTATIONS, Mutations
from policies.request import Request

_HEADER_BYTES_MAX = 16_384

_Pairs = tuple[tuple[str, str], ...]
_Names = tuple[str, ...]


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
    written, removed = authentication.set_request_headers, authentication.remove_request_headers
    parameters = authentication.remove_query_parameters
    suspects = tuple([name for name in request.headers if "_" in name])
    # WHY not those: strangers choose such names, and what is kept has to be small.
    if custom is NO_MUTATIONS and not suspects:
        return _alone(written, removed, parameters, identity)
    return _merged(settled(custom, request), written, removed, parameters, identity, suspects)


@lru_cache(maxsize=512)  # BUDGET: callers and subjects at one time
def _alone(written: _Pairs, removed: _Names, parameters: _Names, identity: _Pairs) -> Mutations:
    """Return what is done where no provider has a say."""
    return _merged(NO_MUTATIONS, written, removed, parameters, identity, ())


def _merged(
    custom: Mutations,
    written: _Pairs,
    taken: _Names,
    parameters: _Names,
    identity: _Pairs,
    suspects: _Names,
) -> Mutations:
    protected = {name for name, _ in identity}
    named = protected.union([name for name, _ in written], taken)
    wanted = _overlay(written, custom.set_request_headers)
    wanted = tuple((name, value) for name, value in wanted if name not in protected)
    present = tuple((name, value) for name, value in identity if value)
    absent = tuple(name for name, value in identity if not value)
    set_headers = wanted + present
    added = tuple(
        (name, value) for name, value in custom.append_request_headers if name not in protected
    )
    names = {name for name, _ in set_headers + added}
    removed = dict.fromkeys(
        (*taken, *custom.remove_request_headers, *absent, *_look_alikes(suspects, named))
    )
    return Mutations(
        set_request_headers=set_headers,
        append_request_headers=added,
        # Envoy removes after it sets: a name that is set must not be on this list.
        remove_request_headers=tuple(name for name in removed if name not in names),
        set_response_headers=custom.set_response_headers,
        set_query_parameters=custom.set_query_parameters,
        remove_query_parameters=(*parameters, *custom.remove_query_parameters),
        dynamic_metadata=custom.dynamic_metadata,
    )


def _look_alikes(suspects: _Names, names: set[str]) -> Iterator[str]:
    """Yield those that are spelled like `names` but for `_` in place of `-`.

    WHY: CGI and WSGI upstreams read `x_a` and `x-a` as one variable (RFC 3875
    section 4.1.18), and Envoy lets names with `_` pass unless told otherwise.
    """
    folded = {name.replace("_", "-") for name in names} if suspects else names
    for name in suspects:
        if name not in names and name.replace("_", "-") in folded:
            yield name


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
    # "A field value does not include leading or trailing whitespace": the way cuts it off.
    is_safe = is_safe and value == value.strip()
    return value if is_safe else ""
