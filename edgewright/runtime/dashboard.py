"""The live page of a stream: its account and newest answers as JSON, its newest picture as JPEG, both made when asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

from edgewright.errors import MissingPackageError, needs
from edgewright.runtime.accounting import DROPS
from edgewright.runtime.draw import draw
from edgewright.runtime.frames import Array, Result
from edgewright.runtime.stream import Stream

__all__ = ["Page", "Reply"]

_WATCHED_S = 2.0
_FRESH_S = 0.5
_WIDEST, _NARROWEST = 960, 160
_RECENT = 240
_LINES = 4


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request is answered with."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Seen:
    """What is kept of one source."""

    newest: Result | None = None
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    picture: Result | None = None
    kept_s: float = -math.inf
    asked_s: float = -math.inf
    encoded: tuple[Result, int, bytes] | None = None


class Page:
    """What the dashboard shows of a stream; one thread shows results, any number of clients look.

    Args:
        running: the stream.
    """

    def __init__(self, running: Stream) -> None:
        self.url = ""
        self.routes: dict[str, Callable[[Mapping[str, str]], Reply]] = {
            "/": self._html,
            "/account.json": self._account,
            "/picture.jpg": self._picture,
        }
        self._running = running
        self._names = [lane.name for lane in running.lanes]
        self._seen = {name: _Seen() for name in self._names}
        self._changed = threading.Condition()
        self._encoding = threading.Lock()
        self._started_ns = time.monotonic_ns()

    def show(self, result: Result) -> None:
        """Take note of a result; its image is copied only while somebody looks, and once at the start."""
        point = _point(result, self._started_ns)
        bare = replace(result, image=None, outputs={})
        with self._changed:
            seen = self._seen.setdefault(result.source, _Seen())
            seen.newest = bare
            seen.recent.append(point)
            if result.image is None:
                return
            now = time.monotonic()
            if seen.picture is None or now - seen.asked_s < _WATCHED_S:
                seen.picture = replace(bare, image=result.image.copy())
                seen.kept_s = now
                self._changed.notify_all()

    def _html(self, _: Mapping[str, str]) -> Reply:
        """The page; only its own script and style may run, and it may load nothing but its account and pictures."""
        text = (resources.files("edgewright.runtime") / "dashboard.html").read_text(encoding="utf-8")
        allowed = {tag: _digest(text, tag) for tag in ("script", "style")}
        policy = (
            f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; img-src blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return Reply(text.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})

    def _account(self, _: Mapping[str, str]) -> Reply:
        """The stream's summary; for each source under "answers" the newest answer, recent ones, whether it has pictures."""
        account = self._running.summary()
        for lane in account["sources"].values():
            # Captured may have grown between two of its readings: what is shown must add up.
            lane["waiting"] = lane["captured"] - lane["done"] - lane["late"] - lane["failed"] - sum(lane["dropped"].values())
        with self._changed:
            account["answers"] = {
                name: {
                    "newest": None if seen.newest is None else _told(seen.newest),
                    "recent": [] if seen.picture is not None else list(seen.recent),
                    "picture": seen.picture is not None,
                }
                for name, seen in self._seen.items()
            }
        account["reasons"] = DROPS
        return Reply(json.dumps(_plain(account), allow_nan=False).encode(), "application/json")

    def _picture(self, query: Mapping[str, str]) -> Reply:
        """The newest image of source number `?source=`, 0 unless told, with its answer; `&width=` pixels wide at most."""
        number, asked = query.get("source", "0"), query.get("width", "")
        width = min(_WIDEST, max(_NARROWEST, int(asked))) if asked.isdecimal() and len(asked) < 6 else _WIDEST
        if not number.isdecimal() or int(number) >= len(self._names):
            return Reply(f"there are sources 0 to {len(self._names) - 1}\n".encode(), status=404)
        seen = self._seen[self._names[int(number)]]
        with self._changed:
            now = time.monotonic()
            seen.asked_s = now
            if seen.picture is None:
                return Reply(b"this source has given no images\n", status=404)
            if now - seen.kept_s > _WATCHED_S:  # nobody looked until now: wait for a new one, which may not come
                self._changed.wait_for(lambda: seen.kept_s >= now, _FRESH_S)
            picture = seen.picture
        with self._encoding:
            if seen.encoded is None or seen.encoded[0] is not picture or seen.encoded[1] != width:
                try:
                    seen.encoded = picture, width, _jpeg(picture, width)
                except MissingPackageError as error:
                    return Reply(f"{error}\n".encode(), status=404)
            return Reply(seen.encoded[2], "image/jpeg", headers={"X-Frame-Index": str(picture.index)})


def _digest(text: str, tag: str) -> str:
    """A script or style as a Content-Security-Policy names it (W3C, Content Security Policy Level 3)."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no {tag}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def _jpeg(result: Result, width: int) -> bytes:
    """An image with its answer, at most so many pixels wide.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    with needs("video"):
        import cv2
    image, answer = result.image, result.answer
    if image is None:
        raise ValueError("a result without an image")
    if (factor := width / image.shape[1]) < 1:  # before drawing, so that what is written stays readable
        height = max(1, round(image.shape[0] * factor))
        image, answer = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), _scaled(answer, factor)
    drawn: Array = draw(image, answer, age_ms=result.age_ms, late=result.status == "late", error=result.error)
    _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(data.tobytes())


def _scaled(answer: Mapping[str, Any], factor: float) -> Mapping[str, Any]:
    """An answer whose boxes fit a smaller image."""
    if "boxes" not in answer:
        return answer
    boxes = []
    for box in answer["boxes"]:
        points = {"points": [[factor * x, factor * y] for x, y in box["points"]]} if "points" in box else {}
        boxes.append({**box, "box": [factor * edge for edge in box["box"]], **points})
    return {**answer, "boxes": boxes}


def _told(result: Result) -> dict[str, Any]:
    told = {"index": result.index, "status": result.status, "age_ms": round(result.age_ms, 3), "error": result.error}
    return {**told, "time_s": None if result.recorded_ns is None else result.recorded_ns / 1e9, "answer": dict(result.answer)}


def _point(result: Result, started_ns: int) -> dict[str, Any]:
    """What the timeline plots of a result: its time in seconds, one to four values, and a name for them."""
    answer = result.answer
    point: dict[str, Any] = {"t": round((result.finished_ns - started_ns) / 1e9, 4), "status": result.status, "values": []}
    if "boxes" in answer:
        point["values"] = [len(answer["boxes"])]
    elif "score" in answer:
        point["values"] = [answer["score"]]
        point |= {name: answer[name] for name in ("label", "class", "anomaly", "threshold") if name in answer}
    elif "values" in answer:
        point["values"] = answer["values"][:_LINES]
    elif "classes" in answer:
        point |= {"values": [len(answer["classes"])], "label": ", ".join(map(str, answer["labels"]))}
    elif answer.get("outputs"):
        first = next(iter(answer["outputs"].values()))
        point["values"] = first[:_LINES] if isinstance(first, list) else []
    return point


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float)) or value is None else str(value)
