"""What two filters in a row do to one request, as one list of changes.

Spec: Envoy `ext_authz`: of one answer, headers and query parameters are set first and
removed then, so that a name on both lists is gone. A later filter sees, and changes, what
an earlier one left. The way back runs through the filters in reverse: of two that
overwrite one response header, the earlier one has the last word. Dynamic metadata are
merged by top-level key, the later value replacing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from policies.decision import Mutations
from policies.request import Request

_Pairs = tuple[tuple[str, str], ...]
_Names = tuple[str, ...]
# Envoy takes `host` for another name of `:authority`.
_TARGET = {":method": "method", ":path": "path", ":authority": "host", "host": "host"}


def in_sequence(first: Mutations, second: Mutations) -> Mutations:
    """Return what both do, in the order of the filter chain."""
    headers = _Changes(
        first.set_request_headers, first.append_request_headers, first.remove_request_headers
    ).then(second.set_request_headers, second.append_request_headers, second.remove_request_headers)
    parameters = _Changes(first.set_query_parameters, (), first.remove_query_parameters).then(
        second.set_query_parameters, (), second.remove_query_parameters
    )
    return replace(
        _told(first, second),
        set_request_headers=headers.set,
        append_request_headers=headers.added,
        remove_request_headers=headers.removed,
        set_query_parameters=parameters.set,
        remove_query_parameters=parameters.removed,
    )


def on_denial(first: Mutations, denial: Mutations) -> Mutations:
    """Return what is told with a denial behind a filter that let the request pass.

    Its response headers are on the denial too: a filter adds them to whatever comes back.
    """
    return _told(first, denial)


def without_headers(mutations: Mutations, names: Collection[str]) -> Mutations:
    """Return the changes without those to request headers of these names."""
    if not names:
        return mutations
    return replace(
        mutations,
        set_request_headers=_without(mutations.set_request_headers, names),
        append_request_headers=_without(mutations.append_request_headers, names),
        remove_request_headers=tuple(
            name for name in mutations.remove_request_headers if name not in names
        ),
    )


def as_changed(request: Request, mutations: Mutations) -> Request:
    """Return the request as the next filter sees its headers and its query."""
    clear = in_sequence(mutations, Mutations())
    removed = set(clear.remove_request_headers)
    headers = {name: each for name, each in request.headers.items() if name not in removed}
    for name in _names(clear.set_request_headers):
        headers[name] = ()
    for name, value in clear.set_request_headers:
        headers[name] = (*headers[name], value)
    for name, value in clear.append_request_headers:
        # Envoy appends to the first line of that name, where there is one.
        line, *rest = headers.get(name, ("",))
        headers[name] = (f"{line},{value}" if line else value, *rest)
    written = _names(clear.set_request_headers)
    # A rule on the path is about the one that goes upstream.
    target = {field: headers[name][-1] for name, field in _TARGET.items() if name in written}
    path = _with_parameters(target.get("path", request.path), clear)
    if headers == request.headers and path == request.path:
        return request
    return replace(
        request,
        headers=headers,
        method=target.get("method", request.method),
        path=path,
        host=target.get("host", request.host),
    )


def settled(mutations: Mutations, request: Request) -> Mutations:
    """Return changes that add to a header only where the request has it, and else set it.

    WHY: Envoy 1.40 drops `append: true` for a header that is not there, and without it
    overwrites one that is.
    """
    if not mutations.append_request_headers:
        return mutations
    present = set(request.headers) | _names(mutations.set_request_headers)
    alone: list[tuple[str, str]] = []
    added: list[tuple[str, str]] = []
    for name, value in mutations.append_request_headers:
        (added if name in present else alone).append((name, value))
        present.add(name)
    return replace(
        mutations,
        set_request_headers=(*mutations.set_request_headers, *alone),
        append_request_headers=tuple(added),
    )


@dataclass(frozen=True, slots=True)
class _Changes:
    """What is set, then added, then removed."""

    set: _Pairs
    added: _Pairs
    removed: _Names

    def then(self, to_set: _Pairs, to_add: _Pairs, to_remove: _Names) -> _Changes:
        """Return these changes and the later ones as one; each name ends on one side."""
        anew = _names(to_set) | set(to_remove)
        set_before = _without(self.set, {*self.removed, *anew})
        added_before = _without(self.added, {*self.removed, *anew})
        # What is added to a header that was removed before stands alone there.
        alone = tuple(pair for pair in to_add if pair[0] in set(self.removed) - anew)
        added = tuple(pair for pair in to_add if pair not in alone)
        is_set = (*set_before, *_without(to_set, to_remove), *_without(alone, to_remove))
        is_added = (*added_before, *_without(added, to_remove))
        kept = _names((*is_set, *is_added))
        removed = tuple(n for n in dict.fromkeys((*self.removed, *to_remove)) if n not in kept)
        return _Changes(is_set, is_added, removed)


def _with_parameters(path: str, mutations: Mutations) -> str:
    """Return a path with the query parameters that go upstream; a token may be one of them."""
    changed = _names(mutations.set_query_parameters) | set(mutations.remove_query_parameters)
    if not changed:
        return path
    target, _, query = path.partition("?")
    pairs = [
        pair
        for pair in query.split("&")
        if pair and unquote(pair.partition("=")[0], errors="replace") not in changed
    ]
    pairs += [
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in mutations.set_query_parameters
    ]
    return f"{target}?{'&'.join(pairs)}" if pairs else target


def _told(first: Mutations, second: Mutations) -> Mutations:
    """Return what reaches the client and the access log, of both."""
    return Mutations(
        set_response_headers=(
            *_without(second.set_response_headers, _names(first.set_response_headers)),
            *first.set_response_headers,
        ),
        dynamic_metadata={**first.dynamic_metadata, **second.dynamic_metadata},
    )


def _without(pairs: _Pairs, names: Iterable[str]) -> _Pairs:
    gone = set(names)
    return tuple(pair for pair in pairs if pair[0] not in gone)


def _names(pairs: _Pairs) -> set[str]:
    return {name for name, _ in pairs}
