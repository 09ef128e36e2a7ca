"""Opens damaged copies of a model in this process and writes what came of each; run as a script by the corruption tests.

Usage: python fuzz_reader.py READER MODEL FILE SEED COUNT FOLDER. FILE is the one to damage (MODEL itself or its weights).
Every line is JSON: {"case": .., "result": "ok" | "refused" | "<other exception>", "seconds": ..}. The case is written
before it is opened, so that a crash names it.
"""

import json
import random
import shutil
import sys
import time
from pathlib import Path

from edgewright.converters.readers import READERS
from edgewright.errors import ModelError, UnsupportedError


def damaged(content, rng, number):
    """Name and content of one damaged copy: cut short, bits flipped, words replaced, or bytes taken out."""
    kind = ("cut", "flip", "word", "remove")[number % 4]
    at = rng.randrange(1, len(content)) if number % 8 < 4 else rng.randrange(1, min(len(content), 2048))
    copy = bytearray(content)
    if kind == "cut":
        del copy[at:]
    elif kind == "flip":
        for position in (at, *(rng.randrange(len(copy)) for _ in range(number % 3))):
            copy[position] ^= 1 << rng.randrange(8)
    elif kind == "word":
        at -= at % 4
        copy[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", rng.randbytes(4)])
    else:
        del copy[at : at + rng.randrange(1, 9)]
    return f"{kind}@{at}#{number}", bytes(copy)


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(name, model, victim, seed, count, folder):
    reader = READERS.get(name)
    rng = random.Random(seed)
    target = folder / model.name
    for file in model.parent.glob(f"{model.stem}.*"):
        shutil.copy(file, folder / file.name)
    content = victim.read_bytes()
    for number in range(count):
        case, copy = damaged(content, rng, number)
        (folder / victim.name).write_bytes(copy)
        say({"case": case})
        start = time.monotonic()
        try:
            opened = reader(target)
            opened.specs()
            json.dumps(opened.info().to_json())
            result = "ok"
        except (ModelError, UnsupportedError):
            result = "refused"
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"[:300]
        say({"case": case, "result": result, "seconds": time.monotonic() - start})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
