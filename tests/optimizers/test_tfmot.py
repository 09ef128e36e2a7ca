"""TensorFlow Model Optimization (TFMOT) as the oracle: its schedules, masks, centroids and rounding beside ours.

TFMOT and TensorFlow run in children: this file, run as a script, is one of them. It writes what TFMOT computes from the arrays
that both processes make.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewright.optimizers.passes.cluster import kmeans
from edgewright.optimizers.passes.prune import PruneOptions, sparsity_at
from edgewright.optimizers.shaping import mask_by_magnitude

PERF = Path(__file__).parents[2] / "perf" / "tfmot.py"
STEPS = 200
SCHEDULES = {  # initial sparsity, final one, begin, end, power
    "cubic": (0.0, 0.8, 0, 140, 3.0),
    "late": (0.25, 0.9, 40, 160, 3.0),
    "square": (0.1, 0.5, 20, 200, 2.0),
    "linear": (0.0, 0.75, 50, 150, 1.0),
}
SPARSITIES = (0.3, 0.5, 0.8, 0.93)
BLOCKS = ((4, 1), (2, 2), (1, 4))
CLUSTERS = 16
BATCHES, DECAY = 12, 0.999


def kernels():
    """Kernels whose input channels are a multiple of four; one output channel of the first is all zeros."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 8, 16), "pointwise": (1, 1, 32, 24), "dense": (64, 10)}
    found = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    found["conv"][..., 5] = 0.0
    return found


def batches():
    """Activations whose range drifts; the first ones have no negative value."""
    rng = np.random.default_rng(1)
    return [(rng.normal(min(i, 3), 1 + 0.2 * i, (16, 8)).clip(-i, None)).astype(np.float32) for i in range(BATCHES)]


def weights():
    """Values as layers start with them, one-dimensional: centroids that start evenly spaced all have values of their own."""
    return np.random.default_rng(2).uniform(-0.3, 0.3, 3000).astype(np.float32)


# --- in the child ----------------------------------------------------------------------------------------------------


def oracle(folder):
    """Write what TFMOT computes, and our layers beside it, to FOLDER/oracle.npz."""
    os.environ.update(TF_USE_LEGACY_KERAS="1", KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    found = {}
    for name, (initial, final, begin, end, power) in SCHEDULES.items():
        decay = sparsity.PolynomialDecay(initial, final, begin, end, power, frequency=1)
        found[f"schedule/{name}"] = np.stack([decay(step)[1] for step in range(STEPS + 1)])
    constant = sparsity.ConstantSparsity(0.6, 40, frequency=1)
    found["schedule/constant"] = np.stack([float(prunes) * float(share) for prunes, share in map(constant, range(STEPS + 1))])
    for name, kernel in kernels().items():
        for share in SPARSITIES:
            found[f"mask/{name}/{share}"] = mask_of(tfmot, kernel, share)
        found[f"mask/{name}/2:4"] = mask_of(tfmot, kernel, 0.5, sparsity_m_by_n=(2, 4))
    for block in BLOCKS:
        found[f"mask/block/{block}"] = mask_of(tfmot, kernels()["dense"][:, :8], 0.6, block_size=block)
    found |= rounded(tfmot) | ranges(tfmot) | centroids()
    np.savez(Path(folder) / "oracle.npz", **found)


def mask_of(tfmot, kernel, share, **options):
    """The mask that TFMOT's wrapper makes for a layer's kernel."""
    import tf_keras

    rank = kernel.ndim
    layer = tf_keras.layers.Dense(kernel.shape[-1]) if rank == 2 else tf_keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2])
    schedule = tfmot.sparsity.keras.ConstantSparsity(share, 0, frequency=1)
    wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule, **options)
    wrapper.build((None, kernel.shape[0]) if rank == 2 else (None, 8, 8, kernel.shape[2]))
    layer.kernel.assign(kernel)
    wrapper.pruning_step.assign(1)
    wrapper.pruning_obj.conditional_mask_update()
    ((_, mask, _),) = wrapper.pruning_vars
    return mask.numpy()


