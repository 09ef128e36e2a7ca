"""Masks, centroids and schedules against NumPy: plain arithmetic, no Keras."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgewright.errors import UsageError
from edgewright.optimizers.passes.cluster import ClusterOptions, kmeans
from edgewright.optimizers.passes.prune import Prune, PruneOptions, parse_pattern, sparsity_at
from edgewright.optimizers.shaping import clustering_of, mask_by_magnitude
from edgewright.step import checked

KERNELS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=9), elements=st.floats(-4, 4, width=32))


@given(KERNELS, st.floats(0, 0.99))
def test_the_smallest_go_first_and_exactly_as_many_as_asked(values, sparsity):
    mask = mask_by_magnitude(values, sparsity, inputs=tuple(range(values.ndim - 1)))
    assert mask.shape == values.shape and set(np.unique(mask)) <= {0.0, 1.0}
    assert (mask == 0).sum() == min(round(sparsity * values.size), values.size - 1)
    if 0 < mask.sum() < mask.size:
        assert np.abs(values[mask == 0]).max() <= np.abs(values[mask == 1]).min()


@given(KERNELS, st.sampled_from([(2, 4), (1, 4), (1, 2), (3, 8)]))
def test_at_most_n_of_m_neighbours_along_the_inputs(values, pattern):
    """Counted in the file's layout: output channel first, input channels last."""
    keep, of = pattern
    inputs = tuple(range(values.ndim - 1))
    mask = mask_by_magnitude(values, 0.0, inputs=inputs, pattern=pattern)
    last, channels = values.shape[-2:]
    rows, strengths = (np.moveaxis(v.reshape(-1, last, channels), 1, 2).reshape(-1, last) for v in (mask, np.abs(values)))
    for row, own in zip(rows, strengths, strict=True):
        for start in range(0, len(row), of):
            group, strength = row[start : start + of], own[start : start + of]
            assert group.sum() == min(keep, len(group))
            if (group == 0).any():
                assert strength[group == 0].max() <= strength[group == 1].min()


def test_blocks_are_kept_or_pruned_whole():
    values = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    mask = mask_by_magnitude(values, 0.5, inputs=(0,), block=(4, 2))
    blocks = mask.reshape(2, 4, 6, 2).transpose(0, 2, 1, 3).reshape(12, 8)
    assert set(blocks.mean(axis=1)) == {0.0, 1.0} and blocks.mean() == 0.5


@pytest.mark.parametrize("curve", ["cubic", "polynomial", "constant"])
def test_the_curve_starts_at_nothing_and_ends_at_all(curve):
    options = PruneOptions(curve=curve, begin=0.2, end=0.8, power=2.0)
    shares = [sparsity_at(done, options) for done in np.linspace(0, 1, 101)]
    assert shares[0] == 0.0 and shares[-1] == 1.0 and shares == sorted(shares)
    if curve != "constant":
        assert sparsity_at(0.5, options) == pytest.approx(1 - 0.5 ** (3 if curve == "cubic" else 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, ("sparsity", "1.0", "below 1")),
        ({"pattern": "4:2"}, ("4:2", "n < m")),
        ({"pattern": "blok"}, ("blok", "block:4x1")),
        ({"begin": 0.9, "end": 0.5}, ("0.9", "0.5")),
        ({"every": 0}, ("every", "0")),
        ({"batch": 0}, ("batch", "0")),
        ({"distill": 1.5}, ("distill", "1.5")),
        ({"layers": {"a": -0.1}}, ("layers.a", "-0.1")),
    ],
)
def test_options_out_of_their_range_are_refused(options, words):
    with pytest.raises(UsageError) as caught:
        Prune(checked(PruneOptions, options, "recipe"))
    assert all(word in str(caught.value) for word in words)


def test_options_from_a_recipe_keep_their_types():
    found = checked(ClusterOptions, {"include": ["a*", "b"], "clusters": 8}, "recipe")
    assert found.include == ("a*", "b") and found.clusters == 8
    assert parse_pattern("2:4") == ((2, 4), (1, 1)) and parse_pattern("block:4x2") == (None, (4, 2))


@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1, 1, width=32)),
    st.integers(2, 20),
    st.sampled_from(["kmeans++", "linear", "density"]),
    st.booleans(),
)
def test_centroids(values, count, init, zero):
    centroids = kmeans(values, count, init=init, zero=zero, rng=np.random.default_rng(0))
    assert 1 <= len(centroids) <= count and (np.diff(centroids) > 0).all()
    assert not zero or 0.0 in centroids
    assert centroids.min() >= min(values.min(), 0) - 1e-6 and centroids.max() <= max(values.max(), 0) + 1e-6


def test_centroids_are_those_of_scikit_learn_where_clusters_are_plain():
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(c, 0.01, 100) for c in (-0.8, -0.2, 0.3, 0.9)]).astype(np.float32)
    wanted = np.sort(KMeans(4, n_init=5, random_state=0).fit(values[:, None]).cluster_centers_[:, 0])
    for init in ("kmeans++", "density"):
        found = kmeans(values, 4, init=init, zero=False, rng=np.random.default_rng(3))
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_ends_stay_where_they_are():
    values = np.concatenate([[-1.0, 1.0], np.random.default_rng(0).uniform(-0.9, 0.9, 500)])
    found = kmeans(values, 8, init="kmeans++", zero=True, rng=np.random.default_rng(0), ends=True)
    assert {-1.0, 0.0, 1.0} <= set(found.tolist()) and len(found) == 8


@pytest.mark.parametrize("scaled", [False, True])
def test_clusters_are_found_again(scaled):
    rng = np.random.default_rng(0)
    centroids = np.asarray([-1.0, -0.4, 0.0, 0.25, 1.0], np.float32)
    assignment = rng.integers(0, 5, (3, 4, 40))
    assignment[0, 0, :] = 4  # every channel reaches 1
    scales = rng.uniform(0.5, 2.0, (1, 1, 40)).astype(np.float32) if scaled else np.ones((1, 1, 1), np.float32)
    values = (centroids[assignment] * scales).astype(np.float32)
    found = clustering_of(values, (0, 1))
    assert len(found.centroids) == 5
    function, _ = found.shape(values, (0, 1), zero=True)
    np.testing.assert_allclose(function(values), values, rtol=1e-5)
    assert clustering_of(rng.normal(size=(3, 4, 40)).astype(np.float32), (0, 1)) is None
