"""Images in memory, and batches that follow from seed, epoch and image alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from platform_assets.vision.datasets import (
    ImagesDoNotFit,
    LabelledImages,
    augment,
    batches_per_epoch,
    epoch_batches,
    load_images,
)
from platform_assets.vision.decoding import UnreadableImage
from platform_assets.vision.preprocessing import to_pixels
from platform_assets.vision.train_options import Augmentation
from platform_tests.vision.shapes import PREPROCESSING, SIDE_PX, coloured_shapes

AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "flip", "crop_flip", "dihedral")
PART = coloured_shapes(23, seed=0)


def _pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels_hwc = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels_hwc).save(path)
    return paths


def _epoch(seed: int, epoch: int, augmentation: Augmentation = "crop_flip") -> torch.Tensor:
    batches = epoch_batches(PART, batch_size=5, seed=seed, epoch=epoch, augmentation=augmentation)
    return torch.cat([batch.images_bchw for batch in batches])


def test_load_images__in_the_order_of_the_paths_whatever_the_threads(tmp_path: Path) -> None:
    paths = _pictures(tmp_path, 9)
    heard: list[int] = []
    images_nchw = load_images(paths, PREPROCESSING, threads=4, on_image=heard.append)
    assert images_nchw.shape == (9, 3, SIDE_PX, SIDE_PX)
    assert images_nchw.dtype == np.uint8
    for path, image_chw in zip(paths, images_nchw, strict=True):
        np.testing.assert_array_equal(image_chw, to_pixels(np.asarray(Image.open(path)), PREPROCESSING))
    np.testing.assert_array_equal(load_images(paths, PREPROCESSING, threads=1), images_nchw)
    assert heard == list(range(1, 10))


def test_load_images__names_the_file_that_broke(tmp_path: Path) -> None:
    paths = _pictures(tmp_path, 3)
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    with pytest.raises(UnreadableImage) as caught:
        load_images(paths, PREPROCESSING)
    assert str(paths[1]) in caught.value.__notes__[0]
    with pytest.raises(FileNotFoundError, match="gone"):
        load_images([tmp_path / "gone.png"], PREPROCESSING)


def test_load_images__refuses_more_than_the_memory_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}[name])
    with pytest.raises(ImagesDoNotFit, match=r"image_size_px 32 take .* lower image_size_px to 28 or less"):
        load_images([Path("never read.png")] * 100, PREPROCESSING)


def test_labelled_images__one_of_each_per_image() -> None:
    with pytest.raises(ValueError, match=r"lengths \(22, 23, 23\)"):
        LabelledImages(PART.image_ids[1:], PART.images_nchw, PART.labels_n)
    with pytest.raises(ValueError, match="one image"):
        LabelledImages((), PART.images_nchw[:0], PART.labels_n[:0])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_epoch_batches__same_seed_and_epoch_same_pixels(augmentation: Augmentation) -> None:
    torch.manual_seed(1)
    first = _epoch(3, 2, augmentation)
    torch.manual_seed(2)
    assert torch.equal(_epoch(3, 2, augmentation), first)
    assert first.shape == (23, 3, SIDE_PX, SIDE_PX)
    assert first.dtype == torch.uint8
    assert not torch.equal(_epoch(3, 3, augmentation), first)
    assert not torch.equal(_epoch(4, 2, augmentation), first)


def test_epoch_batches__an_image_looks_different_in_every_epoch_and_seed() -> None:
    def look(seed: int, epoch: int) -> bytes:
        batches = epoch_batches(PART, batch_size=5, seed=seed, epoch=epoch, augmentation="crop_flip")
        (found,) = [batch.images_bchw[batch.rows == 7] for batch in batches if 7 in batch.rows]
        return found.numpy().tobytes()

    assert len({look(0, 1), look(0, 2), look(1, 1), look(1, 2)}) == 4


@given(st.integers(1, 60), st.integers(1, 20))
def test_epoch_batches__every_image_once_in_even_batches(images: int, batch_size: int) -> None:
    part = LabelledImages(
        tuple(str(number) for number in range(images)),
        np.zeros((images, 3, 4, 4), dtype=np.uint8),
        np.arange(images, dtype=np.int64),
    )
    batches = list(epoch_batches(part, batch_size=batch_size, seed=0, epoch=1, augmentation="none"))
    rows = [int(row) for batch in batches for row in batch.rows]
    sizes = [len(batch.rows) for batch in batches]
    assert sorted(rows) == list(range(images))
    assert [int(label) for batch in batches for label in batch.labels_b] == rows
    assert len(batches) == batches_per_epoch(images, batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_augment__none_and_flip_and_dihedral_only_move_pixels() -> None:
    image_chw = torch.from_numpy(PART.images_nchw[0])
    assert torch.equal(augment(image_chw, "none", np.random.default_rng(0)), image_chw)
    seen: dict[str, set[bytes]] = {"flip": set(), "dihedral": set(), "crop_flip": set()}
    for augmentation, pixels in seen.items():
        for seed in range(60):
            moved = augment(image_chw, augmentation, np.random.default_rng(seed))  # type: ignore[arg-type]
            assert moved.shape == image_chw.shape
            assert moved.dtype == torch.uint8
            pixels.add(moved.numpy().tobytes())
            if augmentation != "crop_flip":
                assert torch.equal(moved.flatten(1).sort().values, image_chw.flatten(1).sort().values)
    assert (len(seen["flip"]), len(seen["dihedral"])) == (2, 8)
    assert len(seen["crop_flip"]) > 50


def test_augment__crop_flip_keeps_half_of_the_picture_or_more() -> None:
    # A picture of its own column numbers shows which columns are left.
    columns_chw = torch.arange(64, dtype=torch.uint8).repeat(3, 64, 1)
    spans = []
    for seed in range(200):
        cropped = augment(columns_chw, "crop_flip", np.random.default_rng(seed))
        spans.append((int(cropped.max()) - int(cropped.min()) + 1) / 64)
    assert 0.55 < min(spans) < 0.75
    assert max(spans) > 0.95


def test_augment__leaves_its_input_alone() -> None:
    before = PART.images_nchw.copy()
    for augmentation in AUGMENTATIONS:
        _epoch(0, 1, augmentation).add_(1)
    np.testing.assert_array_equal(PART.images_nchw, before)
