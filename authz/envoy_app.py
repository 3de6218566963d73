"""The server inside Envoy: `authz.envoy_app:application` is what pyvoy looks for.

Theory of operation. Envoy asks for the application while it reads its configuration, before it
listens. Then `serve` begins, in a thread of its own, just as it does without Envoy; it hands
its application over when it is about to listen, and Envoy goes on. Nothing of Envoy's
own end is waited for: when `serve` is through, calls are answered and the record is
closed, and the process ends at once.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NoReturn

from authz.commands.failing import clear_errors
from authz.config_file import load_settings
from authz.envoy_front import EnvoyFront
from authz.envoy_place import VARIABLE, EnvoyPlace
from authz.grpc_over_wsgi import CheckApplication
from authz.listening import ListeningParts
from authz.logging_setup import set_up_logging
from authz.serve import serve
from authz.settings import Settings
from authz.worker_seat import sit_down

_FAILED: Final = 1


def is_wanted() -> bool:
    """Whether this process is an Envoy that a server started."""
    return VARIABLE in os.environ


def __getattr__(name: str) -> Any:
    """Open the server when its application is asked for."""
    if name != "application":
        raise AttributeError(name)
    return _open_application()


def _open_application() -> CheckApplication:
    """Begin to serve, and return what answers calls; the process ends where that fails."""
    place = EnvoyPlace.take()
    # WHY: an interpreter inside another program looks for itself in the PATH.
    sys.executable = place.executable
    opened: SimpleQueue[CheckApplication] = SimpleQueue()
    threading.Thread(target=_serve, args=(place, opened), name="serve", daemon=True).start()
    return opened.get()


def _serve(place: EnvoyPlace, opened: SimpleQueue[CheckApplication]) -> NoReturn:
    """Serve to the end, and end the process, Envoy included, with the code that says how."""
    code = _FAILED
    try:
        with clear_errors():
            settings = load_settings(Path(place.config))
            set_up_logging(settings.log)
            _serve_as(place, settings, opened)
            code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else _FAILED
    except BaseException:  # whatever it is, nobody else would say it, nor end Envoy
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # WHY not Envoy's own way out: it takes the interpreter down beside threads that still
        # run in it. Nothing is left to lose: `serve` has returned.
        os._exit(code)


def _serve_as(place: EnvoyPlace, settings: Settings, opened: SimpleQueue[CheckApplication]) -> None:
    stop = threading.Event()
    seat = sit_down(place.worker, place.leash, settings.listen.grpc, stop)
    if place.worker:
        # Only the process that started the workers asks for it.
        listen = settings.listen.model_copy(update={"http": "127.0.0.1:0"})
        settings = settings.model_copy(update={"listen": listen})

    def open_front(parts: ListeningParts) -> EnvoyFront:
        return EnvoyFront(parts, place, opened.put)

    serve(settings, stop=stop, seat=seat, open_listener=open_front)
