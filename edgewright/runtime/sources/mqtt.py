"""Sensor samples from an MQTT topic, one message a sample."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any, ClassVar, Literal

from edgewright.errors import SourceError
from edgewright.runtime.address import Address
from edgewright.runtime.broker import Broker, Tls, settings, where
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.rows import Complaints, RowError, Rows, names, separator, split, unit
from edgewright.runtime.sources import SOURCES

__all__ = ["MqttSource"]

_QUEUED = 1000


@SOURCES.register("mqtt")
class MqttSource(Source):
    """Messages of numbers as frames of shape (channels,), dtype float32.

    A message is a JSON list, a JSON object, whose keys then are the columns, or numbers with a separator between. What does
    not fit is told and skipped. A lost connection is taken up again after 1 to 5 s, unless the broker then has a certificate
    that is refused. Where 1000 messages wait to be read, the oldest is let go.

    Args:
        host: name or address of the broker.
        port: its port.
        topic: what to subscribe to; + and # are allowed.
        rows: which columns are channels, and which one the time.
        qos: quality of service, 0 to 2.
        user: name to log in with; empty for none.
        password: that user's password.
        tls: how to connect with TLS; None is without.
        between: the character between two numbers, where a message is no JSON.

    Raises:
        SourceError: there is no connection and subscription within five seconds.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "sensor"

    def __init__(
        self,
        host: str,
        port: int,
        topic: str,
        rows: Rows,
        *,
        qos: int = 0,
        user: str = "",
        password: str = "",
        tls: Tls | None = None,
        between: str = ",",
    ) -> None:
        self.live, self.skipped, self.broken = True, 0, 0
        self._topic, self._qos, self._rows, self._between = topic, qos, rows, between
        self._index, self._messages, self._changed = 0, deque[tuple[bytes, int]](), threading.Condition()
        self._closed = False
        self._bad = Complaints("broken messages", lambda text: self.tell(text))
        came = lambda: f" after {self._index} samples"  # noqa: E731
        self._broker = Broker(host, port, user, password, tls, error=SourceError, tell=lambda text: self.tell(text), gone=came)
        client = self._broker.client
        client.on_connect, client.on_subscribe, client.on_message = self._connected, self._subscribed, self._received
        self._broker.open()

    @classmethod
    def of(cls, address: Address) -> MqttSource:
        """Subscribe, for example to `mqtt://host:1883/topic/name?qos=1&time=t&unit=ms` or `mqtts://host/topic?ca=FILE`."""
        host, port, topic = where(address)
        given = settings(address, time=str, unit=unit, columns=names, separator=separator)
        rows = Rows(time=given.get("time", ""), unit=given.get("unit", 10**9), columns=given.get("columns", ()))
        rest = {name: given[name] for name in ("qos", "user", "password", "tls") if name in given}
        return cls(host, port, topic, rows, between=given.get("separator", ","), **rest)

    def read(self, into: Array | None = None) -> Frame | None:
        """The next good message."""
        while True:
            self._bad.remind()
            with self._changed:
                if not self._messages:
                    self._changed.wait_for(lambda: self._messages or self._closed, timeout=1.0)
                if self._closed:
                    return None
                if not self._messages:
                    self._broker.require(f" after {self._index} samples")
                    continue
                payload, captured_ns = self._messages.popleft()
            try:
                data, recorded_ns = self._parse(payload)
            except RowError as error:
                self.broken += 1
                shown = payload[:60].decode("utf-8", "replace")
                self._bad.add(f"{self._broker.place}: the message '{shown}' was skipped: {error}")
                continue
            index, self._index = self._index, self._index + 1
            return Frame(data, index, captured_ns, recorded_ns)

    def close(self) -> None:
        """End a waiting `read` and the connection."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._broker.close()

    def _parse(self, payload: bytes) -> tuple[Array, int | None]:
        text = payload.decode("utf-8", "replace").strip()
        if text[:1] not in ("[", "{"):
            return self._rows.parse(split(text, self._between))
        try:
            # Numbers stay text until the row is parsed, as in the other formats: a time keeps all its digits.
            data = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
        except (ValueError, RecursionError):
            raise RowError("it is no whole JSON") from None
        if isinstance(data, list):
            return self._rows.parse(["" if cell is None else cell for cell in data])
        return self._parse_object(data)

    def _parse_object(self, data: dict[str, Any]) -> tuple[Array, int | None]:
        known = self._rows.names
        if missing := [name for name in known if name not in data]:
            raise RowError(f"no '{missing[0]}' found, the first one had {', '.join(known)}")
        if not known:
            self._rows.take_header(tuple(data))
        try:
            return self._rows.parse(["" if data[name] is None else data[name] for name in self._rows.names])
        except RowError:
            if not known:
                self._rows.forget()
            raise

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._broker.connected(reason):
            client.subscribe(self._topic, self._qos)

    def _subscribed(self, _client: Any, _data: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            problem = f"the subscription to '{self._topic}' was refused ({reasons[0]})"
            if self._broker.settled.is_set():
                self.tell(f"{self._broker.place}: {problem}")
            else:
                self._broker.refused = problem
        self._broker.settled.set()

    def _received(self, _client: Any, _data: Any, message: Any) -> None:
        now = time.monotonic_ns()
        with self._changed:
            if len(self._messages) >= _QUEUED:
                self._messages.popleft()
                self.skipped += 1
            self._messages.append((message.payload, now))
            self._changed.notify()
