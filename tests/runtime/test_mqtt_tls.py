"""MQTT over TLS against a real mosquitto, with certificates of authorities of our own."""

from __future__ import annotations

import datetime
import getpass
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import EdgewrightError, SinkError, SourceError, UsageError
from edgewright.runtime import Result, open_sink, open_source
from edgewright.runtime.address import parse_address

x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402


class Authority:
    """A certificate authority.

    Args:
        folder: where its certificate and those that it issues are written.
        name: what it is called, as are the files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / f"{name}.pem"
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), named(name)
        unused = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
        rights = dict.fromkeys((*unused, "key_agreement", "encipher_only", "decipher_only"), False)
        own = self._builder(self._name, self._key.public_key(), ends=1).add_extension(x509.BasicConstraints(True, 0), True)
        own = own.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **rights), True)
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *hosts: str, begins: int = -1, ends: int = 1, passphrase: bytes = b"") -> tuple[Path, Path]:
        """Files of a certificate and its key; `begins` and `ends` are days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(named(name), key.public_key(), begins=begins, ends=ends)
        if hosts:
            names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = builder.add_extension(issuer, False).sign(self._key, hashes.SHA256())
        files = self.file.with_name(f"{name}.crt"), self.file.with_name(f"{name}.key")
        hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
        return files

    def _builder(self, name: Any, key: Any, *, ends: int, begins: int = -1) -> Any:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        builder = builder.not_valid_before(now + datetime.timedelta(begins)).not_valid_after(now + datetime.timedelta(ends))
        return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)


def named(name: str) -> Any:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


class Broker:
    """A mosquitto with a TLS listener, and one without on which the tests look and talk.

    Args:
        folder: for its configuration, and the authority "ours".
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = Authority(folder, "ours")
        with socket.socket() as first, socket.socket() as second:
            for each in (first, second):
                each.bind(("127.0.0.1", 0))
            self.port, self.plain = first.getsockname()[1], second.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, shown: tuple[Path, Path] | None = None, more: str = "") -> None:
        """Begin, with a certificate and its key: by default a good one.

        Args:
            shown: the files.
            more: further lines for the TLS listener.
        """
        program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not program or not importlib.util.find_spec("paho"):
            pytest.skip("mosquitto or paho-mqtt is not installed")
        certificate, key = shown or self.authority.issue("broker", "localhost", "127.0.0.1")
        config = self._folder / "mosquitto.conf"
        config.write_text(
            f"user {getpass.getuser()}\nallow_anonymous true\nlistener {self.plain} 127.0.0.1\n"
            f"listener {self.port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n{more}"
        )
        self._process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self._answers(self.port) and self._answers(self.plain))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _answers(self, port: int) -> bool:
        assert self._process is not None and self._process.poll() is None, "mosquitto ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def address(self, settings: str = "", *, host: str = "127.0.0.1", port: int = 0) -> str:
        """Of the TLS listener, with its authority unless settings are given."""
        return f"mqtts://{host}:{port or self.port}/home/imu?{settings or f'ca={self.authority.file}'}"

    def send(self, message: str, *, retain: bool = False) -> None:
        """Publish a message; with `retain` those get it, too, that subscribe later."""
        from paho.mqtt import publish

        publish.single("home/imu", message, 1, retain, hostname="127.0.0.1", port=self.plain)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


def until(found: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def result(index: int) -> Result:
    return Result(index, "imu", "done", 0, 10**6, answer={"label": "walking"})


def refused(address: str, kind: type[EdgewrightError] = SourceError) -> tuple[str, str]:
    """Message and hint of a source or sink that is not opened, which takes no longer than it may."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        (open_sink if kind is SinkError else open_source)(address)
    assert time.monotonic() - began < 4, "what cannot become right was waited for"
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_both_ways(broker: Broker, host: str) -> None:
    broker.start()
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    with open_source(broker.address(host=host)) as source:
        broker.send("[1, 2.5]")
        frame = source.read()
    assert frame is not None and frame.data.tolist() == [1, 2.5]

    came: list[Any] = []
    reader, ready = Client(CallbackAPIVersion.VERSION2), threading.Event()
    reader.on_subscribe, reader.on_message = lambda *_: ready.set(), lambda *a: came.append(json.loads(a[2].payload))
    reader.connect("127.0.0.1", broker.plain)
    reader.subscribe("home/imu", 1)
    reader.loop_start()
    assert ready.wait(5)
    sink = open_sink(broker.address(host=host))
    for index in range(100):
        sink.write(result(index))
    assert sink.close() == 0
    until(lambda: len(came) == 100)
    reader.disconnect()
    reader.loop_stop()
    assert came == [result(index).to_json() for index in range(100)]


