"""What the tests of the Keras and SavedModel readers share: jobs in the one child, and the answers that Keras gave."""

from dataclasses import dataclass

import numpy as np

JOBS = "edgewright.converters.jobs"


@dataclass
class Models:
    """Runs Edgewright's jobs on the models of keras_models.py."""

    child: object
    folder: object
    out: object

    def run(self, job, name, *, trust=False, custom=None, **arguments):
        path = str(self.folder / name)
        return self.child.call(f"{JOBS}:{job}", what=f"reading {name}", path=path, trust=trust, custom=custom, **arguments)

    def info(self, name, **trust):
        return self.run("inspect_model", name, **trust)

    def specs(self, name, **trust):
        """Names with shape and dtype of the inputs and of the outputs."""
        found = self.run("model_specs", name, **trust)
        return tuple([(s["name"], tuple(s["shape"]), s["dtype"]) for s in found[side]] for side in ("inputs", "outputs"))

    def expected(self, name):
        """Inputs by name, and Keras' own outputs in order."""
        with np.load(self.folder / f"{name}.npz") as known:
            feeds = {key[3:]: known[key] for key in known if key.startswith("in:")}
            return feeds, [known[key] for key in sorted(known) if key.startswith("out:")]

    def reference(self, name, feeds, **trust):
        """Reference outputs by name."""
        np.savez(self.out / "feeds.npz", **feeds)
        samples = {"source": str(self.out / "feeds.npz"), "window": None, "stride": None}
        found = self.run("reference_outputs", name, out=str(self.out / "found.npz"), samples=samples, **trust)
        with np.load(self.out / "found.npz") as arrays:
            return {spec["name"]: arrays[str(i)] for i, spec in enumerate(found["outputs"])}

    def lower(self, name, *, batch=1, unroll=None, integer=False, select_tf=False, **trust):
        """The .tflite file and what the job says of it."""
        out = self.out / "lowered.tflite"
        options = {"batch": batch, "unroll": unroll, "integer": integer, "select_tf": select_tf}
        return out, self.run("lower_model", name, out=str(out), **options, **trust)


def run_tflite(path, feeds):
    """Outputs by signature name, one sample at a time through LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    runner = interpreter.get_signature_runner("serving_default")
    count = len(next(iter(feeds.values())))
    rows = [runner(**{name: values[i : i + 1] for name, values in feeds.items()}) for i in range(count)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
