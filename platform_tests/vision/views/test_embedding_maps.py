"""Vectors on a plane: neighbours stay neighbours, the same every time, and pictures small enough for the event log."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from platform_assets.vision.views.embedding_maps import _principal, error_map, neighbour_points
from platform_assets.vision.views.figures import MAX_PICTURE_BYTES


def _clusters(per_cluster: int = 30, dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    centres = generator.normal(scale=5, size=(4, dim))
    labels = np.repeat(np.arange(4), per_cluster)
    return (centres[labels] + generator.normal(size=(len(labels), dim))).astype(np.float32), labels


def test_neighbour_points__clusters_stay_clusters_and_a_seed_gives_one_map() -> None:
    vectors, labels = _clusters()
    points = neighbour_points(vectors, seed=3)
    assert points.shape == (120, 2)
    nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points, return_distance=False)[:, 1]
    assert (labels[nearest] == labels).mean() == 1
    assert np.array_equal(points, neighbour_points(vectors, seed=3))


@pytest.mark.parametrize("images", [1, 2, 9, 10, 40])
def test_neighbour_points__few_and_equal_vectors_have_a_place(images: int) -> None:
    points = neighbour_points(np.ones((images, 8), dtype=np.float32))
    assert points.shape == (images, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (1, 3)])
def test_principal__components_are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    points, shares = _principal(vectors, 2)
    assert points.shape[1] == 2
    if shape[0] > 1:
        oracle = PCA(2).fit(StandardScaler().fit_transform(vectors))
        wanted = oracle.transform(StandardScaler().fit_transform(vectors))
        np.testing.assert_allclose(np.abs(points), np.abs(wanted), atol=1e-4)
        np.testing.assert_allclose(shares[:2], oracle.explained_variance_ratio_, atol=1e-5)


def test_error_map__fits_the_event_log_and_shows_each_mistake() -> None:
    generator = np.random.default_rng(0)
    points, truths = generator.normal(size=(500, 2)), [f"class {k}" for k in generator.integers(0, 30, 500)]
    correct = generator.random(500) < 0.8
    picture = error_map(points, truths, list(correct))
    assert len(picture) <= MAX_PICTURE_BYTES
    assert Image.open(io.BytesIO(picture)).format == "PNG"
    assert picture == error_map(points, truths, list(correct))
    assert picture != error_map(points, truths, [True] * 500)
