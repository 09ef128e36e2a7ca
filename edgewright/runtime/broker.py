"""A connection to an MQTT broker, which source and sink have alike: opening, login, outages, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from edgewright.errors import EdgewrightError, needs

__all__ = ["Broker", "qos"]

_OPENING_S = 5.0


class Broker:
    """A paho-mqtt client that is kept connected; the first connection is made by `open`.

    Args:
        host: name or address.
        port: its port.
        user: name to log in with; empty for none.
        password: that user's password.
        tell: told when the broker goes away and when it is back.
        gone: what that means, for the sentence that tells it.
    """

    def __init__(
        self, host: str, port: int, user: str, password: str, *, tell: Callable[[str], None], gone: Callable[[], str]
    ) -> None:
        with needs("mqtt"):
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        self.host, self.port, self.place = host, port, f"{host}:{port}"
        self.client: Any = Client(CallbackAPIVersion.VERSION2)
        self.refused = ""
        self.settled = threading.Event()
        self._tell, self._gone = tell, gone
        self._closed = self._away = False
        if user:
            self.client.username_pw_set(user, password)
        self.client.reconnect_delay_set(1, 5)
        self.client.connect_timeout = _OPENING_S
        self.client.on_disconnect = self._disconnected

    def open(self, error: type[EdgewrightError]) -> None:
        """Connect, and wait until `settled` is set or five seconds have passed.

        Args:
            error: what is raised if that fails.
        """
        deadline = time.monotonic() + _OPENING_S
        try:
            self.client.connect(self.host, self.port)
        except OSError as problem:
            self.refused = problem.strerror or str(problem)
        else:
            self.client.loop_start()
            if not self.settled.wait(max(0.0, deadline - time.monotonic())):
                self.refused = f"no answer within {_OPENING_S:.0f} s"
        if self.refused:
            self.close()
            raise error(
                f"no connection to the MQTT broker at host {self.host}, port {self.port}: {self.refused}",
                hint="check that the broker runs and can be reached, and the user and password if it asks for them",
            )

    def connected(self, reason: Any) -> bool:
        """Whether a connection, which may be one after an outage, was not refused; called by `on_connect`."""
        if reason.is_failure:
            if not self.settled.is_set():
                self.refused = str(reason)
                self.settled.set()
            return False
        if self._away:
            self._away = False
            self._tell(f"the MQTT broker at {self.place} is back")
        return True

    def close(self) -> None:
        """End the connection; what waits in the client is left."""
        self._closed = True
        self.client.disconnect()
        # Not waited for longer: the thread may be in the middle of an attempt to connect.
        end = threading.Thread(target=self.client.loop_stop, daemon=True)
        end.start()
        end.join(0.5)

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self.settled.is_set() and not self._closed and not self._away and not self.refused:
            self._away = True
            self._tell(f"the MQTT broker at {self.place} is gone{self._gone()} ({reason}); it is tried again")


def qos(text: str) -> int:
    """Quality of service, from a setting.

    Raises:
        ValueError: it is none of 0, 1 and 2.
    """
    value = int(text)
    if value not in (0, 1, 2):
        raise ValueError("write 0, 1 or 2")
    return value
