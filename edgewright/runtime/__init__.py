"""Inference on the device: NumPy and one engine, nothing else.

    from edgewright.runtime import open_session

    with open_session("watch.tflite") as session:
        results = session.run({"imu": window})

Importing this package loads NumPy only; an engine's library is imported when a file is opened with it.
"""

from edgewright.runtime.engines import ENGINES
from edgewright.runtime.session import Execution, Session, open_session

__all__ = ["ENGINES", "Execution", "Session", "open_session"]
