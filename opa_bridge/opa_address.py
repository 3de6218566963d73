"""Where a real OPA server listens and how to speak to it: read and judged once, at load."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from policies.diagnostic import Diagnostic, LoadError, Location

# BUDGET: a decision is some hundred bytes; OPA may send no more than this for one.
MAX_RESULT_BYTES = 1024 * 1024
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaServer:
    """A server as the configuration names it.

    `url` is `http://host:port`, `https://host:port` (with a path where OPA stands behind a
    prefix) or `unix:///path/of/socket`. The files are read when they are needed, anew when
    they changed: a bearer token, the roots that OPA's certificate is judged by (the
    system's without it), and a certificate of our own with its key.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    max_result_bytes: int = MAX_RESULT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server's address in parts; `socket_path` is empty for TCP."""

    host: str
    port: int = 0
    socket_path: str = ""
    is_tls: bool = False
    prefix: str = ""

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


def read_endpoint(server: OpaServer) -> Endpoint:
    """Return the address of a server.

    Raises:
        LoadError: the URL is of another shape, or the token would travel in the clear.
    """
    try:
        parts = urlsplit(server.url)
        port = parts.port
    except ValueError as exc:
        raise refusal(server.url, "the address of OPA is no URL") from exc
    if parts.username or parts.password or parts.query or parts.fragment:
        raise refusal(
            server.url.rpartition("@")[2],
            "the address of OPA holds more than scheme, host, port and path",
            "a token is named by `token_file`",
        )
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Endpoint(host="localhost", socket_path=parts.path)
    host = parts.hostname or ""
    if parts.scheme not in _PORTS or not host or not host.isascii() or not host.isprintable():
        raise refusal(
            server.url,
            "the address of OPA is not of a shape that is known",
            "write `http://host:port`, `https://host:port` or `unix:///path`",
        )
    # RFC 6750 section 5.3: "Always use TLS (https)": who reads the token speaks for us.
    if server.token_file is not None and parts.scheme == "http" and not is_loopback(host):
        raise refusal(server.url, "the token would go to OPA in the clear", "use `https://`")
    return Endpoint(
        host=host,
        port=_PORTS[parts.scheme] if port is None else port,
        is_tls=parts.scheme == "https",
        prefix=quote(parts.path.rstrip("/"), safe="/%"),
    )


def refusal(url: str, message: str, help_: str = "", code: str = "rego.opa") -> LoadError:
    """Return the error of a server that cannot serve."""
    problem = Diagnostic(code=code, message=message, location=Location(url), help=help_)
    return LoadError([problem])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as it is written; no name is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