def rounded(tfmot):
    """Kernels rounded by TFMOT and by us, and the gradients that reach the kernels; per output channel, and per tensor."""
    import keras
    import tensorflow as tf

    from edgewright.optimizers.graph import Kernel
    from edgewright.optimizers.shaping import rounding

    found = {}
    for name, values in kernels().items():
        variable = keras.Variable(values)
        kernel = Kernel(None, variable, name, tuple(range(values.ndim - 1)))
        upstream = tf.constant(np.random.default_rng(3).normal(size=values.shape).astype(np.float32))
        for per_channel in (True, False):
            quantizer = tfmot.quantization.keras.quantizers.LastValueQuantizer(
                num_bits=8, per_axis=per_channel, symmetric=True, narrow_range=True
            )
            size = values.shape[-1:] if per_channel else ()
            ends = {"min_var": tf.Variable(tf.fill(size, -6.0)), "max_var": tf.Variable(tf.fill(size, 6.0))}
            functions = {"ours": rounding(kernel, per_channel), "tfmot": lambda x, q=quantizer, e=ends: q(x, True, weights=e)}
            for side, function in functions.items():
                with tf.GradientTape() as tape:
                    tape.watch(value := tf.constant(values))
                    result = function(value)
                    loss = tf.reduce_sum(result * upstream)
                found[f"rounded/{name}/{per_channel}/{side}"] = result.numpy()
                found[f"gradient/{name}/{per_channel}/{side}"] = tape.gradient(loss, value).numpy()
            found[f"gradient/{name}/{per_channel}/upstream"] = upstream.numpy()
    return found


def ranges(tfmot):
    """Ranges after every batch, and the last batch rounded with them."""
    import tensorflow as tf

    from edgewright.keras_layers import FakeQuant

    first, *rest = batches()
    ours = FakeQuant(momentum=DECAY)
    ours(first, training=True)
    ends = {"min_var": tf.Variable(min(first.min(), 0.0)), "max_var": tf.Variable(max(first.max(), 0.0))}
    quantizer = tfmot.quantization.keras.quantizers.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)
    found = {"ours": [], "tfmot": []}
    for batch in rest:
        results = ours(batch, training=True), quantizer(tf.constant(batch), True, weights=ends)
        found["ours"].append([float(ours.low), float(ours.high)])
        found["tfmot"].append([float(ends["min_var"]), float(ends["max_var"])])
    return {
        "ranges/ours": np.asarray(found["ours"]),
        "ranges/tfmot": np.asarray(found["tfmot"]),
        "activations/ours": results[0].numpy(),
        "activations/tfmot": results[1].numpy(),
    }


def centroids():
    """Where TFMOT's centroids start."""
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_centroids as own

    starts = {
        "linear": own.LinearCentroidsInitialisation,
        "density": own.DensityBasedCentroidsInitialisation,
        "kmeans++": own.KmeansPlusPlusCentroidsInitialisation,
    }
    return {f"start/{name}": make(weights(), CLUSTERS).get_cluster_centroids().numpy() for name, make in starts.items()}


# --- tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tfmot(tmp_path_factory):
    """What TFMOT computes, by name."""
    folder = tmp_path_factory.mktemp("tfmot")
    done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(folder / "oracle.npz") as found:
        return dict(found)


@pytest.mark.parametrize("name", SCHEDULES)
def test_sparsity_grows_along_its_polynomial(tfmot, name):
    initial, final, begin, end, power = SCHEDULES[name]
    options = PruneOptions(curve="polynomial", power=power, begin=begin / STEPS, end=end / STEPS)
    ours = [initial + sparsity_at(step / STEPS, options) * (final - initial) for step in range(STEPS + 1)]
    np.testing.assert_allclose(ours, tfmot[f"schedule/{name}"], atol=1e-6)
    assert len(set(ours)) > 90
    if power == 3.0:
        cubic = PruneOptions(curve="cubic", begin=begin / STEPS, end=end / STEPS)
        assert [sparsity_at(step / STEPS, cubic) for step in range(STEPS)] == [
            sparsity_at(step / STEPS, options) for step in range(STEPS)
        ]


def test_constant_sparsity_begins_in_the_same_step(tfmot):
    """TFMOT tells it by when it prunes, we by the share."""
    options = PruneOptions(curve="constant", begin=40 / STEPS)
    ours = [0.6 * sparsity_at(step / STEPS, options) for step in range(STEPS + 1)]
    np.testing.assert_allclose(ours, tfmot["schedule/constant"], atol=1e-6)


def input_axes(kernel):
    return tuple(range(kernel.ndim - 1))


@pytest.mark.parametrize("name", kernels())
def test_the_same_values_are_pruned(tfmot, name):
    """Where no two values are equal. Of equal ones TFMOT keeps all, and one value at least; we keep as many as asked."""
    kernel = kernels()[name]
    for share in SPARSITIES:
        ours = mask_by_magnitude(kernel, share, inputs=input_axes(kernel))
        np.testing.assert_array_equal(ours, tfmot[f"mask/{name}/{share}"])
        assert (ours == 0).sum() == round(share * kernel.size)


