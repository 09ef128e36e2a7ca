"""A running stream seen from outside: metrics for Prometheus and a live page, over HTTP."""

from __future__ import annotations

import logging
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edgewright.errors import EdgewrightError, UsageError
from edgewright.runtime.dashboard import Page, Reply
from edgewright.runtime.metrics import exposition
from edgewright.runtime.stream import Stream

__all__ = ["Page", "check_places", "serve"]

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:/\s]*)):(?P<port>\d{1,5})")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::")
_CLIENTS = 32
_PATIENCE_S = 5.0

_log = logging.getLogger("edgewright")

Route = Callable[[Mapping[str, str]], Reply]


def check_places(*, metrics: str | None, dashboard: str | None) -> None:
    """Refuse what `serve` would refuse, before a stream is opened for it.

    Args:
        metrics: see `serve`.
        dashboard: see `serve`.

    Raises:
        UsageError: an address is none.
        EdgewrightError: it cannot be listened at, for example as it is taken.
    """
    given = {"--metrics": metrics, "--dashboard": dashboard}
    for host, port in {_parse(text, option) for option, text in given.items() if text is not None}:
        _opened(host, port, {}).server_close()


@contextmanager
def serve(running: Stream, *, metrics: str | None, dashboard: str | None) -> Iterator[Page | None]:
    """Serve a stream's metrics and its live page as long as the context lasts.

    Addresses are `[HOST]:PORT`. An empty host is 127.0.0.1, this machine alone, and does not mean all interfaces: that is
    0.0.0.0:PORT, and everybody who reaches the machine then sees pictures and figures. Port 0 takes a free one. Addresses that
    are equal share one server. The addresses are logged as warnings.

    Args:
        running: the stream.
        metrics: where Prometheus scrapes /metrics; None serves none.
        dashboard: where the page is; None serves none.

    Returns:
        the page, which is to be shown each result; None without a dashboard.

    Raises:
        UsageError: an address is none.
        EdgewrightError: it cannot be listened at, for example as it is taken.
        MissingPackageError: prometheus-client is not installed and metrics are asked for.
    """
    wanted: dict[tuple[str, int, str], dict[str, Route]] = {}
    page = None
    if metrics is not None:
        scrape, kind = exposition(running)
        place = _parse(metrics, "--metrics")
        wanted.setdefault((*place, "" if place[1] else "metrics"), {})["/metrics"] = lambda _: Reply(scrape(), kind)
    if dashboard is not None:
        page = Page(running)
        place = _parse(dashboard, "--dashboard")
        wanted.setdefault((*place, "" if place[1] else "dashboard"), {}).update(page.routes)
    with ExitStack() as servers:
        for (host, port, _), routes in wanted.items():
            server = _opened(host, port, routes)
            servers.callback(server.server_close)
            if page is not None and "/" in routes:
                page.url = server.url
            threading.Thread(target=server.serve_forever, args=(0.1,), name=f"http {server.port}", daemon=True).start()
            servers.callback(server.shutdown)
            for name, path in (("metrics", "/metrics"), ("dashboard", "/")):
                if path in routes:
                    also = f", from other machines http://{socket.gethostname()}:{server.port}" if host in _ANY else ""
                    _log.warning("%s: %s%s%s", name, server.url, path.rstrip("/"), also)
        yield page


def _parse(text: str, option: str) -> tuple[str, int]:
    """Host and port."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or int(found["port"]) > 65535:
        raise UsageError(
            f"{option} is '{text}', an address is [HOST]:PORT",
            hint="write :8080 for this machine alone, 0.0.0.0:8080 for all",
        )
    return found["v6"] or found["host"] or "127.0.0.1", int(found["port"])


def _opened(host: str, port: int, routes: Mapping[str, Route]) -> _Server:
    """A server that listens.

    Raises:
        EdgewrightError: it cannot.
    """
    try:
        return (_Server6 if ":" in host else _Server)(host, port, routes)
    except OSError as error:
        raise EdgewrightError(
            f"cannot serve at {host}:{port} ({error.strerror or error})", hint="name another port, or 0 for any free one"
        ) from error


class _Server(ThreadingHTTPServer):
    """Answers each request in a thread of its own; what clients do wrong is theirs alone."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        self.host, self.routes = host, routes
        self._room = threading.BoundedSemaphore(_CLIENTS)
        super().__init__((host, port), _Handler)
        self.port = int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def server_bind(self) -> None:
        """As HTTPServer does, without asking a name server who we are, which can take many seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more client, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # the system has no thread left: nobody else would make room again
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As in the base class, and make room again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""
        _log.debug("a client of %s was not answered: %s", self.url, sys.exc_info()[1])


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, one connection: nobody is answered after the stream has ended."""

    server: _Server
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """Answer from the routes."""
        address = urlsplit(self.path)
        route = self.server.routes.get(address.path)
        if not self._asked_for_us():
            reply = Reply(b"this host is not served here\n", status=421)
        elif route is None:
            reply = Reply(f"there is {', '.join(self.server.routes)}\n".encode(), status=404)
        else:
            try:
                reply = route({name: values[0] for name, values in parse_qs(address.query).items()})
            except Exception as error:  # the stream goes on whatever happens here
                _log.debug("%s failed", self.path, exc_info=True)
                reply = Reply(f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"), status=500)
        self.send_response(reply.status)
        fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), **fixed, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_HEAD = do_GET

    def version_string(self) -> str:
        """Who answers, without versions that help attackers."""
        return "edgewright"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def _asked_for_us(self) -> bool:
        """Whether a browser knows us by a name of ours: a foreign page could else read us through a name that it controls."""
        if self.server.host not in _LOCAL:
            return True
        asked = urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname
        return asked in _LOCAL
