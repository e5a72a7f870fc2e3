"""What the cached vectors say of the data: labels they speak against, ranked for review, and copies in two parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.embedding_steps import (
    Embedded,
    StaleEmbeddings,
    frozen_backbones,
    held_vectors,
    known_rows,
)
from platform_assets.components.specs import code_version, data_version

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.inputs import Inputs
    from platform_assets.resources import FilesResource
    from platform_assets.stores.embeddings import EmbeddingCache
    from platform_assets.stores.tables import Tables

LABEL_ISSUES = (
    "One row an image, the most doubtful label first: how probable a probe that never saw the image finds its label, and "
    "which class it suggests. Beside it a CSV and Label Studio's tasks to review; decisions come back as `overrides`."
)

TO_REVIEW, TASKS, CONFIG = "to_review.csv", "label_studio_tasks.json", "label_studio_config.xml"
_TOGETHER = "kept_together"
"""The column that names what no fold may part: all that the dataset says is not independent."""
MOST_COMPARED = 20_000
"""Images; all pairs of more take minutes."""


def checks(spec: ExperimentSpec) -> list[dg.AssetCheckSpec]:
    asset = [*spec.key, "label_issues"]
    return [
        dg.AssetCheckSpec(
            "labels_are_beyond_doubt",
            asset=asset,
            description="Confident learning finds no label that is likely wrong.",
        ),
        dg.AssetCheckSpec(
            "vectors_show_no_copy_in_two_parts",
            asset=asset,
            description="No two images that vectors bring together, and whose pixels then agree, stand in two parts.",
        ),
    ]


def label_issues(
    context: dg.AssetExecutionContext, inputs: Inputs, tables: Tables, cache: EmbeddingCache, files: FilesResource
) -> dg.MaterializeResult[Any]:
    """Judge every label by the vectors of the first frozen backbone that the YAML names."""
    import polars as pl

    from platform_assets.vision.quality.label_faults import CannotJudgeLabels, label_faults

    key, row = [*inputs.spec.key, "label_issues"], _embedded(inputs, tables)
    judged = (inputs.records_version, inputs.label_map.checksum, row.key.folder)
    settled = _settled(inputs, tables)
    version = data_version(*judged, *settled)
    together = inputs.groups_of(inputs.records)
    code = code_version("vision.quality.label_faults")
    made_by = data_version(*judged, code, *(group or "" for group in together)).value
    vectors = held_vectors(inputs, cache, row, frozen_backbones(inputs)[0].preprocessing)
    copies = _copies(context, inputs, tables, vectors, data_version(*judged).value)
    found = _kept(tables, key, made_by)
    if found is not None:
        context.log.info("nothing changed, the label issues are taken as they are")
    else:
        context.log.info(f"judging {inputs.records.height:,} labels by five folds")
        with show.stops_cleanly("Nothing was written."):
            try:
                grouped = inputs.records.with_columns(together.alias(_TOGETHER))
                found = label_faults(grouped, vectors, inputs.label_map, group_by=_TOGETHER)
            except CannotJudgeLabels as error:
                return _not_judged(str(error), version, copies)
    tables.write_version(key, made_by, found)
    found = found.with_columns(is_fault=pl.col("is_fault") & ~pl.col("image_id").is_in(settled))
    reviews = _for_reviewers(inputs, found, tables, files.reviews(*inputs.spec.key, made_by))
    return _result(inputs, found, reviews, version, copies)


def _embedded(inputs: Inputs, tables: Tables) -> Embedded:
    """The row of the embeddings table for the first frozen backbone. Raises StaleEmbeddings."""
    frozen = frozen_backbones(inputs)[0]
    row = next((row for row in known_rows(tables, inputs) if frozen.made(row)), None)
    if row is None:
        what = f"{frozen.backbone} ({frozen.features}) at {frozen.preprocessing.image_size_px} px"
        raise StaleEmbeddings(f"{'/'.join(inputs.spec.key)}/embeddings: no vectors of {what}; materialize it first")
    return row


def _kept(tables: Tables, key: list[str], version: str) -> pl.DataFrame | None:
    from platform_assets.stores.tables import MissingTable

    try:
        return tables.read(key, version=version)
    except MissingTable:
        return None


def _settled(inputs: Inputs, tables: Tables) -> list[str]:
    """The images whose label a reviewer has decided on: it is ranked, and in doubt no more."""
    if inputs.spec.target != "label":
        return []
    return sorted(tables.read([inputs.spec.dataset, "overrides"]).filter("applied")["image_id"])


def _copies(
    context: dg.AssetExecutionContext, inputs: Inputs, tables: Tables, vectors: pl.DataFrame, judged: str
) -> dg.AssetCheckResult:
    """The check on copies in two parts; images and vectors (`judged`) that were compared before are not compared again."""
    from platform_assets.vision.datasets.splits import pairs_in_two_parts
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.quality.near_duplicates import near_duplicates_by_vectors
    from platform_assets.vision.views.galleries import pairs_sheet

    records, read, key = inputs.records, reader_of(inputs.root), [*inputs.spec.key, "copies_by_vectors"]
    if records.height > MOST_COMPARED:
        return _copies_result(f"not compared: over {MOST_COMPARED:,} images")
    made_by = data_version(judged, code_version("vision.quality.near_duplicates")).value
    pairs = _kept(tables, key, made_by)
    if pairs is None:
        context.log.info(f"looking for copies among {records.height:,} images by their vectors")
        progress = show.every_two_seconds(context.log.info, "copies by vectors")
        with show.stops_cleanly("Nothing was written."):
            pairs = near_duplicates_by_vectors(records, vectors, read, on_progress=progress)
        tables.write_version(key, made_by, pairs)
    leaks = pairs_in_two_parts(records, pairs).sort("similarity", descending=True, maintain_order=True)
    if leaks.is_empty():
        return _copies_result(pairs=0)
    cure = (
        "split: {kind: grouped} keeps those together that are near duplicates by hash too, `overrides` excludes others"
    )
    return _copies_result(
        f"{leaks.height} pairs stand in two parts: {cure}",
        pairs=leaks.height,
        most_alike=show.picture(pairs_sheet(leaks, records, read)),
        found=show.table(leaks.select("paths", "parts", "similarity", "cosine"), max_rows=20),
    )


def _copies_result(problem: str | None = None, **metadata: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="vectors_show_no_copy_in_two_parts",
        passed=problem is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=problem,
        metadata={"threshold": 0, **metadata},
    )


def _for_reviewers(inputs: Inputs, found: pl.DataFrame, tables: Tables, folder: Path) -> Path | None:
    """Hand the doubtful labels to the dataset's page and card, and to people: a CSV to fill in, tasks of Label Studio.

    A file that is there is never written again, someone may be filling it in. Reviews of another column than the label
    cannot come back as decisions on the label, and are not written.
    """
    import polars as pl

    from platform_assets.vision.quality.label_studio import label_studio_tasks, labelling_config, local_file_url
    from platform_assets.vision.quality.reviews import to_review_csv

    if inputs.spec.target != "label":
        return None
    judged = found.with_columns(records_version=pl.lit(inputs.records_version))
    tables.write([inputs.spec.dataset, "doubtful_labels"], judged)
    doubtful = found.filter("is_fault")
    tasks = label_studio_tasks(doubtful, local_file_url, model_version=inputs.records_version)
    texts = {TO_REVIEW: to_review_csv(doubtful), TASKS: tasks, CONFIG: labelling_config(inputs.label_map)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def _result(
    inputs: Inputs,
    found: pl.DataFrame,
    reviews: Path | None,
    version: dg.DataVersion,
    copies: dg.AssetCheckResult,
) -> dg.MaterializeResult[Any]:
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.views.galleries import captioned_sheet

    doubtful = found.filter("is_fault")
    worst = doubtful.head(32)
    captions = [(f"is {label}", f"looks {said}") for label, said in worst.select("label", "suggested").rows()]
    sheet = captioned_sheet(list(worst["path"]), captions, reader_of(inputs.root))
    named = {"to_review": TO_REVIEW, "label_studio": TASKS} if reviews else {}
    where = f"; review {reviews / TO_REVIEW}" if reviews else ""
    return dg.MaterializeResult(
        data_version=version,
        metadata={
            "dagster/row_count": found.height,
            "doubtful": doubtful.height,
            "most_doubtful": show.picture(sheet),
            "ranking": show.table(doubtful.select("rank", "label", "suggested", "score", "split", "path"), max_rows=50),
            **{name: dg.MetadataValue.path(f"{reviews}/{file}") for name, file in named.items()},
        },
        check_results=[
            copies,
            dg.AssetCheckResult(
                check_name="labels_are_beyond_doubt",
                passed=doubtful.is_empty(),
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{doubtful.height} of {found.height} labels are doubtful{_too_rare(inputs, found)}{where}",
                metadata={"doubtful": doubtful.height, "threshold": 0},
            ),
        ],
    )


def _too_rare(inputs: Inputs, found: pl.DataFrame) -> str:
    """What is to be said of classes that were not judged, if there are any."""
    rare = sorted(set(inputs.records["label"]).difference(found["label"]))
    return f"; not judged, for they have too few images: {', '.join(rare)}" if rare else ""


def _not_judged(why: str, version: dg.DataVersion, copies: dg.AssetCheckResult) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(
        data_version=version,
        metadata={"not_judged": dg.MetadataValue.md(why)},
        check_results=[
            copies,
            dg.AssetCheckResult(
                check_name="labels_are_beyond_doubt",
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"not judged: {why}",
            ),
        ],
    )