@pytest.mark.parametrize("name", kernels())
def test_two_of_four_are_the_same(tfmot, name):
    """For a multiple of four input channels. Otherwise TFMOT starts anew at every pixel of the kernel, and we do not."""
    kernel = kernels()[name]
    ours = mask_by_magnitude(kernel, 0.0, inputs=input_axes(kernel), pattern=(2, 4))
    np.testing.assert_array_equal(ours[kernel != 0], tfmot[f"mask/{name}/2:4"][kernel != 0])
    assert ours.mean() == 0.5


@pytest.mark.parametrize("block", BLOCKS)
def test_the_same_blocks_are_pruned(tfmot, block):
    """For kernels that blocks divide. Otherwise TFMOT takes the mean of what a block has, and we count what is missing as 0."""
    ours = mask_by_magnitude(kernels()["dense"][:, :8], 0.6, inputs=(0,), block=block)
    np.testing.assert_array_equal(ours, tfmot[f"mask/block/{block}"])
    assert 0.35 < ours.mean() < 0.45


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", kernels())
def test_weights_round_to_the_same_values(tfmot, name, per_channel):
    """But for ties, which TensorFlow's op rounds up and we to even, as NumPy does. TFMOT has dense kernels per tensor."""
    kernel = kernels()[name]
    scale = np.abs(kernel).max(axis=input_axes(kernel) if per_channel else None, keepdims=True) / 127
    ours, theirs = (tfmot[f"rounded/{name}/{per_channel}/{side}"] for side in ("ours", "tfmot"))
    steps = kernel / np.where(scale > 0, scale, 1)
    tied = np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 1e-3
    assert tied.mean() < 0.01 and len(np.unique(steps)) > 255 > len(np.unique(np.rint(ours / np.where(scale > 0, scale, 1))))
    assert (np.abs(ours - theirs)[~tied] <= (1e-4 * np.broadcast_to(scale, kernel.shape))[~tied]).all()
    assert (np.abs(ours - theirs) <= 1.001 * scale).all() and not ours[kernel == 0].any()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", kernels())
