"""One combination trial, fitted: finished members in, the soup or ensemble out if val says that it is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch

from platform_assets.vision.checkpoints import WEIGHTS_FILE, checkpoint_id, load_classifier
from platform_assets.vision.datasets import LabelledImages, fits_in_memory
from platform_assets.vision.ensembles import Combination, Ensemble, fit_weights
from platform_assets.vision.evaluation import predict
from platform_assets.vision.fitting import Fitted, part_labels
from platform_assets.vision.scores import cross_entropy, score
from platform_assets.vision.soups import Judged, State, greedy_soup, has_batch_norms, with_new_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from platform_assets.vision.devices import Device
    from platform_assets.vision.label_map import LabelMap
    from platform_assets.vision.pixels import Pixels
    from platform_assets.vision.recipes import MetricName, ResolvedTrial
    from platform_assets.vision.splits import Part

Summary = dict[str, float | int | bool]


class MembersChanged(ValueError):
    """The checkpoints of a combination are not those that it was resolved with."""


def fit_combination_trial(
    trial: ResolvedTrial,
    records: pl.DataFrame,
    pixels: Pixels,
    label_map: LabelMap,
    members: Sequence[tuple[str, Path]],
    *,
    device: Device,
) -> Fitted:
    """The soup or ensemble of `members`, trial keys and checkpoint folders; or the best of them alone.

    It is accepted when it is better on val: in the metric, or in the loss at an equal metric. `history` has one row per
    step: members alone, then what was tried of them. Test images are not read. Raises MembersChanged, LabelMapMismatch.
    """
    folders = dict(members)
    _require_members(trial, folders)
    val = _part("val", trial, records, pixels, label_map)
    if trial.mode == "ensemble":
        return _fit_ensemble(trial, val, {key: load_classifier(folders[key]) for key in sorted(folders)}, device)
    train = partial(_part, "train", trial, records, pixels, label_map)
    return _fit_soup(trial, val, train, folders, device)


def _require_members(trial: ResolvedTrial, folders: Mapping[str, Path], label_map: LabelMap) -> None:
    wanted = {member.trial.trial: member.checkpoint_id for member in trial.members}
    if folders.keys() != wanted.keys():
        raise MembersChanged(f"{trial.trial} is made of {sorted(wanted)}, given are {sorted(folders)}; give those")
    for key, folder in folders.items():
        label_map.require_same(read_label_map(folder), what=str(folder))
        if (found := checkpoint_id(folder / WEIGHTS_FILE)) != wanted[key]:
            raise MembersChanged(
                f"{trial.trial} was resolved with checkpoint {wanted[key]} of {key}, {folder} has {found}; "
                "resolve it again, after its members are finished"
            )


def _part(
    part: Part, trial: ResolvedTrial, records: pl.DataFrame, pixels: Pixels, label_map: LabelMap
) -> LabelledImages:
    """In the order of the image ids, so that no order of files is in the figures."""
    rows, labels_n = part_labels(records, part, label_map)
    image_ids = records["image_id"].to_numpy()[rows]
    order = np.argsort(image_ids, kind="stable")
    return LabelledImages(
        tuple(image_ids[order]), _images(pixels, records, rows[order], trial.preprocessing), labels_n[order]
    )


def _images(
    pixels: Pixels, records: pl.DataFrame, rows: NDArray[np.int64], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Rows of all the images, which other trials have decoded; those alone where all do not fit in memory twice."""
    if fits_in_memory(2 * records.height, preprocessing.image_size_px):
        return pixels.of(records, preprocessing)[rows]
    return pixels.of(records[rows], preprocessing)


class _States(Mapping[str, State]):
    """The weights of members, read when they are asked for."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def __getitem__(self, key: str) -> State:
        return dict(load_classifier(self._folders[key]).state_dict())

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


def _fit_soup(
    trial: ResolvedTrial,
    val: LabelledImages,
    train: Callable[[], LabelledImages],
    folders: Mapping[str, Path],
    device: Device,
) -> Fitted:
    network = load_classifier(folders[min(folders)])

    def judge(state: State) -> Judged:
        network.load_state_dict(state)
        return _judged(predict(network, val.images_nchw, device=device), val, trial.metric)

    renormalise: Renormalise | None = None
    if has_batch_norms(network):
        renormalise = partial(with_new_statistics, network, part=train(), device=device)
    soup = greedy_soup(_States(folders), judge, renormalise=renormalise)
    network.load_state_dict(soup.state)
    summary = _summary(soup.judged, soup.alone, included=len(soup.included), accepted=len(soup.included) > 1)
    summary |= {"uniform_val_metric": soup.uniform.metric, "uniform_val_loss": soup.uniform.loss}
    return Fitted(place(network, "cpu").eval(), soup.steps, summary)


def _fit_ensemble(
    trial: ResolvedTrial, val: LabelledImages, classifiers: Mapping[str, Classifier], device: Device
) -> Fitted:
    logs_nmk = np.stack([_log_probabilities(member, val, device) for member in classifiers.values()], axis=1)
    alone = {key: _judged(logs_nmk[:, m], val, trial.metric) for m, key in enumerate(classifiers)}
    best = min(alone, key=lambda key: (-alone[key].metric, alone[key].loss, key))
    weights = dict(zip(classifiers, _weights(trial, logs_nmk, val), strict=True))
    ensemble = _ensemble(trial, classifiers, weights)
    kept = [m for m, key in enumerate(classifiers) if key in ensemble.names]
    together = _judged(ensemble.head(torch.from_numpy(logs_nmk[:, kept])).numpy(), val, trial.metric)
    accepted = together.rank > alone[best].rank
    steps = [
        _step("alone", key, 1, alone[key], taken=key in ensemble.names if accepted else key == best)
        | {"weight": float(weights[key])}
        for key in sorted(alone, key=lambda key: (-alone[key].metric, alone[key].loss, key))
    ]
    steps.append(_step("combined", "", len(kept), together, taken=accepted) | {"weight": 1.0})
    if not accepted:
        ensemble = _ensemble(trial, classifiers, {best: 1.0})
    summary = _summary(together, alone, included=len(ensemble.names), accepted=accepted)
    return Fitted(place(ensemble, "cpu").eval(), pl.DataFrame(steps), summary)
