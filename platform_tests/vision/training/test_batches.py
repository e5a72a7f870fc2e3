"""Images in memory, and batches that follow from seed, epoch and image alone."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import threading
import tracemalloc
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from platform_assets.vision.images.decoding import UnreadableImage
from platform_assets.vision.images.image_reading import Reading
from platform_assets.vision.recipes.preprocessing import to_pixels
from platform_assets.vision.recipes.train_options import Augmentation, TrainRecipe
from platform_assets.vision.training import batches
from platform_assets.vision.training.batch_plan import TooFewImages
from platform_assets.vision.training.batches import (
    Batch,
    ImagesDoNotFit,
    LabelledImages,
    batches_per_epoch,
    epoch_batches,
    fits_in_memory,
    load_images,
    load_images_to,
)
from platform_tests.vision.shapes import PREPROCESSING, SIDE_PX, coloured_shapes

PART = coloured_shapes(23, seed=0)
CLASSES = 3
EVERYTHING = TrainRecipe(batch_size=8, randaugment=9, random_erasing=0.5, mixup=0.4, cutmix=1.0, sampler="balanced")

# Of the batches before augmentations had options: trainings of then and now see the same pixels.
DIGESTS: dict[Augmentation, str] = {
    "none": "da403df54cf3b4674198ade2e98d4744142e80d0dbe5d8e4db7f3d53b6fcacde",
    "flip": "6ee985103b71087ced87799fa27f13219d839fe551866846633106722ffce384",
    "crop_flip": "76828010353e72ab23bb8a3a3a0512cc39482561d392c4295cdd29fef0d9f12a",
    "dihedral": "3f95656d57dac172af4be320ca442e51563d8a2255bd51c83eaf27b805d5b229",
}


def _pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels_hwc = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels_hwc).save(path)
    return paths


class _Watched(np.ndarray):  # type: ignore[type-arg]
    """Images on a disk that remembers what was read and fails where it is told to."""

    read: list[int]
    broken: int | None = None

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        if isinstance(row, int):
            self.read.append(row)
            if row == self.broken:
                raise OSError(5, "Input/output error")
        return np.asarray(super().__getitem__(row))


def _watched(broken: int | None = None) -> tuple[LabelledImages, list[int]]:
    images_nchw = PART.images_nchw.view(_Watched)
    images_nchw.read, images_nchw.broken = [], broken
    return LabelledImages(PART.image_ids, images_nchw, PART.labels_n), images_nchw.read


def _blank(images: int) -> LabelledImages:
    """Every picture is filled with its own number."""
    images_nchw = np.arange(images, dtype=np.uint8)[:, None, None, None].repeat(3, axis=1).repeat(4, 2).repeat(4, 3)
    return LabelledImages(
        tuple(str(number) for number in range(images)), images_nchw, np.arange(images, dtype=np.int64)
    )


def _batches(recipe: TrainRecipe, *, seed: int = 3, epoch: int = 2, **options: int) -> list[Batch]:
    return list(epoch_batches(PART, recipe=recipe, seed=seed, epoch=epoch, num_classes=CLASSES, **options))


def _epoch(seed: int, epoch: int, augmentation: Augmentation = "crop_flip") -> torch.Tensor:
    batches = _batches(TrainRecipe(batch_size=5, augmentation=augmentation), seed=seed, epoch=epoch)
    return torch.cat([batch.images_bchw for batch in batches])


def _content(batches: Iterable[Batch]) -> list[tuple[bytes, ...]]:
    return [
        tuple(
            b"" if part is None else np.asarray(part).tobytes()
            for part in (batch.images_bchw, batch.labels_b, batch.rows, batch.shares_bk)
        )
        for batch in batches
    ]


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("made_ahead")]


def test_load_images__in_the_order_of_the_paths_whatever_the_threads(tmp_path: Path) -> None:
    paths = _pictures(tmp_path, 9)
    heard: list[int] = []
    images_nchw = load_images(paths, PREPROCESSING, reading=Reading("Pillow", 4), on_image=heard.append)
    assert images_nchw.shape == (9, 3, SIDE_PX, SIDE_PX)
    assert images_nchw.dtype == np.uint8
    for path, image_chw in zip(paths, images_nchw, strict=True):
        np.testing.assert_array_equal(image_chw, to_pixels(np.asarray(Image.open(path)), PREPROCESSING))
    np.testing.assert_array_equal(load_images(paths, PREPROCESSING, reading=Reading("libjpeg-turbo", 1)), images_nchw)
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


def test_load_images_to__the_same_pixels_mapped_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_CHUNK_BYTES", 4 * 3 * SIDE_PX * SIDE_PX)
    paths, heard = _pictures(tmp_path, 9), list[int]()
    mapped = load_images_to(tmp_path / "train.npy", paths, PREPROCESSING, on_image=heard.append)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, load_images(paths, PREPROCESSING))
    np.testing.assert_array_equal(np.load(tmp_path / "train.npy"), mapped)
    assert heard == list(range(1, 10))
    assert sorted(path.name for path in tmp_path.glob("*npy*")) == ["train.npy"]


def test_load_images_to__holds_a_chunk_and_not_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_CHUNK_BYTES", 8 * 3 * SIDE_PX * SIDE_PX)
    paths = _pictures(tmp_path, 2) * 200
    load_images_to(tmp_path / "warm.npy", paths[:4], PREPROCESSING)
    tracemalloc.start()
    mapped = load_images_to(tmp_path / "train.npy", paths, PREPROCESSING)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < mapped.nbytes / 4


def test_load_images_to__a_file_that_breaks_leaves_what_was_there(tmp_path: Path) -> None:
    paths, target = _pictures(tmp_path, 3), tmp_path / "train.npy"
    before = np.array(load_images_to(target, paths[:1], PREPROCESSING))
    paths[2].write_bytes(paths[2].read_bytes()[:-40])
    with pytest.raises(UnreadableImage):
        load_images_to(target, paths, PREPROCESSING)
    np.testing.assert_array_equal(np.load(target), before)
    assert [path.name for path in tmp_path.glob("*npy*")] == ["train.npy"]


def test_load_images_to__refuses_more_than_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = namedtuple("free", "total used free")(10**9, 10**9 - 10**5, 10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    with pytest.raises(ImagesDoNotFit, match=r"100 images take 0.0 GB decoded and .* make room there"):
        load_images_to(tmp_path / "train.npy", [Path("never read.png")] * 100, PREPROCESSING)


def test_fits_in_memory__up_to_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}[name])
    assert [fits_in_memory(images, 32) for images in (79, 80, 81)] == [True, True, False]


@pytest.mark.parametrize("augmentation", DIGESTS)
def test_epoch_batches__same_seed_and_epoch_same_pixels(augmentation: Augmentation) -> None:
    torch.manual_seed(1)
    first = _epoch(3, 2, augmentation)
    torch.manual_seed(2)
    assert torch.equal(_epoch(3, 2, augmentation), first)
    assert first.shape == (23, 3, SIDE_PX, SIDE_PX)
    assert first.dtype == torch.uint8
    assert not torch.equal(_epoch(3, 3, augmentation), first)
    assert not torch.equal(_epoch(4, 2, augmentation), first)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors round a resized pixel otherwise")
@pytest.mark.parametrize(("augmentation", "digest"), DIGESTS.items())
def test_epoch_batches__pixels_of_trainings_before(augmentation: Augmentation, digest: str) -> None:
    recipe, found = TrainRecipe(batch_size=5, augmentation=augmentation), hashlib.sha256()
    for seed, epoch in ((0, 1), (3, 2)):
        for content in _content(_batches(recipe, seed=seed, epoch=epoch)):
            found.update(b"".join(content))
    assert found.hexdigest() == digest


def test_epoch_batches__an_image_looks_different_in_every_epoch_and_seed() -> None:
    def look(seed: int, epoch: int) -> bytes:
        batches = _batches(TrainRecipe(batch_size=5), seed=seed, epoch=epoch)
        (found,) = [batch.images_bchw[batch.rows == 7] for batch in batches if 7 in batch.rows]
        return found.numpy().tobytes()

    assert len({look(0, 1), look(0, 2), look(1, 1), look(1, 2)}) == 4


def test_epoch_batches__an_image_drawn_twice_looks_different_each_time() -> None:
    part = LabelledImages(PART.image_ids[:8], PART.images_nchw[:8], np.array([0] * 7 + [1]))
    recipe = TrainRecipe(batch_size=4, sampler="balanced")
    batches = list(epoch_batches(part, recipe=recipe, seed=0, epoch=1, num_classes=2))
    rare = torch.cat([batch.images_bchw[batch.rows == 7] for batch in batches])
    assert len(rare) == 4
    assert len({image.numpy().tobytes() for image in rare}) == 4


@given(st.integers(1, 60), st.integers(2, 20))
def test_epoch_batches__every_image_once_in_even_batches(images: int, batch_size: int) -> None:
    recipe = TrainRecipe(batch_size=batch_size, augmentation="none")
    batches = list(epoch_batches(_blank(images), recipe=recipe, seed=0, epoch=1, num_classes=images))
    rows = [int(row) for batch in batches for row in batch.rows]
    sizes = [len(batch.rows) for batch in batches]
    assert sorted(rows) == list(range(images))
    assert [int(label) for batch in batches for label in batch.labels_b] == rows
    assert [int(image[0, 0, 0]) for batch in batches for image in batch.images_bchw] == rows
    assert len(batches) == batches_per_epoch(images, recipe)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 60), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_epoch_batches__ranks_together_are_the_batches_of_one_process(
    images: int, share: int, accumulate: int, devices: int, mixes: bool
) -> None:
    part, mixing = _blank(images), {"mixup": 0.5, "cutmix": 1.0} if mixes else {}
    size = share * accumulate * devices
    options = {"batch_size": size, "accumulate": accumulate, "augmentation": "none", **mixing}
    one, many = TrainRecipe(**options), TrainRecipe(**options, devices=devices)  # type: ignore[arg-type]
    ask = {"seed": 1, "epoch": 1, "num_classes": images}
    if images < accumulate * devices:
        with pytest.raises(TooFewImages, match=f"{images} images do not part into accumulate {accumulate} x"):
            epoch_batches(part, recipe=many, **ask)
        return
    ranks = [list(epoch_batches(part, recipe=many, rank=rank, **ask)) for rank in range(devices)]
    for whole, *shares in zip(epoch_batches(part, recipe=one, **ask), *ranks, strict=True):
        sizes = [len(batch.rows) for batch in shares]
        assert 1 <= min(sizes) <= max(sizes) <= min(share, min(sizes) + 1)
        by_row = {int(row): number for number, row in enumerate(whole.rows)}
        assert sorted(int(row) for batch in shares for row in batch.rows) == sorted(by_row)
        for batch in shares:
            places = [by_row[int(row)] for row in batch.rows]
            assert torch.equal(batch.images_bchw, whole.images_bchw[places])
            assert torch.equal(batch.labels_b, whole.labels_b[places])
            assert (batch.shares_bk is None) == (not mixes)
            if batch.shares_bk is not None and whole.shares_bk is not None:
                assert torch.equal(batch.shares_bk, whole.shares_bk[places])


@pytest.mark.parametrize("recipe", [TrainRecipe(batch_size=8), EVERYTHING], ids=["default", "everything"])
def test_epoch_batches__the_same_whatever_the_workers_and_the_start(recipe: TrainRecipe) -> None:
    wanted = _content(_batches(recipe))
    assert len(wanted) == 3
    for workers in (1, 2, 5):
        assert _content(_batches(recipe, workers=workers)) == wanted
    assert _content(_batches(recipe, start_batch=2)) == wanted[2:]
    assert _content(_batches(recipe, start_batch=1, workers=2)) == wanted[1:]
    assert _batches(recipe, start_batch=3, workers=1) == []


def test_epoch_batches__a_start_later_reads_nothing_of_what_is_skipped() -> None:
    part, read = _watched()
    recipe = TrainRecipe(batch_size=8)
    (last,) = epoch_batches(part, recipe=recipe, seed=3, epoch=2, num_classes=CLASSES, start_batch=2)
    assert read == last.rows.tolist()


def test_epoch_batches__leaves_the_global_generators_and_the_images_alone() -> None:
    before = PART.images_nchw.tobytes()
    states = torch.get_rng_state(), np.random.get_state()[1].tobytes(), torch.get_num_threads()  # type: ignore[index]
    _batches(EVERYTHING)
    _batches(EVERYTHING, workers=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tobytes() == states[1]  # type: ignore[index]
    assert torch.get_num_threads() == states[2]
    assert PART.images_nchw.tobytes() == before


@pytest.mark.parametrize(
    "recipe", [TrainRecipe(batch_size=8, augmentation="none"), EVERYTHING], ids=["none", "everything"]
)
def test_epoch_batches__from_a_mapped_file_as_from_memory(recipe: TrainRecipe, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", PART.images_nchw)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    part = LabelledImages(PART.image_ids, mapped, PART.labels_n)
    batches = epoch_batches(part, recipe=recipe, seed=3, epoch=2, num_classes=CLASSES, workers=2)
    assert _content(batches) == _content(_batches(recipe))


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_batches__an_error_names_the_image(workers: int) -> None:
    part, _ = _watched(broken=11)
    batches = epoch_batches(
        part, recipe=TrainRecipe(batch_size=4), seed=0, epoch=1, num_classes=CLASSES, workers=workers
    )
    with pytest.raises(OSError, match="Input/output") as caught:
        list(batches)
    assert caught.value.__notes__ == [f"on image {PART.image_ids[11]}, row 11 of its part"]
    assert _threads() == []


def test_epoch_batches__closing_ends_the_threads() -> None:
    batches = epoch_batches(PART, recipe=EVERYTHING, seed=0, epoch=1, num_classes=CLASSES, workers=2)
    next(batches)
    assert len(_threads()) == 2
    batches.close()
    assert _threads() == []
