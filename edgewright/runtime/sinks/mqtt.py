"""Results as JSON messages to an MQTT broker."""

from __future__ import annotations

import threading
import time
from typing import Any

from edgewright.errors import SinkError, UsageError, needs
from edgewright.runtime.address import Address
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.rows import broker, json_line
from edgewright.runtime.sinks import SINKS

__all__ = ["MqttSink"]

_OPENING_S = 5.0
_CLOSING_S = 2.0


@SINKS.register("mqtt")
class MqttSink(Sink):
    """One message a result. With QoS 1 or 2 results wait in a bounded queue while the broker is away, and follow when it is back.

    Args:
        host: name or address of the broker.
        port: its port.
        topic: where to publish.
        qos: quality of service; 0 loses what is written while the broker is away.
        user: name to log in with; empty for none.
        password: that user's password.
        queue: how many results may wait for their acknowledgement.

    Raises:
        SinkError: there is no connection within five seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        topic: str,
        *,
        qos: int = 1,
        user: str = "",
        password: str = "",
        queue: int = 1000,
    ) -> None:
        with needs("mqtt"):
            from paho.mqtt.client import Client, error_string
            from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
        self._place, self._topic, self._qos, self._queue = f"{host}:{port}", topic, qos, queue
        self._codes, self._error_string = MQTTErrorCode, error_string
        self._taken, self._acknowledged, self._changed = 0, 0, threading.Condition()
        self._closed, self._settled, self._refused, self._away = False, threading.Event(), "", False
        self._client: Any = Client(CallbackAPIVersion.VERSION2)
        if user:
            self._client.username_pw_set(user, password)
        self._client.reconnect_delay_set(1, 5)
        self._client.connect_timeout = _OPENING_S
        self._client.max_queued_messages_set(queue)
        self._client.on_connect, self._client.on_disconnect = self._connected, self._disconnected
        self._client.on_publish = self._published
        deadline = time.monotonic() + _OPENING_S
        try:
            self._client.connect(host, port)
        except OSError as error:
            self._refused = error.strerror or str(error)
        else:
            self._client.loop_start()
            if not self._settled.wait(max(0.0, deadline - time.monotonic())):
                self._refused = f"no answer within {_OPENING_S:.0f} s"
        if self._refused:
            self.close()
            raise SinkError(
                f"no connection to the MQTT broker at host {host}, port {port}: {self._refused}",
                hint="check that the broker runs and can be reached, and the user and password if it asks for them",
            )

    @classmethod
    def of(cls, address: Address) -> MqttSink:
        """Connect, for example to `mqtt://host:1883/topic?qos=1`."""
        host, port, topic = broker(address, 1883)
        if set("+#") & set(topic):
            raise UsageError(f"the topic '{topic}' has + or #, results go to one topic", hint="write the topic without wildcards")
        return cls(host, port, topic, **address.options(qos=_qos, user=str, password=str, queue=_count))

    def write(self, result: Result) -> None:
        """Hand one message to the client, which sends it when it can."""
        if self._closed:
            raise SinkError(f"the connection to {self._place} is closed, the result was not sent")
        with self._changed:
            self._taken += 1
        code = self._client.publish(self._topic, json_line(result), self._qos).rc
        if code == self._codes.MQTT_ERR_SUCCESS or (code == self._codes.MQTT_ERR_NO_CONN and self._qos > 0):
            return
        with self._changed:
            self._taken -= 1
        if code == self._codes.MQTT_ERR_QUEUE_SIZE:
            raise SinkError(
                f"{self._queue} results wait for the MQTT broker at {self._place} already, one more was refused",
                hint="bring the broker back, or allow more with queue=",
            )
        raise SinkError(
            f"the MQTT broker at {self._place} did not get a result: {self._error_string(code)}",
            hint="with qos=1 results wait until the broker is back",
        )

    def close(self) -> int:
        """Wait up to two seconds for the acknowledgements; gives how many are missing."""
        with self._changed:
            if not self._closed:
                self._changed.wait_for(lambda: self._acknowledged >= self._taken, timeout=_CLOSING_S)
            self._closed = True
            missing = self._taken - self._acknowledged
        self._client.disconnect()
        # Not waited for longer: the thread may be in the middle of an attempt to connect.
        end = threading.Thread(target=self._client.loop_stop, daemon=True)
        end.start()
        end.join(0.5)
        return missing

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            if not self._settled.is_set():
                self._refused = str(reason)
        elif self._away:
            self._away = False
            self.tell(f"the MQTT broker at {self._place} is back")
        self._settled.set()

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._settled.is_set() and not self._closed and not self._away and not self._refused:
            self._away = True
            fate = "results wait for it" if self._qos else "results are lost until it is back"
            self.tell(f"the MQTT broker at {self._place} is gone ({reason}); it is tried again, {fate}")

    def _published(self, _client: Any, _data: Any, _mid: int, _reason: Any, _properties: Any) -> None:
        with self._changed:
            self._acknowledged += 1
            self._changed.notify_all()


def _qos(text: str) -> int:
    value = int(text)
    if value not in (0, 1, 2):
        raise ValueError("write 0, 1 or 2")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("a whole number of at least 1 is needed")
    return value
