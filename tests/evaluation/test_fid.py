from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from engine.evaluation import Inception, fid_score
from engine.evaluation.fid import _resize_as_tensorflow


def _features(seed: int, num_rows: int = 60, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (shift + scale * np.random.default_rng(seed).normal(size=(num_rows, 6))).astype(np.float32)


def test_it_is_the_frechet_distance_of_two_gaussians() -> None:
    real, images = _features(0), _features(1, 40, shift=0.5, scale=1.5)
    means = real.mean(0), images.mean(0)
    covariances = np.cov(real.T), np.cov(images.T)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    found = fid_score(real, images, of="mini-clip")
    assert found.fid == pytest.approx(expected, rel=1e-4)
    assert (found.features, found.num_real, found.num_images) == ("mini-clip", 60, 40)


def test_it_is_zero_for_the_same_images_and_grows_with_the_distance() -> None:
    real = _features(0)
    assert fid_score(real, real, of="x").fid == pytest.approx(0, abs=1e-4)
    distances = [fid_score(real, real + shift, of="x").fid for shift in (0.1, 0.5, 1.0)]
    assert distances == pytest.approx([6 * shift**2 for shift in (0.1, 0.5, 1.0)], rel=1e-2)


def test_features_that_have_no_distance_are_refused() -> None:
    with pytest.raises(ValueError, match="features has one row, which has no covariance"):
        fid_score(_features(0), _features(1)[:1], of="x")
    with pytest.raises(ValueError, match="embed both with the same encoder"):
        fid_score(_features(0), _features(1)[:, :3], of="x")
    with pytest.raises(ValueError, match="real_features holds NaN or infinite values in 60 of 60 rows"):
        fid_score(np.full((60, 6), np.nan), _features(1), of="x")


def test_inceptions_features_come_from_the_given_file(inception_weights: Path) -> None:
    inception = Inception(inception_weights)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 50), np.uint8))
    features = inception(images)
    assert features.shape == (2, 2048)
    assert features.isfinite().all()
    alone = inception([images[0, :, :30], images[1]])  # a list may hold images of several sizes
    assert torch.equal(alone[1], features[1])
    assert not torch.allclose(alone[0], features[0])
    assert inception([]).shape == (0, 2048)
    with pytest.raises(ValueError, match=r"give \[3, H, W\] uint8"):
        inception(images.float())


def test_weights_without_the_counters_of_training_are_the_same_network(inception_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(inception_weights)
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    save_file(old, tmp_path / "old.safetensors")
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 20, 20), np.uint8))
    assert torch.equal(Inception(tmp_path / "old.safetensors")(images), Inception(inception_weights)(images))


def test_pools_leave_the_padding_out_and_the_last_takes_the_maximum(inception_weights: Path) -> None:
    network = Inception(inception_weights)._network
    functional = torch.nn.functional
    for name, channels, pool in (
        ("Mixed_5b", 192, lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ("Mixed_6c", 768, lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ("Mixed_7b", 1280, lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ("Mixed_7c", 2048, lambda x: functional.max_pool2d(x, 3, 1, 1)),
    ):
        block = getattr(network, name)
        x = torch.randn(1, channels, 5, 4, generator=torch.Generator().manual_seed(0))
        convolution = block.branch_pool
        wanted = functional.relu(convolution.bn(convolution.conv(pool(x))), inplace=False)
        np.testing.assert_allclose(block(x)[:, -wanted.shape[1] :], wanted, rtol=1e-4, atol=1e-5)


def test_pictures_are_resized_on_tensorflows_grid() -> None:
    ramp = torch.arange(10.0).view(1, 1, 1, 10).expand(1, 3, 1, 10)
    resized = _resize_as_tensorflow(ramp, 3)[0, 0, 0]
    expected = (torch.arange(299) * 10 / 299).clamp(max=9)
    np.testing.assert_allclose(resized, expected, atol=1e-4, rtol=0)


def test_other_weights_are_refused(inception_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="is not a safetensors file; convert it once"):
        Inception(tmp_path / "pt_inception.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        Inception(tmp_path / "none.safetensors")
    save_file({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not the Inception of FID"):
        Inception(tmp_path / "other.safetensors")
