"""A connection to an MQTT broker, which source and sink have alike: opening, TLS, login, outages, closing."""

from __future__ import annotations

import re
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgewright.errors import EdgewrightError, UsageError, needs
from edgewright.runtime.address import Address
from edgewright.runtime.rows import broker

__all__ = ["Broker", "Tls", "settings", "where"]

_OPENING_S = 5.0
_UNKNOWN, _OTHER_HOST, _TIME = (2, 18, 19, 20, 21), (62, 64), {9: "is not valid yet", 10: "has expired"}
"""OpenSSL's numbers for what can be wrong with a certificate: its authority, its names, its dates."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a broker, whose certificate and host name are always verified.

    Args:
        ca: PEM file of the authorities to trust; empty trusts the system's.
        cert: PEM file of the certificate to show to the broker; empty shows none.
        key: PEM file of its private key; empty if `cert` holds that, too.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """The files, read.

        Raises:
            UsageError: a file cannot be read or holds something else, or there is a key without a certificate.
        """
        if self.key and not self.cert:
            raise UsageError(f"there is key={self.key} without cert=", hint="name the key's certificate with cert=FILE")
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:
            raise UsageError(
                f"no authority can be read from ca={self.ca}: {_words(error)}", hint="name a PEM file of certificates"
            ) from error
        context.sslsocket_class = _Socket
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key or None, password=self._locked)
            except OSError as error:
                raise UsageError(
                    f"cert={self.cert} cannot be shown with the key in {self.key or self.cert}: {_words(error)}",
                    hint="name PEM files of a certificate and of the private key that belongs to it",
                ) from error
        return context

    def _locked(self) -> str:
        """What OpenSSL calls rather than ask for a passphrase at a terminal that a device has not."""
        path = self.key or self.cert
        raise UsageError(f"the key in {path} has a passphrase", hint=f"write it without: openssl pkey -in {path} -out FILE")


class _Socket(ssl.SSLSocket):
    """Closed at once if there is no handshake; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class Broker:
    """A paho-mqtt client that is kept connected; the first connection is made by `open`.

    Where a broker comes back with a certificate that is refused, it is not tried again: see `require`.

    Args:
        host: name or address.
        port: its port.
        user: name to log in with; empty for none.
        password: that user's password.
        tls: how to connect with TLS; None is without.
        error: what is raised if there is no connection.
        tell: told when the broker goes away and when it is back.
        gone: what that means, for the sentence that tells it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        password: str,
        tls: Tls | None,
        *,
        error: type[EdgewrightError],
        tell: Callable[[str], None],
        gone: Callable[[], str],
    ) -> None:
        with needs("mqtt"):
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        self.host, self.port, self.place = host, port, f"{host}:{port}"
        self.client: Any = Client(CallbackAPIVersion.VERSION2)
        self.refused = ""
        self.settled = threading.Event()
        self._tls, self._error, self._tell, self._gone = tls, error, tell, gone
        self._hint = "check that the broker runs and can be reached, and the user and password if it asks for them"
        self._closed = self._away = False
        if tls is not None:
            self.client.tls_set_context(tls.context())
        if user:
            self.client.username_pw_set(user, password)
        self.client.reconnect_delay_set(1, 5)
        self.client.connect_timeout = _OPENING_S
        self.client.on_disconnect, self.client.on_connect_fail = self._disconnected, self._not_connected

    def open(self) -> None:
        """Connect, and wait until `settled` is set or five seconds have passed.

        Raises:
            EdgewrightError: that failed, or the broker refused; of the type that was given.
        """
        deadline = time.monotonic() + _OPENING_S
        try:
            self.client.connect(self.host, self.port)
        except OSError as problem:
            self._refuse(problem)
        else:
            self.client.loop_start()
            if not self.settled.wait(max(0.0, deadline - time.monotonic())):
                self.refused = f"no answer within {_OPENING_S:.0f} s"
        if self.refused:
            self.close()
        self.require()

    def require(self, after: str = "") -> None:
        """Nothing, unless the connection was given up.

        Args:
            after: what came before, for the message.

        Raises:
            EdgewrightError: it was, of the type that was given.
        """
        if self.refused:
            raise self._error(
                f"no connection to the MQTT broker at host {self.host}, port {self.port}{after}: {self.refused}",
                hint=self._hint,
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
        if self._closed or self._away or self.refused:
            return
        if self.settled.is_set():
            self._away = True
            self._tell(f"the MQTT broker at {self.place} is gone{self._gone()} ({reason}); it is tried again")
        else:
            # With TLS 1.3 this is how a broker refuses our certificate, or that there is none.
            self._hint = self._tls_hint if self._tls else "write mqtts:// if the broker wants TLS at this port"
            self.refused = "it ended the connection before it answered"
            self.settled.set()

    def _not_connected(self, _client: Any, _data: Any) -> None:
        """Try again, as paho does by itself, unless that is of no use; called while paho handles the error."""
        problem = sys.exc_info()[1]
        if isinstance(problem, ssl.SSLCertVerificationError):
            self._refuse(problem)
            self.settled.set()
            self.client.disconnect()

    def _refuse(self, problem: OSError) -> None:
        """Keep why there is no connection, and the way out."""
        if isinstance(problem, ssl.SSLCertVerificationError):
            reason, self._hint = self._mistrust(problem.verify_code, problem.verify_message)
        elif isinstance(problem, TimeoutError):
            reason = f"no answer within {_OPENING_S:.0f} s"
        elif isinstance(problem, (ssl.SSLError, ConnectionResetError)):
            reason, self._hint = f"no TLS connection ({_words(problem)})", self._tls_hint
        else:
            reason = _words(problem)
        self.refused = reason

    def _mistrust(self, code: int, words: str) -> tuple[str, str]:
        """What is wrong with the broker's certificate, and the way out."""
        if code in _UNKNOWN:
            ca = self._tls.ca if self._tls else ""
            hint = f"{ca} must hold the authority that signed it" if ca else "name the authority that signed it with ca=FILE"
            return f"its certificate is from an authority that is not trusted here ({words})", hint
        if code in _OTHER_HOST:
            return (
                "its certificate is for another host",
                f"write the host as in the certificate, or have one made for {self.host}",
            )
        if code in _TIME:
            now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            return f"its certificate or its authority's {_TIME[code]}, the clock here says {now}", "renew it, or set the clock"
        return f"its certificate is not valid ({words})", "the broker needs another one"

    @property
    def _tls_hint(self) -> str:
        cert = self._tls.cert if self._tls else ""
        ours = f"that it accepts the certificate in {cert}" if cert else "name a certificate with cert=FILE if it asks for one"
        return f"check that the broker speaks TLS at port {self.port}, and {ours}"


