"""Tracking: the same number for the same thing from frame to frame, by the overlap of boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgewright.boxes import iou
from edgewright.detection import Boxes
from edgewright.errors import UsageError
from edgewright.runtime.frames import Array

__all__ = ["Tracker"]

_ALPHA, _BETA = 0.85, 0.5
"""Gains of the alpha-beta filter (P. R. Kalata, "The tracking index", IEEE Trans. AES 20(2), 1984): boxes of a detector are
good to a few pixels, so most of what was measured is believed."""


@dataclass(slots=True)
class _Track:
    centre: Array  # (2,): x, y in pixels, predicted for the frame at hand
    size: Array  # (2,): width, height
    speed: Array  # (2,): pixels per frame
    label: int
    number: int | None = None
    seen: int = 1
    missed: int = 0


class Tracker:
    """Follows boxes over frames: constant speed is assumed, and the box that overlaps the prediction most is taken.

    Pairs are taken greedily, largest overlap first, within a class. Things that were seen in the last frame choose before
    those that are lost; A. Bewley et al., "Simple online and realtime tracking", 2016, is the same with other tools.

    Args:
        iou: the least overlap of a box with the prediction.
        keep: frames that a thing may be lost and still get its number back.
        confirm: frames in a row that a thing must be seen before it gets a number.

    Raises:
        UsageError: a setting has an impossible value.
    """

    def __init__(self, iou: float = 0.3, keep: int = 30, confirm: int = 3) -> None:
        if not 0.0 < iou <= 1.0:
            raise UsageError(f"tracking iou is {iou}, it must be above 0 and at most 1")
        if keep < 0 or confirm < 1:
            raise UsageError(f"tracking keep is {keep} and confirm is {confirm}, the least are 0 and 1")
        self.iou, self.keep, self.confirm = iou, keep, confirm
        self._tracks: list[_Track] = []
        self._given = 0

    def update(self, boxes: Boxes) -> list[int | None]:
        """Numbers for the boxes of the next frame, from 1; None for a thing that was not seen often enough yet.

        Args:
            boxes: of one frame; call it for frames without boxes too.
        """
        owners: list[_Track | None] = [None] * len(boxes)
        for track in self._tracks:
            track.centre = track.centre + track.speed
        corners = boxes.boxes.astype(np.float64)
        for tracks in ([t for t in self._tracks if not t.missed], [t for t in self._tracks if t.missed]):
            for track, place in self._pairs(tracks, corners, boxes.classes, owners):
                owners[place] = track
        found = {id(track) for track in owners}
        for track in self._tracks:
            if id(track) not in found:
                track.missed += 1
        self._tracks = [t for t in self._tracks if t.missed <= (self.keep if t.number is not None else 0)]
        return [self._seen(track, corners[place], int(boxes.classes[place])) for place, track in enumerate(owners)]

    def _pairs(
        self, tracks: list[_Track], corners: Array, classes: Array, owners: list[_Track | None]
    ) -> list[tuple[_Track, int]]:
        """Pairs of a track and the place of a free box."""
        if not tracks or not len(corners):
            return []
        centres, halves = np.array([t.centre for t in tracks]), np.array([t.size for t in tracks]) / 2
        overlap = iou(np.hstack([centres - halves, centres + halves]), corners)
        overlap[np.array([t.label for t in tracks])[:, None] != classes] = 0.0
        overlap[:, [owner is not None for owner in owners]] = 0.0
        pairs = []
        while overlap.max() >= self.iou:
            row, column = divmod(int(overlap.argmax()), overlap.shape[1])
            pairs.append((tracks[row], column))
            overlap[row, :] = overlap[:, column] = 0.0
        return pairs

    def _seen(self, track: _Track | None, corners: Array, label: int) -> int | None:
        """Take a box into its track, or begin one."""
        centre, size = (corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]
        if track is None:
            track = _Track(centre, size, np.zeros(2), label)
            self._tracks.append(track)
        else:
            off = centre - track.centre
            track.speed = track.speed + (off if track.seen == 1 else _BETA * off / (track.missed + 1))
            track.centre = track.centre + _ALPHA * off
            track.size = track.size + _ALPHA * (size - track.size)
            track.seen, track.missed = track.seen + 1, 0
        if track.number is None and track.seen >= self.confirm:
            self._given += 1
            track.number = self._given
        return track.number
