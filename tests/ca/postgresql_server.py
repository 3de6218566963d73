"""A PostgreSQL server of a test's own: in a folder that goes away, on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_WAIT_SECONDS = "60"


def find_programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, or None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    if config := shutil.which("pg_config"):
        folder = subprocess.run(
            [config, "--bindir"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if Path(folder, "initdb").exists():
            return Path(folder)
    # Debian keeps them off the PATH, by version.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def server_user() -> str | None:
    """Who runs it: we ourselves, or, as root (which it refuses), the system's own user for it."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


class PostgresqlServer:
    """A server that can be stopped, killed and started again; `url` reaches it."""

    def __init__(self, folder: Path, programs: Path, user: str) -> None:
        """Make the database in `folder`, which belongs to `user`."""
        self.folder = folder
        self._programs = programs
        # WHY setpriv, not `user=`: that forks, which gRPC's threads here may not bear.
        account = pwd.getpwnam(user)
        ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        self._as_user = ["setpriv", *ids] if os.geteuid() == 0 else []
        # Nobody but its own user reaches the socket's folder, so no password is asked.
        self._run("initdb", "-D", "data", "-U", "ca", "--auth=trust", "--no-sync", "-E", "UTF8")
        settings = f"listen_addresses = ''\nunix_socket_directories = '{folder}'\n"
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(settings)

    @property
    def url(self) -> str:
        """The database's URL."""
        return f"postgresql://ca@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", _WAIT_SECONDS, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop, as after a crash unless told otherwise, and wait until it is down."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def pause(self, *, resume: bool = False) -> None:
        """Let the postmaster answer nobody new, or go on."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGCONT if resume else signal.SIGSTOP)

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of its programs as its user; what it says is in the error."""
        done = subprocess.run(
            [*self._as_user, self._programs / program, *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A running server; the test is skipped where there is none to run."""
    programs, user = find_programs(), server_user()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if user is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user `postgres`")
    # Not pytest's folder: that one lets nobody else in, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="meshwarden-pg-"))
    shutil.chown(folder, user)
    folder.chmod(0o755)
    server = PostgresqlServer(folder, programs, user)
    server.start()
    try:
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)
