"""A network trial as one call: from records and pixels to the weights of its best epoch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from platform_assets.vision.images.pixel_cache import PixelCache
from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.backbones import SizeDoesNotFit
from platform_assets.vision.recipes.resolving import resolve_trial
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.training.pixels import Pixels
from platform_assets.vision.trials.network_fitting import Listeners, TeacherDoesNotFit, fit_network_trial, network_parts
from platform_tests.vision.pictures import png, write
from platform_tests.vision.shapes import PREPROCESSING, PROTOCOL, SHAPES, shapes_trial


@pytest.fixture
def records(tmp_path: Path) -> pl.DataFrame:
    rows = []
    for seed in range(12):
        image = write(tmp_path, f"images/{seed}.png", png(seed))
        image_id = hashlib.sha256(image.read_bytes()).hexdigest()
        row = {"image_id": image_id, "path": image.name, "label": SHAPES.names[seed % 3]}
        rows.append(row | {"split": "train" if seed < 9 else "val"})
    return pl.DataFrame(rows)


def pixels_of(tmp_path: Path, cache: PixelCache | None = None) -> Pixels:
    return Pixels(tmp_path / "images", spill=tmp_path / "decoded", cache=cache)


def test_fit__ends_with_the_same_weights_with_and_without_a_cache(tmp_path: Path, records: pl.DataFrame) -> None:
    trial = shapes_trial(epochs=1, batch_size=8, max_steps=1)

    def weights(pixels: Pixels, work: str) -> str:
        fitted = fit_network_trial(trial, records, pixels, SHAPES, device="cpu", work_dir=tmp_path / work)
        return weights_sha256(fitted.classifier)

    cache = PixelCache(tmp_path / "cache", max_bytes=1 << 30)
    without = weights(pixels_of(tmp_path), "without")
    pixels_of(tmp_path, cache).of(records, trial.preprocessing)
    assert weights(pixels_of(tmp_path, cache), "filled") == without


def test_fit__crops_of_larger_pictures_train_at_the_models_size(tmp_path: Path, records: pl.DataFrame) -> None:
    trial = shapes_trial(epochs=2, batch_size=8, crop_scale=1.5, warmup_epochs=0)
    fitted = fit_network_trial(trial, records, pixels_of(tmp_path), SHAPES, device="cpu", work_dir=tmp_path / "work")
    plain = shapes_trial(epochs=2, batch_size=8, warmup_epochs=0)
    other = fit_network_trial(plain, records, pixels_of(tmp_path), SHAPES, device="cpu", work_dir=tmp_path / "other")
    assert fitted.history["epoch"].to_list() == [1, 2]
    assert weights_sha256(fitted.classifier) != weights_sha256(other.classifier)


def test_parts__crops_are_cut_from_whole_pictures_and_val_is_as_it_is_evaluated(
    tmp_path: Path, records: pl.DataFrame
) -> None:
    cropped = PREPROCESSING.model_copy(update={"resize": "shorter_side", "crop_fraction": 0.5, "image_size_px": 32})
    whole = cropped.model_copy(update={"crop_fraction": 1.0})
    pixels = pixels_of(tmp_path)
    for train, seen, side_px in (
        ({"crop_scale": 1.5}, whole, 48),
        ({"crop_size_px": 40, "crop_scale": 1.5}, whole, 60),
        ({"augmentation": "dihedral"}, cropped, 32),
    ):
        trial = shapes_trial(**train).model_copy(update={"preprocessing": cropped})
        parts = network_parts(trial, records, pixels, SHAPES)
        shown = pixels.of(records, seen.model_copy(update={"image_size_px": side_px}))
        assert np.array_equal(parts["train"].images_nchw, shown[:9])
        assert np.array_equal(parts["val"].images_nchw, pixels.of(records, cropped)[9:])


def test_fit__says_what_it_measured_and_keeps_the_last_weights(tmp_path: Path, records: pl.DataFrame) -> None:
    trial, said = shapes_trial(epochs=2, batch_size=8, warmup_epochs=0), list[str]()
    listeners = Listeners(say=said.append)
    fitted = fit_network_trial(
        trial,
        records,
        pixels_of(tmp_path),
        SHAPES,
        device="cpu",
        work_dir=tmp_path / "work",
        threads=1,
        listeners=listeners,
    )
    assert "loading threads" in said[0]
    assert said[1] == f"{trial.trial}: 1 computing threads, as asked for"
    assert fitted.summary["computing_threads"] == 1
    assert fitted.last is not None
    assert fitted.last.keys() == fitted.classifier.state_dict().keys()
    best = all(torch.equal(value, fitted.last[name]) for name, value in fitted.classifier.state_dict().items())
    assert best == (fitted.summary["best_epoch"] == 2)


def _teacher(side_px: int) -> Classifier:
    seen = PREPROCESSING.model_copy(update={"image_size_px": side_px})
    return build_classifier("baseline_cnn", len(SHAPES), seen, pretrained=False, seed=7)


def test_fit__a_teacher_changes_the_weights_and_must_see_the_same_pixels(tmp_path: Path, records: pl.DataFrame) -> None:
    trial = shapes_trial(epochs=1, batch_size=8, max_steps=2, distill_from="outputs/teacher")
    side_px = trial.preprocessing.image_size_px
    taught = fit_network_trial(
        trial,
        records,
        pixels_of(tmp_path),
        SHAPES,
        device="cpu",
        work_dir=tmp_path / "taught",
        teacher=_teacher(side_px),
    )
    alone = shapes_trial(epochs=1, batch_size=8, max_steps=2)
    untaught = fit_network_trial(alone, records, pixels_of(tmp_path), SHAPES, device="cpu", work_dir=tmp_path / "alone")
    assert weights_sha256(taught.classifier) != weights_sha256(untaught.classifier)
    with pytest.raises(TeacherDoesNotFit, match=f"image_size_px {side_px * 2} instead of {side_px}"):
        fit_network_trial(
            trial,
            records,
            pixels_of(tmp_path),
            SHAPES,
            device="cpu",
            work_dir=tmp_path / "other",
            teacher=_teacher(side_px * 2),
        )


def test_fit__crops_of_another_size_need_networks_that_take_it(tmp_path: Path, records: pl.DataFrame) -> None:
    """Of timm's other transformers, and of a teacher, nothing is known before they are built."""
    larger = PROTOCOL.model_copy(update={"image_size_px": 64})
    train = {"epochs": 1, "max_steps": 1, "crop_size_px": 32}

    def fit(backbone: str, teacher: Classifier | None = None, **more: str) -> None:
        variant = Variant(backbone=backbone, mode="scratch", train=TrainRecipe.model_validate(train | more))
        trial = resolve_trial(variant, name="cropped", seed=0, protocol=larger)
        fit_network_trial(
            trial, records, pixels_of(tmp_path), SHAPES, device="cpu", work_dir=tmp_path / backbone, teacher=teacher
        )

    with pytest.raises(SizeDoesNotFit, match=r"train\.crop_size_px 32: backbone 'timm/test_vit' takes one size alone"):
        fit("timm/test_vit")
    seen = PREPROCESSING.model_copy(update={"image_size_px": 64})
    teacher = build_classifier("timm/test_vit", len(SHAPES), seen, pretrained=False, seed=7)
    with pytest.raises(TeacherDoesNotFit, match=r"distill_from outputs/teacher: the teacher takes one size alone"):
        fit("baseline_cnn", teacher, distill_from="outputs/teacher")
    fit("baseline_cnn", _teacher(64), distill_from="outputs/teacher")
