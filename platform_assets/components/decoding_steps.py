"""What the scan of a dataset decodes for experiments that its YAML names, before any of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.resources import FilesResource
    from platform_assets.vision.images.decoding_ahead import DecodingAhead
    from platform_assets.vision.recipes.preprocessing import Preprocessing


def decoding_ahead(spec: VisionDatasetSpec, files: FilesResource, log: Any) -> DecodingAhead | None:
    """None where the YAML names no experiment, or none of those decodes whole images. Raises Failure for an unknown name."""
    from platform_assets.vision.images.decoding_ahead import DecodingAhead

    if not spec.decode_for:
        return None
    if not files.pixel_cache_gb:
        log.warning(
            f"{spec.name}: decode_for has no place to keep pixels; set KESTREL_PIXEL_CACHE_GB to a number of GB"
        )
        return None
    # Boxes are known to the records, not to the scan.
    wanted = {each.pixels_id: each for each in _pixels(spec, files) if each.box_margin is None}
    if not wanted:
        log.warning(
            f"{spec.name}: no network of {', '.join(spec.decode_for)} sees whole images; decode_for does nothing"
        )
        return None
    return DecodingAhead(
        folder=files.pixel_cache_folder(),
        max_bytes=files.pixel_cache_bytes(),
        preprocessings=tuple(wanted[name] for name in sorted(wanted)),
    )


def _pixels(spec: VisionDatasetSpec, files: FilesResource) -> list[Preprocessing]:
    from platform_assets.components.project_specs import experiments
    from platform_assets.vision.recipes.resolving import network_pixels

    known = {found.name: found for found in experiments(Path(files.root)) if found.dataset == spec.name}
    for name in spec.decode_for:
        if name not in known:
            raise dg.Failure(
                f"{spec.name}: decode_for names {name!r}, which is no experiment on this dataset; there are "
                f"{', '.join(sorted(known)) or 'none'}"
            )
    return [
        pixels
        for name in spec.decode_for
        for variant in known[name].variants.values()
        for pixels in network_pixels(variant, known[name].protocol("0" * 64))
    ]


def decoded_table(ahead: DecodingAhead, frame: pl.DataFrame) -> pl.DataFrame:
    """How much of what training will ask for lies in the cache: one row a preprocessing."""
    import polars as pl

    names = frame["image_id"].to_list()
    return pl.DataFrame(
        [
            {
                "image_size_px": each.image_size_px,
                "resize": each.resize,
                "crop_fraction": each.crop_fraction,
                "images": len(names),
                "in_the_cache": ahead.cache.held(names, each),
            }
            for each in ahead.preprocessings
        ]
    )
