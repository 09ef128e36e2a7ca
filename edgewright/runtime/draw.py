"""Draws an answer on its image: boxes with label, score and track, or a banner; and the age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgewright.errors import ShapeError, needs
from edgewright.runtime.frames import Array

__all__ = ["draw"]

Color = tuple[int, int, int]
Corner = tuple[int, int]

_PALETTE: tuple[Color, ...] = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (178, 114, 0),
    (0, 94, 213),
    (167, 121, 204),
)
"""BGR; told apart by colour-blind eyes too (M. Okabe and K. Ito, "Color Universal Design", 2008)."""
_DARK: Color = (32, 32, 32)
_RED: Color = (40, 40, 200)
_GREEN: Color = (80, 130, 40)


def draw(image: Array, answer: Mapping[str, Any], *, age_ms: float | None = None, late: bool = False, error: str = "") -> Array:
    """A copy of an image with what was found in it.

    Args:
        image: uint8 (height, width), (height, width, 1) or (height, width, 3) as BGR; it is not written to.
        answer: plain values as in `Result.answer`: "boxes", or "label", "labels", "anomaly" or "values".
        age_ms: from capture to answer; None draws none.
        late: whether the answer came after its deadline.
        error: why there is no answer.

    Returns:
        uint8 (height, width, 3), BGR.

    Raises:
        ShapeError: it is no image.
        MissingPackageError: cv2 is not installed.
    """
    if image.dtype != np.uint8 or image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] not in {1, 3}):
        raise ShapeError(
            f"an image to draw on has shape {image.shape} and dtype {image.dtype}, uint8 (height, width, 3) is taken"
        )
    wide = image[..., np.newaxis] if image.ndim == 2 else image
    pen = _Pen(np.repeat(wide, 3, axis=2) if wide.shape[2] == 1 else wide.copy())
    found = list(answer.get("boxes") or ())
    for box in found:
        pen.outline(box)
    for box in sorted(found, key=lambda box: -float(box.get("score") or 0.0)):
        pen.name(box)
    if banner := _banner(answer, error):
        pen.banner(*banner)
    if age_ms is not None or late:
        pen.foot(f"{'' if age_ms is None else _time(age_ms)} {'LATE' if late else ''}".strip(), _RED if late else _DARK)
    return pen.image


def _banner(answer: Mapping[str, Any], error: str) -> tuple[str, Color] | None:
    """Text and background of what is said of the whole image."""
    if error:
        return f"failed: {error}", _RED
    if "anomaly" in answer and answer["anomaly"] is None:
        return f"learning what is normal {_number(answer.get('score'))}", _DARK
    if "anomaly" in answer:
        anomaly, threshold = bool(answer["anomaly"]), answer.get("threshold")
        against = "" if threshold is None else f" {'>' if anomaly else '<='} {_number(threshold)}"
        return f"{'ANOMALY' if anomaly else 'normal'} {_number(answer.get('score'))}{against}", _RED if anomaly else _GREEN
    if "boxes" not in answer and ("label" in answer or "class" in answer):
        return _title(answer), _DARK
    if "labels" in answer:
        return ", ".join(map(str, answer["labels"])) or "none of the labels", _DARK
    if "values" in answer:
        values = list(np.ravel(answer["values"]).tolist())
        return " ".join(map(_number, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else ""), _DARK
    return None


def _title(found: Mapping[str, Any]) -> str:
    """Label, score and track of a box or a classification."""
    label = found.get("label")
    parts = [str(label) if label not in {None, ""} else f"class {found.get('class', '?')}"]
    if (score := found.get("score")) is not None:
        parts.append(f"{float(score):.2f}")
    if (track := found.get("track")) is not None:
        parts.append(f"#{track}")
    return " ".join(parts)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "?"


def _time(age_ms: float) -> str:
    return f"{age_ms:.1f} ms" if age_ms < 10 else f"{age_ms:.0f} ms" if age_ms < 10_000 else f"{age_ms / 1000:.0f} s"


@dataclass(slots=True)
class _Pen:
    """Lines and text in sizes that suit the image."""

    image: Array
    taken: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def line(self) -> int:
        """Width of a line in pixels: 1 up to 360 rows, 4 for 1080."""
        return max(1, round(int(min(self.image.shape[:2])) / 300))

    @property
    def scale(self) -> float:
        """Size of the font: capitals of 8 pixels at least, and of 1/45 of the smaller side."""
        return max(8.0, int(min(self.image.shape[:2])) / 45) / 21

    def outline(self, box: Mapping[str, Any]) -> None:
        """Edges and keypoints, with a dark rim so that they are seen on light and dark."""
        with needs("video"):
            import cv2
        left, top, right, bottom = self._corners(box)
        color = self._color(box)
        for inset in range(-1, self.line + 1):  # one pixel each: wide lines of cv2 are rounded and off centre
            if right - inset >= left + inset and bottom - inset >= top + inset:
                paint = color if 0 <= inset < self.line else _DARK
                cv2.rectangle(self.image, (left + inset, top + inset), (right - inset, bottom - inset), paint, 1)
        for x, y in box.get("points") or ():
            if np.isfinite((x, y)).all() and abs(x) < 1e6 and abs(y) < 1e6:
                for radius, paint in ((self.line + 1, _DARK), (self.line, color)):
                    cv2.circle(self.image, (round(x), round(y)), radius, paint, -1, cv2.LINE_AA)

    def name(self, box: Mapping[str, Any]) -> None:
        """Label, score and track: above the box, else below it, else inside, where nothing else is written."""
        text, color = _title(box), self._color(box)
        left, top, _, bottom = self._corners(box)
        width, height = self._extent(text)
        x = max(0, min(left - self.line // 2, self.image.shape[1] - width))
        places = [(x, y) for y in (top - height, bottom + 1, top + self.line, bottom - height) if self._fits(y, height)]
        free = [place for place in places if not self._covered(*place, width, height)]
        self._write(text, (free or places or [(x, 0)])[0], color)

    def banner(self, text: str, color: Color) -> None:
        """Text at the top, over several lines if it is long."""
        lines = self._wrapped(text)
        for number, line in enumerate(lines):
            self._write(line, (0, number * self._extent(line)[1]), color)

    def foot(self, text: str, color: Color) -> None:
        """Text in the lower left corner."""
        self._write(text, (0, self.image.shape[0] - self._extent(text)[1]), color)

    def _corners(self, box: Mapping[str, Any]) -> tuple[int, int, int, int]:
        height, width = self.image.shape[:2]
        left, top, right, bottom = np.nan_to_num(np.asarray(box["box"], np.float64))
        x = np.clip((left, right), 0, width - 1).round().astype(int)
        y = np.clip((top, bottom), 0, height - 1).round().astype(int)
        return int(x[0]), int(y[0]), int(x[1]), int(y[1])

    def _color(self, box: Mapping[str, Any]) -> Color:
        number = box.get("track") if box.get("track") is not None else box.get("class")
        return _PALETTE[number % len(_PALETTE)] if isinstance(number, int) else _PALETTE[0]

    def _thickness(self) -> int:
        return max(1, round(self.scale * 1.5))

    def _pad(self) -> int:
        return max(2, round(self.scale * 6))

    def _extent(self, text: str) -> tuple[int, int]:
        """Width and height of a text with its background; heights of all texts are equal."""
        with needs("video"):
            import cv2
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self.scale, self._thickness())
        return int(width) + 2 * self._pad(), round(self.scale * 29) + 2 * self._pad()

    def _write(self, text: str, place: Corner, color: Color) -> None:
        """Text on a filled box whose upper left corner is given; dark text on light colours and the other way round."""
        with needs("video"):
            import cv2
        width, height = self._extent(text)
        x, y = place
        cv2.rectangle(self.image, (x, y), (x + width - 1, y + height - 1), color, -1)
        light = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 120  # luma, ITU-R BT.601
        base = (x + self._pad(), y + self._pad() + round(self.scale * 22))
        paint = (0, 0, 0) if light else (255, 255, 255)
        cv2.putText(self.image, text, base, cv2.FONT_HERSHEY_SIMPLEX, self.scale, paint, self._thickness(), cv2.LINE_AA)
        self.taken.append((x, y, width, height))

    def _fits(self, y: int, height: int) -> bool:
        return 0 <= y and y + height <= self.image.shape[0]

    def _covered(self, x: int, y: int, width: int, height: int) -> bool:
        return any(x < a + w and a < x + width and y < b + h and b < y + height for a, b, w, h in self.taken)

    def _wrapped(self, text: str, most: int = 4) -> Sequence[str]:
        """Lines that fit the image's width; what does not fit into `most` lines is cut."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if self._extent(longer)[0] <= self.image.shape[1]:
                lines[-1] = longer
                continue
            while self._extent(word)[0] > self.image.shape[1] and len(word) > 1:  # a path, for example
                cut = next((n for n in range(len(word) - 1, 1, -1) if self._extent(word[:n])[0] <= self.image.shape[1]), 1)
                lines.append(word[:cut])
                word = word[cut:]
            lines.append(word)
        lines = [line for line in lines if line]
        return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-3] + "..."]
