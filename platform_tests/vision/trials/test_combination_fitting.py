"""Finished members to a soup or an ensemble, judged on val; files, records and pixels as a step has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from platform_assets.vision.datasets.label_map import LabelMap, LabelMapMismatch
from platform_assets.vision.evaluation.scores import cross_entropy, score
from platform_assets.vision.networks.checkpoints import load_classifier, save_checkpoint
from platform_assets.vision.networks.ensembles import Ensemble
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.combination_options import resolve_combination
from platform_assets.vision.recipes.resolving import Member, ResolvedTrial
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.pixels import Pixels
from platform_assets.vision.trials.combination_fitting import MembersChanged, fit_combination_trial
from platform_assets.vision.trials.fitting import Fitted
from platform_tests.vision.shapes import PROTOCOL, SHAPES, coloured_shapes, shapes_trial, small_classifier
from platform_tests.vision.tiny_training import tiny_training
from platform_tests.vision.trainings import one_thread

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {"train": coloured_shapes(72, seed=1), "val": coloured_shapes(48, seed=2), "test": coloured_shapes(3, seed=3)}


class Setting(NamedTuple):
    records: pl.DataFrame
    pixels: Pixels
    folders: dict[str, Path]
    ids: dict[str, str]

    def trial(self, **options: Any) -> ResolvedTrial:
        members = []
        for key, checkpoint in self.ids.items():
            trial = shapes_trial(seed=int(key[-1]))
            members.append(Member(trial=trial, config_hash=trial.config_hash, checkpoint_id=checkpoint))
        variant = Variant.model_validate({"of": ["baseline"], **options})
        return resolve_combination(variant, name="all", seed=0, protocol=PROTOCOL, members=members)

    def fit(self, records: pl.DataFrame | None = None, **options: Any) -> Fitted:
        found = self.records if records is None else records
        trial, folders = self.trial(**options), list(self.folders.items())
        return fit_combination_trial(trial, found, self.pixels, SHAPES, folders, device="cpu")

    def with_heads(self, at: Path, change: Callable[[Classifier, int], None]) -> Setting:
        """The same members with their heads changed, saved below `at`."""
        folders, ids = {}, {}
        for number, (key, folder) in enumerate(self.folders.items()):
            classifier = load_classifier(folder)
            with torch.no_grad():
                change(classifier, number)
            folders[key] = at / key
            trial = shapes_trial(seed=int(key[-1]))
            ids[key] = save_checkpoint(classifier, at / key, label_map=SHAPES, trial=trial)
        return Setting(self.records, self.pixels, folders, ids)


def in_order_of_ids(part: LabelledImages) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    order = np.argsort(np.array(part.image_ids))
    return part.images_nchw[order], part.labels_n[order]


def on_val(classifier: Classifier) -> tuple[float, float]:
    images_nchw, labels_n = in_order_of_ids(PARTS["val"])
    logits_nk = predict(classifier, images_nchw)
    return score(logits_nk, labels_n, "top1"), cross_entropy(logits_nk, labels_n)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Three trainings that go on from one, and their pictures as files."""
    root, rows = tmp_path_factory.mktemp("images"), []
    for name, part in PARTS.items():
        for image_id, image_chw, label in zip(part.image_ids, part.images_nchw, part.labels_n, strict=True):
            path = f"{image_id[:16]}.png"
            Image.fromarray(image_chw.transpose(1, 2, 0)).save(root / path)
            rows.append({"image_id": image_id, "path": path, "label": SHAPES.names[label], "split": name})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = small_classifier()
    recipe = TrainRecipe(epochs=4, batch_size=12, learning_rate=3e-3, augmentation="none", warmup_epochs=0.5)
    tiny_training(start, PARTS["train"], recipe)
    folders, ids = {}, {}
    for seed, rate in enumerate((2e-4, 5e-4, 1e-3)):
        classifier = small_classifier()
        classifier.load_state_dict(start.state_dict())
        tiny_training(classifier, PARTS["train"], recipe.model_copy(update={"epochs": 1, "learning_rate": rate}))
        trial = shapes_trial(seed=seed)
        folders[trial.trial] = tmp_path_factory.mktemp("member")
        ids[trial.trial] = save_checkpoint(classifier, folders[trial.trial], label_map=SHAPES, trial=trial)
    torch.set_num_threads(threads)
    return Setting(pl.DataFrame(rows), Pixels(root, spill=root / "spill"), folders, ids)


def test_fit_combination_trial__soup_says_what_it_is_on_val(setting: Setting, tmp_path: Path) -> None:
    fitted = setting.fit(mode="soup")
    alone = {key: on_val(load_classifier(folder)) for key, folder in setting.folders.items()}
    for step in fitted.history.filter(step="alone").to_dicts():
        assert (step["val_metric"], step["val_loss"]) == alone[step["trial"]]
    best = max(alone.values(), key=lambda judged: (judged[0], -judged[1]))
    said = fitted.summary
    assert (said["best_member_val_metric"], said["best_member_val_loss"]) == best
    found = on_val(fitted.classifier)
    if said["accepted"]:
        assert found == (said["combined_val_metric"], said["combined_val_loss"])
        assert (found[0], -found[1]) > (best[0], -best[1])
    else:
        assert found == best
    trial = setting.trial(mode="soup")
    save_checkpoint(fitted.classifier, tmp_path, label_map=SHAPES, trial=trial)
    loaded = load_classifier(tmp_path, expect_label_map=SHAPES)
    assert not isinstance(loaded, Ensemble)
    assert on_val(loaded) == found


