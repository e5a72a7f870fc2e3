"""Graph-wide jobs."""

import dagster as dg

_INPUTS = ("source", "records", "rejected", "label_map", "near_duplicates", "tiny_subset")

smoke = dg.define_asset_job(
    "smoke",
    selection=dg.AssetSelection.assets(*(["elpv", name] for name in _INPUTS)) | dg.AssetSelection.groups("elpv_smoke"),
    description="Tiny subset, two batches of training, inference, gate, export and card, in under a minute.",
)
