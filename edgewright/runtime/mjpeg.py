"""JPEG images that a server sends over HTTP one after the other (multipart/x-mixed-replace), each one whole or left out."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np

from edgewright.errors import SourceError
from edgewright.runtime.frames import Array

__all__ = ["Mjpeg", "connected"]

_LONGEST = 64 << 20
_DAMAGED_IN_A_ROW = 50
_REDIRECTS = 5
_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$")
_PADDING = b"\0\r\n\t "


class Mjpeg:
    """The images of a stream, with the part of cv2.VideoCapture's interface that live sources use.

    FFmpeg, which VideoCapture is made of, fills what is missing of a truncated image with the one before, and says nothing.

    Args:
        receive: gives the next bytes of the body, as they come; none at its end.
        boundary: what stands between the parts, as the header says, without the hyphens before it.
        release: closes the connection.
    """

    def __init__(self, receive: Callable[[], bytes], boundary: bytes, release: Callable[[], None]) -> None:
        self.release = release
        self.broken = 0
        self._receive, self._mark = receive, b"--" + boundary
        self._buffer = bytearray()

    def get(self, _: int) -> float:
        """No property is known: the rate is that of the server."""
        return 0.0

    def read(self, _: Array | None = None) -> tuple[bool, Array | None]:
        """The next image that is whole: uint8 (height, width, 3), BGR; False at the end of the stream.

        Raises:
            SourceError: a part has no end, or many images in a row are damaged.
        """
        import cv2

        damaged = 0
        while (part := self._part()) is not None:
            image = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR) if _is_whole(part) else None
            if image is not None:
                return True, image
            self.broken, damaged = self.broken + 1, damaged + 1
            if damaged == _DAMAGED_IN_A_ROW:
                raise SourceError(f"it sent {damaged} damaged images in a row")
        return False, None

    def _part(self) -> bytes | None:
        """The content of the next part; None at the end."""
        start = self._find(self._mark, 0)
        if start < 0:
            return None
        del self._buffer[:start]
        while not (head := _HEADERS_END.search(self._buffer, len(self._mark))):
            if not self._more():
                return None
        begin, length = head.end(), _LENGTH.search(self._buffer, 0, head.end())
        told = begin + int(length[1]) if length else _LONGEST
        end = self._find(b"\n" + self._mark, begin, told)
        if not 0 <= end < told and len(self._buffer) >= told and _is_whole(part := bytes(self._buffer[begin:told])):
            end = told
        else:  # the length is wrong, or there is none: the part ends where the next one begins
            end = end if end >= 0 else self._find(b"\n" + self._mark, begin)
            end = end if end >= 0 else len(self._buffer)
            part = bytes(self._buffer[begin:end])
        del self._buffer[:end]
        return part

    def _find(self, what: bytes, start: int, enough: int = _LONGEST) -> int:
        """Where this is in the buffer, received until it is there, or until so many bytes are; -1 if it is not."""
        while (place := self._buffer.find(what, start)) < 0:
            start = max(start, len(self._buffer) - len(what))
            if len(self._buffer) >= enough or not self._more():
                return -1
        return place

    def _more(self) -> bool:
        data = self._receive()
        self._buffer += data
        if len(self._buffer) > _LONGEST:
            raise SourceError(f"it sent {_LONGEST >> 20} MB without the end of an image")
        return bool(data)


def connected(url: str, open_s: float, read_s: float) -> Mjpeg | None:
    """The stream at an address, read with Python's own HTTP; None where FFmpeg is to try: no MJPEG, no such answer.

    Args:
        url: http:// or https://, with user and password if the server asks for them.
        open_s: seconds that the server may take to answer.
        read_s: seconds that it may send nothing.
    """
    import http.client

    headers = {"User-Agent": "Edgewright", "Accept": "*/*", "Connection": "close"}
    for _ in range(_REDIRECTS):
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            connection = kind(parts.hostname or "", parts.port, timeout=open_s)
            connection.connect()
            socket = connection.sock  # which the connection forgets with the answer
            connection.request("GET", parts._replace(scheme="", netloc="", fragment="").geturl() or "/", headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError):
            return None
        if response.status in (301, 302, 303, 307, 308) and (target := response.headers.get("Location")):
            response.close()
            url = urljoin(url, target)
            headers.pop("Authorization", None)
            continue
        asked = response.headers.get("WWW-Authenticate", "").lower()
        if response.status == 401 and asked.startswith("basic") and parts.username is not None and "Authorization" not in headers:
            response.close()
            headers["Authorization"] = _basic(parts)
            continue
        boundary = response.headers.get_param("boundary")
        if response.status != 200 or response.headers.get_content_type() != "multipart/x-mixed-replace" or not boundary:
            response.close()
            return None
        socket.settimeout(read_s)

        def receive(response: Any = response) -> bytes:
            try:
                return bytes(response.read1(1 << 18))
            except TimeoutError as error:
                raise SourceError(f"it sent nothing for {read_s:.1f} s") from error

        return Mjpeg(receive, str(boundary).removeprefix("--").encode(), response.close)
    return None


def _basic(parts: Any) -> str:
    """The user and password of an address as a server asks for them (Basic, RFC 7617): they can be read on the way."""
    told = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return f"Basic {base64.b64encode(told).decode()}"


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG has its first and its last marker (ITU-T T.81, B.1.1.3); bytes that fill up may follow."""
    return data.startswith(b"\xff\xd8") and data.rstrip(_PADDING).endswith(b"\xff\xd9")
