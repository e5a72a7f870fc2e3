"""A trial made or evaluated again in a place of its own: equal to what it left behind, or the first difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from platform_assets.commands.replay_sources import CannotReplay, Replay
from platform_assets.components.trial_evaluation import RULES
from platform_assets.vision.recipes.modes import COMBINATION_MODES, FROZEN_MODES

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from platform_assets.vision.machine.devices import RequestedEngine
    from platform_assets.vision.networks.models import Classifier
    from platform_assets.vision.trials.fitting import Fitted


def environment_differences(replay: Replay) -> Iterator[str]:
    """Each fact of the environment that is not what env.json says of it."""
    from platform_assets.stores.stamps import environment_facts, git_commit
    from platform_assets.vision.trials.reproduction import facts_difference

    facts = {**environment_facts(replay.device), "git_commit": git_commit(replay.settings.root)}
    return facts_difference({name: replay.environment[name] for name in facts}, facts)


def retrained(replay: Replay, *, embed_anew: bool = False) -> tuple[str, str | None]:
    """The id of the checkpoint that comes out, below `scratch`, and the first difference where it is another."""
    import polars as pl

    from platform_assets.vision.networks.checkpoints import WEIGHTS_FILE, save_checkpoint
    from platform_assets.vision.trials.reproduction import history_difference, weights_difference

    fitted, place = _fitted(replay, embed_anew), replay.scratch / "checkpoint"
    checkpoint_id = save_checkpoint(fitted.classifier, place, label_map=replay.inputs.label_map, trial=replay.trial)
    fitted.history.write_parquet(place / "history.parquet")
    if checkpoint_id == replay.checkpoint_id:
        return checkpoint_id, None
    found = [
        _config_difference(replay),
        history_difference(pl.read_parquet(replay.folder.path("history.parquet")), fitted.history),
        weights_difference(replay.folder.path(WEIGHTS_FILE), place / WEIGHTS_FILE),
    ]
    return checkpoint_id, "; ".join(each for each in found if each)


def _config_difference(replay: Replay) -> str | None:
    """What this Kestrel spells differently in the config: its hash stands in the weights file, and so in the id."""
    from platform_assets.vision.trials.reproduction import facts_difference

    if replay.trial.config_hash == replay.folder.manifest().config_hash:
        return None
    kept = json.loads(replay.folder.path("config.json").read_bytes())
    return "config: " + next(facts_difference(kept, json.loads(replay.trial.canonical_json())), "spelled otherwise")


def _fitted(replay: Replay, embed_anew: bool) -> Fitted:
    from platform_assets.components.checkpoint_steps import teacher_of
    from platform_assets.vision.trials.fitting import fit_probe_trial
    from platform_assets.vision.trials.network_fitting import Listeners, fit_network_trial

    trial, records, label_map = replay.trial, replay.inputs.records, replay.inputs.label_map
    if trial.mode in COMBINATION_MODES:
        return _combined(replay)
    if trial.mode in FROZEN_MODES:
        vectors = _vectors(replay, embed_anew)
        return fit_probe_trial(trial, records, vectors, label_map, weights=replay.start)
    listeners = Listeners(on_epoch=lambda row: replay.say(f"epoch {row.epoch}: train loss {row.train_loss:.4f}"))
    return fit_network_trial(
        trial,
        records,
        replay.pixels(),
        label_map,
        device=replay.device,
        work_dir=replay.scratch / "resume",
        weights=replay.start,
        teacher=teacher_of(trial, replay.outputs, replay.settings.root, label_map),
        threads=replay.threads,
        listeners=listeners,
    )


def _combined(replay: Replay) -> Fitted:
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES
    from platform_assets.vision.trials.combination_fitting import fit_combination_trial

    members = []
    for member in replay.trial.members:
        found = replay.outputs.find(checkpoint_id=member.checkpoint_id)
        if not found:
            raise CannotReplay(f"checkpoint {member.checkpoint_id} of its member {member.trial.trial} is not here")
        members.append((member.trial.trial, found[0].local_folder(*CLASSIFIER_FILES)))
    records, label_map = replay.inputs.records, replay.inputs.label_map
    return fit_combination_trial(replay.trial, records, replay.pixels(), label_map, members, device=replay.device)


def _vectors(replay: Replay, embed_anew: bool) -> pl.DataFrame:
    """image_id and vector of every record: from the cache when it has all of them, else embedded below `scratch`."""
    from platform_assets.components.embedding_steps import Frozen, embed_all, held_vectors, known_rows
    from platform_assets.stores.embeddings import EmbeddingCache
    from platform_assets.vision.machine.devices import choose_device

    trial, inputs = replay.trial, replay.inputs
    variant = inputs.spec.variants.get(trial.variant)
    weights = variant.weights if variant else None
    frozen = Frozen(
        backbone=trial.backbone, weights=weights, features=trial.features, preprocessing=trial.preprocessing
    )
    row = next((row for row in known_rows(inputs.tables, inputs) if frozen.made(row)), None)
    if row is not None and not embed_anew:
        held = held_vectors(inputs, replay.files.embedding_cache(), row, trial.preprocessing)
        if held.height == inputs.records.height:
            replay.say(f"all {held.height:,} vectors are in the cache, under the hashes of their images")
            return held
    engine = cast("RequestedEngine", row.engine if row else replay.settings.engine)
    fresh, device = EmbeddingCache(replay.scratch), choose_device(replay.settings.device).device
    made = embed_all(inputs, fresh, frozen, [], device=device, engine=engine, log=replay.say)
    return held_vectors(inputs, fresh, made, trial.preprocessing)


def reevaluated(replay: Replay, *, embed_anew: bool = False) -> str | None:
    """The first difference of the predictions and metrics that the weights give now to those that were kept."""
    import polars as pl

    from platform_assets.vision.evaluation.predictions import compute_metrics, predictions_frame
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier
    from platform_assets.vision.recipes.evaluation_rules import evaluation_rules
    from platform_assets.vision.trials.reproduction import metrics_difference, predictions_difference

    kept = replay.folder.manifest().files
    if not {"predictions.parquet", "metrics.json"} <= kept.keys():
        raise CannotReplay(f"{replay.trial.trial} was never evaluated: no predictions.parquet and metrics.json")
    label_map = replay.inputs.label_map
    classifier = load_classifier(replay.folder.local_folder(*CLASSIFIER_FILES), expect_label_map=label_map)
    records = replay.inputs.records
    evaluated = records.with_columns(replay.inputs.groups_of(records)).with_row_index("row")
    evaluated = evaluated.filter(pl.col("split").is_in(["val", "test"]))
    logits = _logits(replay, classifier, evaluated["row"].to_numpy(), embed_anew)
    frame = predictions_frame(evaluated.select("image_id", "path", "label", "group", part="split"), logits, label_map)
    if found := predictions_difference(pl.read_parquet(replay.folder.path("predictions.parquet")), frame):
        return found
    said = json.loads(replay.folder.path("metrics.json").read_bytes())
    rules = evaluation_rules(records, label_map, _costs(replay, said))
    metrics: dict[str, Any] = {
        part: compute_metrics(frame, label_map, part, rules=rules).model_dump(mode="json") for part in ("val", "test")
    }
    return metrics_difference(said, metrics)


def _costs(replay: Replay, said: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]] | None:
    """Those that the evaluation was made with; those of the YAML where it was made before they were written down."""
    now = replay.inputs.spec.costs
    if RULES not in said:
        return now
    kept: Mapping[str, Mapping[str, float]] | None = said[RULES]["costs"]
    if kept != now:
        replay.say(f"costs were {json.dumps(kept)} and are {json.dumps(now)} in the YAML now; evaluated by the former")
    return kept


def _logits(replay: Replay, classifier: Classifier, rows_n: NDArray[np.int64], embed_anew: bool) -> NDArray[np.float32]:
    from platform_assets.vision.heads.modules import logits_of_features
    from platform_assets.vision.networks.inference import predict
    from platform_assets.vision.trials.fitting import features_of

    trial, records = replay.trial, replay.inputs.records
    if trial.mode in FROZEN_MODES:
        return logits_of_features(classifier.head, features_of(records[rows_n], _vectors(replay, embed_anew)))
    return predict(classifier, replay.pixels().rows(records, rows_n, trial.preprocessing), device=replay.device)
