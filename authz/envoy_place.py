"""What the process that starts an Envoy tells the interpreter inside of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

VARIABLE: Final = "MESHWARDEN_ENVOY_PLACE"
# Names that Envoy's configuration and the interpreter inside of it share.
STAT_PREFIX: Final = "checks"
CERTIFICATE_SECRET: Final = "certificate"  # noqa: S105 - the name of an SDS resource
ROOTS_SECRET: Final = "roots"  # noqa: S105 - the name of an SDS resource
# Set for Envoy's sake only; the interpreter gives them back their former values for its children.
LENT_VARIABLES: Final = ("GLIBC_TUNABLES", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPlace:
    """Where a server inside Envoy is.

    `worker` is its name among several, empty alone; `leash` is an inherited file descriptor;
    `folder` is a private one, where the administration socket is; `executable` is the
    interpreter to start other processes with; `lent` holds the former values of variables.
    """

    config: str
    worker: str
    leash: int
    folder: str
    executable: str
    lent: Mapping[str, str | None]

    @property
    def admin(self) -> Path:
        """The socket of Envoy's administration interface."""
        return admin_socket(Path(self.folder))

    @property
    def secrets(self) -> Path:
        """The folder in which Envoy looks for the listener's secrets, see `secret_file`."""
        return secrets_folder(Path(self.folder))

    def to_environment(self) -> dict[str, str]:
        """Return the variable that carries it."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def take(cls) -> Self:
        """Return what this process was told, and leave the environment as it was before.

        Raises:
            KeyError: nobody told it anything.
        """
        place = cls(**json.loads(os.environ.pop(VARIABLE)))
        for name, value in place.lent.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        return place


def admin_socket(folder: Path) -> Path:
    """Return the socket of an Envoy's administration interface, in the folder of that Envoy."""
    return folder / "admin"


def secrets_folder(folder: Path) -> Path:
    """Return where an Envoy looks for the listener's secrets, in the folder of that Envoy."""
    return folder / "secrets"


def secret_file(folder: Path, name: str) -> Path:
    """Return the SDS file of one secret: Envoy takes one from each."""
    return folder / f"{name}.json"
