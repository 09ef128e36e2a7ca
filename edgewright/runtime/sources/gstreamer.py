"""Frames of a GStreamer pipeline, for hardware decoders and cameras that OpenCV itself does not know."""

from __future__ import annotations

import re

from edgewright.errors import SourceError, UsageError, needs
from edgewright.runtime.address import Address
from edgewright.runtime.capture import Link, LiveSource, opened
from edgewright.runtime.sources import SOURCES

__all__ = ["GstreamerSource"]


@SOURCES.register("gstreamer")
class GstreamerSource(LiveSource):
    """The newest frame at the appsink of a pipeline: uint8 (height, width, 3), BGR.

    The pipeline counts as live, whatever is at its beginning: frames that nobody took are overwritten. When it ends after
    a frame, the source ends; when it falls silent, it is started again.

    Args:
        pipeline: as for gst-launch-1.0, ending in an appsink; `videoconvert ! video/x-raw,format=BGR` before it gives BGR.
        silence_s: seconds without a frame after which it counts as silent.
        retries: starts in a row without a frame before it is given up; None never gives up.

    Raises:
        SourceError: this OpenCV has no GStreamer, or the pipeline does not start.
        UsageError: the pipeline has no appsink.
    """

    def __init__(self, pipeline: str, *, silence_s: float = 2.0, retries: int | None = None) -> None:
        with needs("video"):
            import cv2
        pipeline = pipeline.strip()
        if "appsink" not in pipeline:
            raise UsageError(
                f"the pipeline '{pipeline}' has no appsink, which is where frames are taken",
                hint="end it in '! videoconvert ! video/x-raw,format=BGR ! appsink'",
            )
        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise SourceError(
                f"OpenCV {cv2.__version__} here is built without GStreamer, which gstreamer: needs",
                hint="as all of PyPI are; Debian's and Ubuntu's python3-opencv has it, so does a build with WITH_GSTREAMER=ON",
            )
        hint = "see what gst-launch-1.0 says to the pipeline with fakesink in the place of appsink"
        link = Link(
            f"the pipeline '{pipeline}'",
            lambda: opened(pipeline, cv2.CAP_GSTREAMER),
            silence_s,
            retries,
            ends=True,
            hint=hint,
        )
        super().__init__(link)

    @classmethod
    def of(cls, address: Address) -> GstreamerSource:
        """See `Source.of`: `gstreamer:PIPELINE`; it takes no settings, all behind the colon is the pipeline's."""
        return cls(address.target)