def where(address: Address) -> tuple[str, int, str]:
    """Host, port and topic of an address like mqtt://host:1883/topic/name or mqtts://host:8883/topic/name.

    Raises:
        UsageError: a part is missing.
    """
    return broker(replace(address, scheme="mqtts"), 8883) if address.secure else broker(address, 1883)


def settings(address: Address, **known: Callable[[str], Any]) -> dict[str, Any]:
    """The settings that were given: those of any broker (qos, user, password, and tls from ca, cert and key), and others.

    Args:
        address: mqtt://... or mqtts://...
        known: converters of the others, see `Address.options`.

    Raises:
        UsageError: a setting is unknown or cannot be converted, or is for TLS and there is none.
    """
    files = dict.fromkeys(("ca", "cert", "key"), _file if address.secure else _not_here)
    given = address.options(qos=_qos, user=str, password=str, **files, **known)
    named = {name: given.pop(name) for name in files if name in given}
    return {**given, "tls": Tls(**named)} if address.secure else given


def _qos(text: str) -> int:
    value = int(text)
    if value not in (0, 1, 2):
        raise ValueError("write 0, 1 or 2")
    return value


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("there is no such file")
    return text


def _not_here(_text: str) -> str:
    raise ValueError("it is for TLS: write mqtts://")


def _words(error: OSError) -> str:
    """The system's or OpenSSL's words, without numbers and places in the source."""
    return re.sub(r"^\[[^\]]*\] | \(_ssl\.c:\d+\)$", "", error.strerror or str(error))
