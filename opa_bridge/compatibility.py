"""Where this house is safer than opa-envoy-plugin, and the switch that takes each one back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """Switches for policies that depend on what opa-envoy-plugin does; all off is the safe way.

    encoded_slash: `%2F` in a path separates segments of `parsed_path`, as if it were `/`.
        Off: such a request is denied (400), since the upstream may read it either way.
    rewrite_target: a result's `headers` may set `:path`, `:method`, `:authority` and `host`.
        Off: that is an error, since the request would go elsewhere than was decided.
    append_headers: headers of an allow are added to those of the same name that are there.
        Off: they replace what the client sent, so that `x-user` is the policy's alone.
    silent_unknown_keys: keys of a result that mean nothing are not told of.
        Off: they are warned of at load and named in the record.
    undefined_samples: an entrypoint that is undefined for a sample request loads (and denies
        whatever it is undefined for). Off: it is refused at load.
    """

    encoded_slash: bool = False
    rewrite_target: bool = False
    append_headers: bool = False
    silent_unknown_keys: bool = False
    undefined_samples: bool = False
