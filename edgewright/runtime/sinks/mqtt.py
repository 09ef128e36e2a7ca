"""Results as JSON messages to an MQTT broker."""

from __future__ import annotations

import threading
from typing import Any

from edgewright.errors import SinkError, UsageError, needs
from edgewright.runtime.address import Address, whole
from edgewright.runtime.broker import Broker, Tls, settings, where
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.rows import json_line
from edgewright.runtime.sinks import SINKS

__all__ = ["MqttSink"]

_CLOSING_S = 2.0


@SINKS.register("mqtt")
class MqttSink(Sink):
    """One message a result. With QoS 1 or 2 results wait in a bounded queue while the broker is away, and follow when it is back.

    A broker that is back with a certificate that is refused gets no more of them.

    Args:
        host: name or address of the broker.
        port: its port.
        topic: where to publish.
        qos: quality of service; 0 loses what is written while the broker is away.
        user: name to log in with; empty for none.
        password: that user's password.
        tls: how to connect with TLS; None is without.
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
        tls: Tls | None = None,
        queue: int = 1000,
    ) -> None:
        with needs("mqtt"):
            from paho.mqtt.client import error_string
            from paho.mqtt.enums import MQTTErrorCode
        self._topic, self._qos, self._queue = topic, qos, queue
        self._codes, self._error_string = MQTTErrorCode, error_string
        self._taken, self._acknowledged, self._changed, self._closed = 0, 0, threading.Condition(), False
        fate = ", results wait for it" if qos else ", results are lost until it is back"
        self._broker = Broker(
            host, port, user, password, tls, error=SinkError, tell=lambda text: self.tell(text), gone=lambda: fate
        )
        client = self._client = self._broker.client
        client.max_queued_messages_set(queue)
        client.on_connect, client.on_publish = self._connected, self._published
        self._broker.open()

    @classmethod
    def of(cls, address: Address) -> MqttSink:
        """Connect, for example to `mqtt://host:1883/topic?qos=1` or `mqtts://host/topic?ca=FILE`."""
        host, port, topic = where(address)
        if set("+#") & set(topic):
            raise UsageError(f"the topic '{topic}' has + or #, results go to one topic", hint="write the topic without wildcards")
        return cls(host, port, topic, **settings(address, queue=whole(1)))

    def write(self, result: Result) -> None:
        """Hand one message to the client, which sends it when it can."""
        if self._closed:
            raise SinkError(f"the connection to {self._broker.place} is closed, the result was not sent")
        self._broker.require()
        with self._changed:
            self._taken += 1
        code = self._client.publish(self._topic, json_line(result), self._qos).rc
        if code == self._codes.MQTT_ERR_SUCCESS or (code == self._codes.MQTT_ERR_NO_CONN and self._qos > 0):
            return
        with self._changed:
            self._taken -= 1
        if code == self._codes.MQTT_ERR_QUEUE_SIZE:
            raise SinkError(
                f"{self._queue} results wait for the MQTT broker at {self._broker.place} already, one more was refused",
                hint="bring the broker back, or allow more with queue=",
            )
        raise SinkError(
            f"the MQTT broker at {self._broker.place} did not get a result: {self._error_string(code)}",
            hint="with qos=1 results wait until the broker is back",
        )

    def close(self) -> int:
        """Wait up to two seconds for the acknowledgements; gives how many are missing."""
        with self._changed:
            if not self._closed:
                self._changed.wait_for(lambda: self._acknowledged >= self._taken, timeout=_CLOSING_S)
            self._closed = True
            missing = self._taken - self._acknowledged
        self._broker.close()
        return missing

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._broker.connected(reason):
            self._broker.settled.set()

    def _published(self, _client: Any, _data: Any, _mid: int, _reason: Any, _properties: Any) -> None:
        with self._changed:
            self._acknowledged += 1
            self._changed.notify_all()
