"""What a stream and its servers let go of, also where something goes wrong: sources, sessions, sinks, clients."""

import http.client
import threading

import pytest

from edgewright.errors import SinkError, UsageError
from edgewright.runtime import Flow, Result, Sink, Source, stream
from edgewright.runtime.monitor import serve
from edgewright.runtime.outlets import Outlet
from edgewright.runtime.session import Session


class Waiting(Source):
    """A live sensor without samples."""

    kind, live = "sensor", True

    def __init__(self, closing=lambda: None):
        self.closing, self.closed = closing, threading.Event()

    @classmethod
    def of(cls, address):
        raise NotImplementedError

    def read(self, into=None):
        self.closed.wait()

    def close(self):
        self.closing()
        self.closed.set()


class Taking(Sink):
    """Takes results and does nothing with them."""

    @classmethod
    def of(cls, address):
        raise NotImplementedError

    def write(self, result):
        pass


def test_sources_that_are_slow_to_close_are_closed_all_at_once(models):
    together = threading.Barrier(3)
    running = stream(models["tflite"], [Waiting(lambda: together.wait(5)) for _ in range(3)])
    running.close()
    assert not together.broken and not running.events


def test_nothing_is_loaded_for_a_policy_that_is_none(models, monkeypatch):
    cloned, clone = [], Session.clone
    monkeypatch.setattr(Session, "clone", lambda session: cloned.append(clone(session)) or cloned[-1])
    with pytest.raises(UsageError, match="there is no policy 'random'"):
        stream(models["tflite"], Waiting(), flow=Flow(policy="random", workers=3))
    assert not [one for one in cloned if not one._closed]


@pytest.mark.parametrize("error", [SinkError("the disk is full"), RuntimeError("the library is gone")])
def test_a_sink_that_cannot_be_closed_is_told_of(error):
    class Sealed(Taking):
        def close(self):
            raise error

    told = []
    outlet = Outlet("sealed", Sealed(), patient=True, tell=told.append)
    outlet.put(Result(0, "a", "done", 0, 1))
    outlet.close()
    assert outlet.to_json()["written"] == 1 and str(error) in outlet.to_json()["error"]
    assert [text for text in told if text.startswith("sealed could not be closed") and str(error) in text]


def test_a_sink_that_does_not_close_is_told_of(monkeypatch):
    monkeypatch.setattr("edgewright.runtime.outlets._CLOSING_S", 0.2)
    told, release = [], threading.Event()

    class Stuck(Taking):
        def close(self):
            release.wait(10)
            return 0

    outlet = Outlet("stuck", Stuck(), patient=True, tell=told.append)
    outlet.close()
    assert "did not close within 0.2 s" in outlet.to_json()["error"] and len(told) == 1
    release.set()


def test_clients_that_no_thread_was_left_for_take_no_room(models, monkeypatch):
    start, refused = threading.Thread.start, []

    def refusing(thread):
        if "process_request" in thread.name and len(refused) < 40:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    with stream(models["tflite"], Waiting()) as running, serve(running, metrics=None, dashboard="127.0.0.1:0") as page:
        monkeypatch.setattr(threading.Thread, "start", refusing)
        place = page.url.removeprefix("http://")
        for _ in range(40):
            client = http.client.HTTPConnection(place, timeout=10)
            client.request("GET", "/account.json")
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                client.getresponse()
            client.close()
        client = http.client.HTTPConnection(place, timeout=10)
        client.request("GET", "/account.json")
        assert client.getresponse().status == 200 and len(refused) == 40
        client.close()
