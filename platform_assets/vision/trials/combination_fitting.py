"""One combination trial, fitted: finished members in, the soup or ensemble out if val says that it is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from platform_assets.vision.evaluation.scores import cross_entropy, score
from platform_assets.vision.networks.checkpoints import WEIGHTS_FILE, checkpoint_id, load_classifier
from platform_assets.vision.networks.ensembles import Combination, Ensemble, fit_weights
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import place
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.trials.fitting import Fitted, part_labels
from platform_assets.vision.trials.soups import (
    Judged,
    State,
    best_first,
    greedy_soup,
    has_batch_norms,
    step_row,
    with_new_statistics,
)

if TYPE_CHECKING:
    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.datasets.splits import Part
    from platform_assets.vision.machine.devices import Device
    from platform_assets.vision.networks.models import Classifier
    from platform_assets.vision.recipes.resolving import ResolvedTrial
    from platform_assets.vision.training.pixels import Pixels

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
    step: members alone, then what was tried of them. Test images have no say.

    Raises MembersChanged, LabelMapMismatch and CheckpointError.
    """
    job = _Job(trial, records, pixels, label_map, dict(members), device)
    job.require_members()
    return _fit_ensemble(job) if trial.mode == "ensemble" else _fit_soup(job)


@dataclass(frozen=True)
class _Job:
    trial: ResolvedTrial
    records: pl.DataFrame
    pixels: Pixels
    label_map: LabelMap
    folders: Mapping[str, Path]
    device: Device

    def require_members(self) -> None:
        wanted = {member.trial.trial: member.checkpoint_id for member in self.trial.members}
        if self.folders.keys() != wanted.keys():
            raise MembersChanged(
                f"{self.trial.trial} is made of {', '.join(wanted)}, and given are {', '.join(self.folders) or 'none'}; "
                "give the folders of its members"
            )
        for key, folder in self.folders.items():
            found = checkpoint_id(folder / WEIGHTS_FILE)
            if found != wanted[key]:
                raise MembersChanged(
                    f"{self.trial.trial} was resolved with checkpoint {wanted[key]} of {key}, and {folder} has {found}; "
                    "resolve it again after its members"
                )

    def classifier(self, key: str) -> Classifier:
        return load_classifier(self.folders[key], expect_label_map=self.label_map)

    def part(self, part: Part) -> LabelledImages:
        """In the order of the image ids, so that no order of files is in the figures."""
        rows, labels_n = part_labels(self.records, part, self.label_map)
        order = np.argsort(self.records["image_id"].to_numpy()[rows], kind="stable")
        image_ids = self.records["image_id"].to_numpy()[rows[order]]
        images_nchw = self.pixels.rows(self.records, rows[order], self.trial.preprocessing)
        return LabelledImages(tuple(image_ids), images_nchw, labels_n[order])

    def judged(self, logits_nk: NDArray[np.float32], val: LabelledImages) -> Judged:
        return Judged(score(logits_nk, val.labels_n, self.trial.metric), cross_entropy(logits_nk, val.labels_n))


class _States(Mapping[str, State]):
    """The weights of the members, read when they are asked for."""

    def __init__(self, job: _Job) -> None:
        self._job = job

    def __getitem__(self, key: str) -> State:
        return dict(self._job.classifier(key).state_dict())

    def __iter__(self) -> Iterator[str]:
        return iter(self._job.folders)

    def __len__(self) -> int:
        return len(self._job.folders)


def _fit_soup(job: _Job) -> Fitted:
    val, states = job.part("val"), _States(job)
    network = job.classifier(min(job.folders))

    def judge(state: State) -> Judged:
        network.load_state_dict(state)
        return job.judged(predict(network, val.images_nchw, device=job.device), val)

    renormalise = None
    if has_batch_norms(network):
        renormalise = partial(with_new_statistics, network, part=job.part("train"), device=job.device)
    soup = greedy_soup(states, judge, renormalise=renormalise)
    best = best_first(soup.alone)[0]
    accepted = soup.judged.rank > soup.alone[best].rank
    network.load_state_dict(soup.state if accepted else states[best])
    summary = _summary(soup.judged, soup.alone, included=len(soup.included) if accepted else 1, accepted=accepted)
    summary |= {"uniform_val_metric": soup.uniform.metric, "uniform_val_loss": soup.uniform.loss}
    return Fitted(place(network, "cpu").eval(), soup.steps, summary)


def _fit_ensemble(job: _Job) -> Fitted:
    val = job.part("val")
    classifiers = {key: job.classifier(key) for key in sorted(job.folders)}
    logs_nmk = np.stack([_log_probabilities(member, val, job.device) for member in classifiers.values()], axis=1)
    alone = {key: job.judged(logs_nmk[:, m], val) for m, key in enumerate(classifiers)}
    best, *_ = ranked = best_first(alone)
    weights = _weights(job, logs_nmk, val)
    together, kept = _combined(job, classifiers, weights), [key in weights for key in classifiers]
    with torch.inference_mode():
        judged = job.judged(together.head(torch.from_numpy(logs_nmk[:, kept])).numpy(), val)
    accepted = judged.rank > alone[best].rank
    ensemble = together if accepted else _combined(job, classifiers, {best: 1.0})
    steps = [
        step_row("alone", key, 1, alone[key], taken=key in ensemble.names) | {"weight": weights.get(key, 0.0)}
        for key in ranked
    ]
    steps.append(step_row("combined", "", len(weights), judged, taken=accepted) | {"weight": sum(weights.values())})
    summary = _summary(judged, alone, included=len(ensemble.names), accepted=accepted)
    return Fitted(place(ensemble, "cpu").eval(), pl.DataFrame(steps), summary)


def _log_probabilities(member: Classifier, val: LabelledImages, device: Device) -> NDArray[np.float32]:
    """As the ensemble itself takes them from the logits, bit for bit."""
    logs_nk: NDArray[np.float32] = (
        torch.from_numpy(predict(member, val.images_nchw, device=device)).log_softmax(dim=1).numpy()
    )
    member.cpu()
    return logs_nk


def _weights(job: _Job, logs_nmk: NDArray[np.float32], val: LabelledImages) -> dict[str, float]:
    """Of the members that take part, by name; they are those of positive weight."""
    names = sorted(job.folders)
    if job.trial.combine != "weighted":
        return dict.fromkeys(names, 1 / len(names))
    fitted = fit_weights(logs_nmk, val.labels_n)
    return {name: float(weight) for name, weight in zip(names, fitted, strict=True) if weight > 0}


def _combined(job: _Job, classifiers: Mapping[str, Classifier], weights: Mapping[str, float]) -> Ensemble:
    head = Combination(torch.tensor(list(weights.values())), votes=job.trial.combine == "vote")
    members = {key: classifiers[key] for key in weights}
    return Ensemble(members, head, preprocessing=job.trial.preprocessing)


def _summary(judged: Judged, alone: Mapping[str, Judged], *, included: int, accepted: bool) -> Summary:
    """What was tried, beside the best member alone; without `accepted` that member is the result."""
    best = alone[best_first(alone)[0]]
    return {
        "accepted": accepted,
        "members": len(alone),
        "members_included": included,
        "combined_val_metric": judged.metric,
        "combined_val_loss": judged.loss,
        "best_member_val_metric": best.metric,
        "best_member_val_loss": best.loss,
    }
