"""Results as JSON messages to a Kafka topic."""

from __future__ import annotations

import threading
from typing import Any

from edgewright.errors import SinkError, needs
from edgewright.runtime.address import Address, whole
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.rows import Complaints, broker, json_line
from edgewright.runtime.sinks import SINKS

__all__ = ["KafkaSink"]

_OPENING_S = 5.0
_CLOSING_S = 2.0


@SINKS.register("kafka")
class KafkaSink(Sink):
    """One message a result, keyed by the source's name, so that the results of one source keep their order.

    Results wait in a bounded buffer while the broker is away, and follow when it is back.

    Args:
        host: name or address of one broker of the cluster.
        port: its port.
        topic: where to write.
        queue: how many results may wait for their delivery.

    Raises:
        SinkError: no broker answers within five seconds.
    """

    def __init__(self, host: str, port: int, topic: str, *, queue: int = 1000) -> None:
        with needs("kafka"):
            from confluent_kafka import KafkaException, Producer
        self._place, self._topic, self._queue, self._failure = f"{host}:{port}", topic, queue, KafkaException
        self._taken, self._delivered, self._missing, self._lock = 0, 0, 0, threading.Lock()
        self._troubles = Complaints("troubles", lambda text: self.tell(text))
        self._lost = Complaints("results lost", lambda text: self.tell(text))
        self._opening, self._reason = True, ""
        self._producer: Any = Producer(
            {
                "bootstrap.servers": self._place,
                "queue.buffering.max.messages": queue,
                "error_cb": self._trouble,
                # The library's own lines on standard error; what matters comes through error_cb.
                "log_level": 0,
            }
        )
        try:
            self._producer.list_topics(timeout=_OPENING_S)
        except KafkaException as error:
            self._producer.poll(0)
            self._producer = None
            raise SinkError(
                f"no connection to the Kafka broker at host {host}, port {port}: {self._reason or error.args[0].str()}",
                hint="check that the broker runs, and that the addresses it advertises can be reached from here",
            ) from error
        self._opening = False

    @classmethod
    def of(cls, address: Address) -> KafkaSink:
        """Connect, for example to `kafka://host:9092/topic`."""
        host, port, topic = broker(address, 9092)
        return cls(host, port, topic, **address.options(queue=whole(1)))

    def write(self, result: Result) -> None:
        """Hand one message to the producer, which sends it when it can."""
        with self._lock:
            if self._producer is None:
                raise SinkError(f"the connection to {self._place} is closed, the result was not sent")
            self._producer.poll(0)
            self._troubles.remind()
            self._lost.remind()
            try:
                self._producer.produce(self._topic, json_line(result).encode(), key=result.source, on_delivery=self._report)
            except BufferError as error:
                raise SinkError(
                    f"{self._queue} results wait for the Kafka broker at {self._place} already, one more was refused",
                    hint="bring the broker back, or allow more with queue=",
                ) from error
            except self._failure as error:
                raise SinkError(f"Kafka refuses a result for the topic '{self._topic}': {error.args[0].str()}") from error
            self._taken += 1

    def close(self) -> int:
        """Wait up to two seconds for the deliveries; gives how many are missing, with those that failed before."""
        with self._lock:
            if self._producer is not None:
                self._producer.flush(_CLOSING_S)
                self._missing = self._taken - self._delivered
                self._opening = True
                self._producer.purge()
                self._producer.poll(0)
                self._producer = None
        return self._missing

    def _report(self, error: Any, _message: Any) -> None:
        """Delivery report, called out of poll and flush."""
        if error is None:
            self._delivered += 1
        elif not self._opening:
            self._lost.add(f"a result did not reach the Kafka topic '{self._topic}': {error.str()}")

    def _trouble(self, error: Any) -> None:
        """What the library met on its connections, called out of poll and flush."""
        self._reason = error.str()
        if not self._opening:
            self._troubles.add(f"Kafka at {self._place}: {error.str()}")