def test_gradients_pass_straight_through_the_rounding_of_weights(tfmot, name, per_channel):
    upstream, ours, theirs = (tfmot[f"gradient/{name}/{per_channel}/{side}"] for side in ("upstream", "ours", "tfmot"))
    np.testing.assert_allclose(ours, upstream, rtol=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_ranges_of_activations_follow_the_data_in_the_same_way(tfmot):
    """From the second batch on: we take the first batch's range as it is, TFMOT starts at -6 to 6 whatever the data are.

    TFMOT's average keeps 0.999 of what it has in every step, ours 0.95 unless told otherwise.
    """
    np.testing.assert_allclose(tfmot["ranges/ours"], tfmot["ranges/tfmot"], rtol=1e-5, atol=1e-6)
    assert np.ptp(tfmot["ranges/ours"], axis=0).min() > 0.005
    difference = np.abs(tfmot["activations/ours"] - tfmot["activations/tfmot"])
    step = np.ptp(tfmot["ranges/ours"][-1]) / 255
    assert (difference < 1e-3 * step).mean() > 0.98 and difference.max() < 1.001 * step


def inertia(values, found):
    """Sum of squared distances to the nearest centroid."""
    return float(np.square(values[:, None] - found[None]).min(axis=1).sum())


def lloyd(values, start):
    """scikit-learn's centroids from the same start."""
    from sklearn.cluster import KMeans

    made = KMeans(len(start), init=start[:, None], n_init=1, max_iter=50, tol=0.0).fit(values[:, None].astype(np.float64))
    return np.sort(made.cluster_centers_[:, 0])


def test_linear_centroids_start_and_end_where_others_do(tfmot):
    """TFMOT's start; its centroids move by gradient only, ours by Lloyd's algorithm first, as scikit-learn's do."""
    options = {"init": "linear", "zero": False, "rng": np.random.default_rng(0)}
    start = kmeans(weights(), CLUSTERS, **options, rounds=0)
    np.testing.assert_allclose(start, tfmot["start/linear"], atol=1e-6)
    np.testing.assert_allclose(kmeans(weights(), CLUSTERS, **options), lloyd(weights(), tfmot["start/linear"]), atol=1e-4)


@pytest.mark.parametrize("init", ["density", "kmeans++"])
def test_centroids_are_no_worse_than_where_tfmot_starts(tfmot, init):
    """Density: TFMOT reads quantiles 0.01 to 1 off a grid of 30 points, we take those at (i + 0.5) / n: not the same start."""
    ours = inertia(weights(), kmeans(weights(), CLUSTERS, init=init, zero=False, rng=np.random.default_rng(0)))
    theirs = tfmot[f"start/{init}"]
    assert ours < inertia(weights(), theirs)
    assert ours < 1.1 * inertia(weights(), lloyd(weights(), theirs))


def test_kmeans_is_as_good_as_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    ratios = {}
    for kind in ("normal", "uniform", "laplace"):
        values = getattr(np.random.default_rng(0), kind)(size=1152).astype(np.float32)
        wanted = KMeans(CLUSTERS, init="k-means++", n_init=10, random_state=0).fit(values[:, None]).inertia_
        for seed in range(5):
            found = kmeans(values, CLUSTERS, init="kmeans++", zero=False, rng=np.random.default_rng(seed))
            ratios[kind, seed] = inertia(values, found) / wanted
    assert max(ratios.values()) < 1.05, ratios


# --- whole runs ------------------------------------------------------------------------------------------------------

MODEL = """
import os, sys
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
import keras, numpy as np
L = keras.layers
keras.utils.set_random_seed(0)
x = image = keras.Input((8, 8, 4), name="image")
for filters, size in ((8, 3), (16, 1)):
    x = L.ReLU()(L.Conv2D(filters, size)(x))
x = L.Dense(4, "softmax", name="kind")(L.GlobalAveragePooling2D()(x))
model = keras.Model(image, x)
y = np.arange(640) % 4
data = np.random.default_rng(0).normal(np.eye(4)[y][:, None, None], 2.0, (640, 8, 8, 4)).astype(np.float32)
model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
model.fit(data, y, epochs=10, verbose=0)
model.save(sys.argv[1] + "/conv.keras")
np.savez(sys.argv[1] + "/conv.npz", image=data, y=y)
"""


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    """Folder with conv.keras and conv.npz: two convolutions, each with a ReLU that is a layer of its own."""
    folder = tmp_path_factory.mktemp("convolutions")
    subprocess.run([sys.executable, "-c", MODEL, folder], check=True, capture_output=True, timeout=300)
    return folder


def peer(*arguments):
    """What perf/tfmot.py tells."""
    done = subprocess.run([sys.executable, PERF, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def zeros(path):
    """Share of zeros of every convolution's kernel in an int8 .tflite file, as LiteRT tells them, by shape."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return {
        tuple(detail["shape"].tolist()): float((interpreter.get_tensor(detail["index"]) == 0).mean())
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8 and len(detail["shape"]) == 4 and len(detail["quantization_parameters"]["scales"]) > 1
    }


@pytest.mark.slow
def test_zeros_survive_where_a_relu_is_a_layer_of_its_own(convolutions, tmp_path):
    """In TFMOT's own training that preserves them, they do not."""
    from edgewright.compression import compress, require_success
    from edgewright.planning import Settings
    from edgewright.recipe import parse_recipe

    model, data = convolutions / "conv.keras", convolutions / "conv.npz"
    common = ["--train", data, "--test", data, "--sparsity", 0.5, "--epochs", "prune=3,qat=3", "--batch", 32]
    told = peer(model, "--steps", "prune,qat", *common, "--out", tmp_path / "theirs.tflite")
    assert told["status"] == "ok" and told["file"]["int8"] and told["accuracy"] > 0.5
    steps = '[[steps]]\nstep = "prune"\nsparsity = 0.5\nepochs = 3\nbatch = 32\n[[steps]]\nstep = "qat"\nepochs = 3\nbatch = 32\n'
    recipe = parse_recipe("mine", f'{steps}[[steps]]\nstep = "export"\nprecision = "int8"\n', "mine.toml")
    out = tmp_path / "ours"
    report = compress(model, out, recipe=recipe, settings=Settings(bench=False), samples=data, evaluation=data, to=["tflite"])
    require_success(report, strict=True)
    ours, theirs = zeros(out / "conv_mine.tflite"), zeros(tmp_path / "theirs.tflite")
    assert set(ours) == set(theirs) == {(8, 3, 3, 4), (16, 1, 1, 8)}
    assert all(share >= 0.5 for share in ours.values())
    assert all(share >= 0.49 for share in told["stages"]["prune"]["sparsity"].values())
    assert max(theirs.values()) < 0.4, "TFMOT keeps zeros now: correct what the documentation says of it"


@pytest.mark.slow
def test_what_tfmot_refuses_is_a_result(convolutions, tmp_path):
    """Not an error of the script: with the reason, and what the steps before it gave."""
    files = [convolutions / "conv.keras", "--train", convolutions / "conv.npz", "--out", tmp_path / "x.tflite"]
    told = peer(*files, "--steps", "prune,cluster", "--clusters", 2, "--epochs", "prune=1,cluster=0")
    assert told["status"] == "refused" and told["stage"] == "cluster" and "number_of_clusters must be greater" in told["reason"]
    assert set(told["stages"]) == {"prune"} and told["file"] is None and not (tmp_path / "x.tflite").exists()


if __name__ == "__main__":
    oracle(sys.argv[1])
