"""Inference on the device: NumPy and one engine, nothing else.

    from edgewright.runtime import open_session

    with open_session("watch.tflite") as session:
        results = session.run({"imu": window})

    from edgewright.runtime import stream

    for result in stream("watch.tflite", "csv:imu.csv?rate=50"):
        print(result.answer, result.age_ms)

Importing this package loads NumPy only; an engine's library is imported when a file is opened with it.
"""

from edgewright.runtime.crew import Flow
from edgewright.runtime.engine_choice import open_session
from edgewright.runtime.engines import ENGINES
from edgewright.runtime.frames import Frame, Result, Sink, Source
from edgewright.runtime.opening import stream
from edgewright.runtime.session import Execution, Session
from edgewright.runtime.sinks import SINKS, open_sink
from edgewright.runtime.sources import SOURCES, open_source
from edgewright.runtime.stream import Stream
from edgewright.runtime.windows import Windowing

__all__ = [
    "ENGINES",
    "SINKS",
    "SOURCES",
    "Execution",
    "Flow",
    "Frame",
    "Result",
    "Session",
    "Sink",
    "Source",
    "Stream",
    "Windowing",
    "open_session",
    "open_sink",
    "open_source",
    "stream",
]
