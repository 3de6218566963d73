"""From `identity` settings to the parts that judge tokens."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from authz.identity_settings import IdentitySettings
from authz.token_settings import IntrospectionSettings
from identity.document_fetch import DocumentFetcher
from identity.errors import KeySourceError
from identity.introspection import IntrospectionProvider, Introspector
from identity.jwks_cache import JwksCache
from identity.jwt_verify import Verify
from identity.token_verifier import TokenVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenParts:
    """The keys of issuers, and what judges a token by them; `close` ends their threads."""

    keys: JwksCache
    verify: Verify
    introspector: Introspector | None = None

    def close(self) -> None:
        """Fetch and ask no more."""
        self.keys.close()
        if self.introspector is not None:
            self.introspector.close()


def build_token_parts(
    settings: IdentitySettings, environment: Mapping[str, str] = os.environ
) -> TokenParts:
    """Return the parts; nothing is fetched before the rules are known.

    Raises:
        KeySourceError: a client secret is not where the configuration says.
    """
    fetcher = DocumentFetcher(addresses=settings.jwks.to_address_rules())
    providers = [_provider(each, environment) for each in settings.introspection]
    keys = JwksCache(fetch=fetcher.fetch, times=settings.jwks.to_refresh_times())
    memory = settings.token_memory.to_memory()
    if not providers:
        return TokenParts(keys=keys, verify=memory.verify)
    # WHY a context of its own: reading the roots takes longer than an answer may.
    asking = DocumentFetcher(addresses=fetcher.addresses, tls=ssl.create_default_context())
    introspector = Introspector(providers, asking.post)
    verifier = TokenVerifier(verify_jwt=memory.verify, ask_issuer=introspector.verify)
    return TokenParts(keys=keys, verify=verifier.verify, introspector=introspector)


def longest_wait_seconds(settings: IdentitySettings) -> float:
    """Return how long a check may wait for a network at most: for a new key, or for an answer."""
    waits = [each.timeout_seconds for each in settings.introspection]
    return max([settings.jwks.wait_seconds, *waits])


def _provider(
    settings: IntrospectionSettings, environment: Mapping[str, str]
) -> IntrospectionProvider:
    """Return one provider with its secret."""
    return IntrospectionProvider(
        issuer=settings.issuer,
        endpoint=settings.endpoint,
        client_id=settings.client_id,
        client_secret=_secret(settings, environment),
        auth_method=settings.auth_method,
        timeout_seconds=settings.timeout_seconds,
        cache_seconds=settings.cache_seconds,
        refusal_cache_seconds=settings.refusal_cache_seconds,
    )


def _secret(settings: IntrospectionSettings, environment: Mapping[str, str]) -> str:
    """Return the client secret; an empty one is none."""
    if settings.client_secret_file is None:
        where = f"the environment variable `{settings.client_secret_env}`"
        secret = environment.get(settings.client_secret_env, "")
    else:
        where = f"`{settings.client_secret_file}`"
        try:
            secret = settings.client_secret_file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            raise KeySourceError(f"the client secret in {where} cannot be read: {why}") from exc
        except UnicodeDecodeError:
            # Its text has the bytes, and so has what it was raised from.
            raise KeySourceError(f"the client secret in {where} cannot be read: no UTF-8") from None
    if not secret:
        raise KeySourceError(f"{where} holds no client secret")
    return secret
