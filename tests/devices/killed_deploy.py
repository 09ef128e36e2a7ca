"""Deploys in a process that kills itself (SIGKILL) at a chosen operation on the transport: `python killed_deploy.py JSON`.

The JSON has `board` (fields of a Board), `model`, `name`, `at` (number of the operation, from 0) and `when`: "before" it, "after"
it, or "within" it, which for a push is in the middle of the file, for a command once it runs, and "after" any other. Prints the
number of operations when it gets to the end.
"""

import json
import os
import signal
import sys

from edgewright import deployment
from edgewright.devices import device as device_module
from edgewright.devices.boards import Board
from edgewright.devices.transport import open_transport

WORK = json.loads(sys.argv[1])
done = 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killing:
    """A transport whose operations count."""

    def __init__(self, true):
        self._true = true

    def __getattr__(self, name):
        return getattr(self._true, name)

    def __enter__(self):
        self._counted(self._true.open)
        return self

    def __exit__(self, *_):
        self._counted(self._true.close)

    def start(self, *args, **kwargs):
        return self._counted(self._true.start, *args, **kwargs)

    def run(self, *args, **kwargs):
        if WORK["when"] == "within" and WORK["at"] == done:
            self._true.start(*args, env=kwargs.get("env"))
            die()
        return self._counted(self._true.run, *args, **kwargs)

    def push(self, source, target, *, progress=None):
        def tell(share):
            if share >= 0.4:
                die()

        if WORK["when"] == "within" and WORK["at"] == done:
            progress = tell
        return self._counted(self._true.push, source, target, progress=progress)

    def sha256(self, *args):
        return self._counted(self._true.sha256, *args)

    def pull(self, *args):
        return self._counted(self._true.pull, *args)

    def _counted(self, call, *args, **kwargs):
        global done
        if WORK["at"] == done and WORK["when"] == "before":
            die()
        result = call(*args, **kwargs)
        if WORK["at"] == done and WORK["when"] in ("after", "within"):
            die()
        done += 1
        return result


if __name__ == "__main__":
    device_module.open_transport = lambda board: Killing(open_transport(board))
    board = Board(**{**WORK["board"], "engines": tuple(WORK["board"]["engines"])})
    slot = deployment.deploy(WORK["model"], board, name=WORK["name"], wait_s=60)["slot"]
    sys.stdout.write(f"{json.dumps({'operations': done, 'slot': slot})}\n")
