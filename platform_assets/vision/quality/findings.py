"""The tables of quality findings on one dataset version, as page and card take them; None where nobody looked."""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel, ConfigDict


class Findings(BaseModel):
    """What was found among the records.

    near_duplicates: image_id, near_group; a group has two images or more, null is none.
    image_faults: image_id, path, fault, score, and label_faults: image_id, path, label, suggested, score; both worst first.
    overrides: action, applied; one row for each decision of a reviewer, `applied` is false where it no longer matches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    near_duplicates: pl.DataFrame | None = None
    image_faults: pl.DataFrame | None = None
    label_faults: pl.DataFrame | None = None
    overrides: pl.DataFrame | None = None

    def near_groups(self) -> list[tuple[str, ...]]:
        """Ids of the images of each group, the largest group first."""
        if self.near_duplicates is None:
            return []
        grouped = self.near_duplicates.drop_nulls("near_group").group_by("near_group").agg(pl.col("image_id").sort())
        groups = [tuple(ids) for ids in grouped["image_id"] if len(ids) > 1]
        return sorted(groups, key=lambda ids: (-len(ids), ids))