def test_the_authorities_of_the_system_are_the_default(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.start()
    address = broker.address("qos=1")
    for kind in (SourceError, SinkError):
        message, hint = refused(address, kind)
        assert f"host 127.0.0.1, port {broker.port}: its certificate is from an authority that is not trusted here" in message
        assert "ca=FILE" in hint
    monkeypatch.setenv("SSL_CERT_FILE", str(broker.authority.file))
    open_source(address).close()
    assert open_sink(address).close() == 0


def test_another_authority_is_refused(broker: Broker, tmp_path: Path) -> None:
    broker.start()
    other = Authority(tmp_path, "other").file
    message, hint = refused(broker.address(f"ca={other}"))
    assert "from an authority that is not trusted here" in message
    assert hint == f"{other} must hold the authority that signed it"


def test_another_host_is_refused(broker: Broker) -> None:
    broker.start(broker.authority.issue("elsewhere", "broker.example", "10.0.0.7"))
    for host in ("localhost", "127.0.0.1"):
        message, hint = refused(broker.address(host=host), SinkError)
        assert f"host {host}, port {broker.port}: its certificate is for another host" in message
        assert f"have one made for {host}" in hint


@pytest.mark.parametrize(("begins", "ends", "what"), [(-9, -2, "has expired"), (2, 9, "is not valid yet")])
def test_dates_are_checked_and_the_clock_is_named(broker: Broker, begins: int, ends: int, what: str) -> None:
    broker.start(broker.authority.issue("dated", "127.0.0.1", begins=begins, ends=ends))
    message, hint = refused(broker.address())
    today = datetime.datetime.now(datetime.timezone.utc)
    assert what in message and f"the clock here says {today:%Y-%m}" in message
    assert hint == "renew it, or set the clock"


def test_a_broker_that_asks_for_a_certificate(broker: Broker, tmp_path: Path) -> None:
    broker.start(more=f"require_certificate true\ncafile {broker.authority.file}\n")
    certificate, key = broker.authority.issue("device")
    open_source(f"{broker.address()}&cert={certificate}&key={key}").close()
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert open_sink(f"{broker.address()}&cert={both}").close() == 0

    message, hint = refused(broker.address())
    assert "it ended the connection before it answered" in message and "name a certificate with cert=FILE" in hint
    stranger, its_key = Authority(tmp_path, "other").issue("stranger")
    message, hint = refused(f"{broker.address()}&cert={stranger}&key={its_key}", SinkError)
    assert "it ended the connection before it answered" in message and f"accepts the certificate in {stranger}" in hint


def test_files_that_are_of_no_use_are_named(broker: Broker, tmp_path: Path) -> None:
    certificate, key = broker.authority.issue("device")
    _, other_key = broker.authority.issue("other")
    locked, its_key = broker.authority.issue("locked", passphrase=b"secret")
    (tmp_path / "text").write_text("no certificate\n")
    for settings, message, hint in (
        (f"ca={tmp_path}/gone.pem", f"ca is '{tmp_path}/gone.pem' (there is no such file)", ""),
        (f"ca={tmp_path}/text", f"no authority can be read from ca={tmp_path}/text: no certificate or crl found", "PEM"),
        (f"cert={certificate}&key={other_key}", f"cannot be shown with the key in {other_key}: key values mismatch", "PEM"),
        (f"cert={certificate}", f"cannot be shown with the key in {certificate}", "private key"),
        (f"cert={locked}&key={its_key}", f"the key in {its_key} has a passphrase", "openssl pkey"),
        (f"key={key}", f"there is key={key} without cert=", "cert=FILE"),
    ):
        found = refused(broker.address(settings), UsageError)
        assert message in found[0] and hint in found[1]


def test_what_speaks_no_tls_is_named(broker: Broker) -> None:
    broker.start()
    message, hint = refused(broker.address(port=broker.plain))
    assert "no TLS connection" in message and f"check that the broker speaks TLS at port {broker.plain}" in hint
    message, hint = refused(f"mqtt://127.0.0.1:{broker.port}/home/imu")
    assert "it ended the connection before it answered" in message and "mqtts://" in hint
    broker.stop()
    assert "Connection refused" in refused(broker.address())[0]


def test_addresses() -> None:
    with pytest.raises(UsageError, match=r"an address of mqtts is mqtts://host:8883/topic, found was mqtts://host"):
        open_source("mqtts://host")
    with pytest.raises(UsageError, match=r"ca is 'x.pem' \(it is for TLS: write mqtts://\)"):
        open_sink("mqtt://host/topic?ca=x.pem")
    with pytest.raises(UsageError, match=r"has the setting 'insecure'.*known: qos, user, password, ca, cert, key"):
        open_sink("mqtts://host/topic?insecure=yes")
    with pytest.raises(SourceError, match=r"host 127\.0\.0\.1, port 8883: "):
        open_source("mqtts://127.0.0.1/topic")
    assert parse_address("mqtts://host/topic?password=x").label == "mqtts://host/topic"


def test_an_outage_ends_with_the_same_certificate_or_a_new_good_one(broker: Broker) -> None:
    broker.start()
    with open_source(broker.address()) as source:
        told: list[str] = []
        source.tell = told.append
        for name in ("broker", "renewed"):
            broker.stop()
            until(lambda: len(told) % 2)
            broker.start(broker.authority.issue(name, "127.0.0.1"))
            until(lambda: not len(told) % 2)
        broker.send("[3]", retain=True)
        frame = source.read()
    assert ["is gone" in text for text in told] == [True, False, True, False]
    assert frame is not None and frame.data.tolist() == [3]


def test_a_broker_that_is_back_with_a_bad_certificate_is_given_up(broker: Broker, tmp_path: Path) -> None:
    broker.start()
    before = set(threading.enumerate())
    with open_source(broker.address()) as source:
        sink = open_sink(broker.address())
        told: list[str] = []
        source.tell = sink.tell = told.append
        broker.send("[1]")
        assert source.read() is not None
        broker.stop()
        until(lambda: len(told) == 2)
        sink.write(result(0))
        broker.start(Authority(tmp_path, "other").issue("broker", "127.0.0.1"))
        why = "its certificate is from an authority that is not trusted here"
        with pytest.raises(SourceError, match=rf"port {broker.port} after 1 samples: {why}"):
            while source.read() is not None:
                pass
        until(lambda: not [each for each in set(threading.enumerate()) - before if each.name.startswith("paho")])
        with pytest.raises(SinkError, match=rf"port {broker.port}: {why}"):
            sink.write(result(1))
        assert len(told) == 2, "and nobody says that it is back"
        assert sink.close() == 1, "the one that waited is lost"
