"""Fréchet distance: closed forms, torch-fidelity, merging, the jackknife."""

import numpy as np
import pytest

from evals.engine.store import Arrays
from evals.metrics import frechet
from evals.metrics.frechet import Moments, from_features, from_moments, moments


def gaussian(mean, covariance) -> Moments:
    """Moments whose mean and sample covariance are exactly these."""
    n, mean = 1000, np.asarray(mean, float)
    outer = (n - 1) * np.asarray(covariance, float) + n * np.outer(mean, mean)
    return Moments(n, n * mean, outer)


def test_closed_forms():
    d = 6
    shift = np.arange(d) / 3
    assert from_moments(gaussian(np.zeros(d), np.eye(d)), gaussian(shift, np.eye(d))) == pytest.approx(shift @ shift)
    assert from_moments(gaussian(np.zeros(d), np.eye(d)), gaussian(np.zeros(d), 4 * np.eye(d))) == pytest.approx(d)


def correlated(rng, n, d):
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def test_equals_torch_fidelity_on_moments():
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    rng = np.random.default_rng(0)
    a, b = correlated(rng, 300, 24), correlated(rng, 200, 24)
    sides = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    reference = fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert from_moments(moments(a), moments(b)) == pytest.approx(reference, rel=1e-9)
    assert from_features(a, b) == pytest.approx(reference, rel=1e-9)


def test_equals_torch_fidelity_on_images_with_a_registered_extractor():
    import torch
    import torch_fidelity
    from parity.fidelity import registered

    kernel = torch.randn(12, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def tiny(images):
        return torch.nn.functional.conv2d(images.float() / 255, kernel, stride=2).relu().mean((2, 3))

    class Images(torch.utils.data.Dataset):
        def __init__(self, top):
            generator = torch.Generator().manual_seed(top)
            self.images = torch.randint(0, top, (60, 3, 16, 16), generator=generator, dtype=torch.uint8)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    registered("vgt-tiny", tiny)
    sets = [Images(256), Images(200)]
    reference = torch_fidelity.calculate_metrics(
        input1=sets[0], input2=sets[1], fid=True, feature_extractor="vgt-tiny", cuda=False, verbose=False,
        cache=False, save_cpu_ram=True, batch_size=20,
    )["frechet_inception_distance"]  # fmt: skip
    ours = from_features(*(tiny(each.images).double().numpy() for each in sets))
    assert ours == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 60), (60, 20)])
def test_fewer_images_than_dimensions_agrees_with_the_moments(n, m):
    rng = np.random.default_rng(2)
    a, b = correlated(rng, n, 40), correlated(rng, m, 40)
    # The square roots of rounding noise in empty directions are what differs.
    assert from_features(a, b) == pytest.approx(from_moments(moments(a), moments(b)), rel=1e-5)


def test_equal_sets_have_no_distance_and_it_is_symmetric():
    rng = np.random.default_rng(3)
    for n in (30, 200):
        a, b = correlated(rng, n, 50), correlated(rng, n, 50)
        assert from_features(a, a) < 1e-6
        assert from_features(a, b) == pytest.approx(from_features(b, a), rel=1e-9)


def test_dimensions_that_never_vary_change_nothing():
    rng = np.random.default_rng(6)
    a, b = correlated(rng, 80, 10), correlated(rng, 90, 10)
    expected = from_moments(moments(a), moments(b))
    dead = [np.concatenate([x, np.zeros((len(x), 2)), x[:, :1]], 1) for x in (a, b)]  # constant, and a copy
    with_copy = from_features(np.concatenate([a, a[:, :1]], 1), np.concatenate([b, b[:, :1]], 1))
    assert from_moments(*map(moments, dead)) == pytest.approx(with_copy, rel=1e-6)
    assert from_moments(*(moments(x[:, :12]) for x in dead)) == pytest.approx(expected, rel=1e-9)


def test_blocks_merge_and_come_back_from_disk(tmp_path):
    x = correlated(np.random.default_rng(4), 90, 8)
    blocks = [moments(x[i::3]) for i in range(3)]
    store = Arrays(tmp_path)
    for k, block in enumerate(blocks):
        store.add(k, **vars(block))
    whole = frechet.total([Moments(**part) for part in store])
    assert whole.count == 90
    np.testing.assert_allclose(whole.covariance, np.cov(x, rowvar=False), rtol=1e-10)
    np.testing.assert_allclose((whole - blocks[0]).mean, np.concatenate([x[1::3], x[2::3]]).mean(0), rtol=1e-10)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{k:08d}.npz" for k in range(3)]


def test_jackknife_routes_agree_and_its_error_is_about_right():
    rng = np.random.default_rng(5)
    d, n = 8, 400
    distances = []
    for _ in range(60):
        a = rng.normal(size=(n, d))
        distances.append(from_features(a, a + 0.3 + 0.2 * rng.normal(size=(n, d))))
    interval = frechet.paired_jackknife(a, a + 0.3 + 0.2 * rng.normal(size=(n, d))).interval(floor=0.0)
    assert interval.low < np.mean(distances) < interval.high
    half = (interval.high - interval.low) / 2
    assert 0.4 < half / (2.09 * np.std(distances)) < 2.5
    parts = [frechet.moments(x[np.arange(n) % 20 == k]) for x in (a, a + 0.3) for k in range(20)]
    from_blocks = frechet.blocks_jackknife(parts[:20], parts[20:])
    from_rows = frechet.features_jackknife(a, a + 0.3, np.arange(n) % 20, np.arange(n) % 20)
    assert len(from_blocks.replicates) == 20
    np.testing.assert_allclose(
        [from_blocks.value, *from_blocks.replicates], [from_rows.value, *from_rows.replicates], rtol=1e-9
    )


def test_bad_features_are_named():
    with pytest.raises(ValueError, match="at least 2"):
        from_features(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        from_features(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="same images"):
        frechet.paired_jackknife(np.zeros((5, 3)), np.zeros((6, 3)))