@pytest.mark.parametrize("mode", ["soup", "ensemble"])
def test_fit_combination_trial__follows_from_content_not_from_the_order_of_files(setting: Setting, mode: str) -> None:
    one = setting.fit(mode=mode)
    turned = Setting(setting.records, setting.pixels, dict([*setting.folders.items()][::-1]), setting.ids)
    other = turned.fit(records=setting.records.reverse(), mode=mode)
    assert weights_sha256(one.classifier) == weights_sha256(other.classifier)
    assert one.history.equals(other.history)


@pytest.mark.parametrize("mode", ["soup", "ensemble"])
def test_fit_combination_trial__test_images_have_no_say(setting: Setting, mode: str) -> None:
    """Their labels are turned round, and nothing changes."""
    turned = setting.records.with_columns(
        label=pl.when(pl.col("split") == "test").then(pl.lit(SHAPES.names[0])).otherwise("label")
    )
    one, other = setting.fit(mode=mode), setting.fit(records=turned, mode=mode)
    assert weights_sha256(one.classifier) == weights_sha256(other.classifier)
    assert one.summary == other.summary


def test_fit_combination_trial__an_ensemble_is_better_than_members_of_unlike_faults(
    setting: Setting, tmp_path: Path
) -> None:
    """Each member is blind for another class, and the others make up for it."""

    def blind(classifier: Classifier, number: int) -> None:
        classifier.head.bias[number] -= 3.0

    blinded = setting.with_heads(tmp_path, blind)
    for combine in ("mean", "vote"):
        fitted = blinded.fit(mode="ensemble", combine=combine)
        said = fitted.summary
        assert said["accepted"] is True
        assert said["combined_val_metric"] > said["best_member_val_metric"]
        assert on_val(fitted.classifier)[0] == said["combined_val_metric"]
        assert on_val(fitted.classifier)[1] == pytest.approx(said["combined_val_loss"], abs=1e-6)
        assert fitted.history.row(-1, named=True)["step"] == "combined"


def test_fit_combination_trial__useless_members_get_no_weight_and_cost_nothing(
    setting: Setting, tmp_path: Path
) -> None:
    def misled(classifier: Classifier, number: int) -> None:
        if number == 1:
            classifier.head.weight.neg_()
            classifier.head.weight.mul_(3)

    said = setting.with_heads(tmp_path, misled)
    weighted = said.fit(mode="ensemble", combine="weighted")
    assert isinstance(weighted.classifier, Ensemble)
    assert "baseline__s1" not in weighted.classifier.names
    weights = dict(weighted.history.filter(step="alone").select("trial", "weight").iter_rows())
    assert weights["baseline__s1"] == 0.0
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_fit_combination_trial__what_is_no_better_is_the_best_member_alone(
    setting: Setting, tmp_path: Path, combine: str
) -> None:
    def misled(classifier: Classifier, number: int) -> None:
        if number > 0:
            classifier.head.weight.neg_()
            classifier.head.weight.mul_(3)

    broken = setting.with_heads(tmp_path, misled)
    fitted, good = broken.fit(mode="ensemble", combine=combine), load_classifier(broken.folders["baseline__s0"])
    assert fitted.summary["accepted"] is False
    assert fitted.summary["members_included"] == 1
    assert isinstance(fitted.classifier, Ensemble)
    logits_nk = torch.from_numpy(predict(good, PARTS["test"].images_nchw))
    np.testing.assert_array_equal(predict(fitted.classifier, PARTS["test"].images_nchw), logits_nk.log_softmax(dim=1))
    soup = broken.fit(mode="soup")
    assert soup.summary["accepted"] is False
    assert weights_sha256(soup.classifier) == weights_sha256(good)
    assert soup.history.filter(step="uniform")["val_metric"].item() == soup.summary["uniform_val_metric"]


def test_fit_combination_trial__refuses_other_members(setting: Setting, tmp_path: Path) -> None:
    trial = setting.trial(mode="ensemble")
    given = list(setting.folders.items())

    def fit(folders: list[tuple[str, Path]], labels: LabelMap = SHAPES) -> Fitted:
        return fit_combination_trial(trial, setting.records, setting.pixels, labels, folders, device="cpu")

    with pytest.raises(MembersChanged, match=r"is made of baseline__s0, .* and given are baseline__s0, baseline__s1;"):
        fit(given[:2])
    other = setting.with_heads(tmp_path, lambda classifier, _: classifier.head.bias.add_(1))
    with pytest.raises(MembersChanged, match=r"resolved with checkpoint [0-9a-f]{16} of baseline__s2"):
        fit([*given[:2], ("baseline__s2", other.folders["baseline__s2"])])
    with pytest.raises(LabelMapMismatch):
        fit(given, LabelMap(names=tuple(reversed(SHAPES.names))))
