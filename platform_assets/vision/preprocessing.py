"""The step from a decoded photograph to the uint8 pixels that a model takes, as one hashable record."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Interpolation = Literal["bilinear", "bicubic"]
Resize = Literal["squash", "shorter_side"]
Channel = Annotated[float, Field(allow_inf_nan=False)]
ChannelSpread = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Raise it when decoding or `to_pixels` gives other pixels for the same bytes: cached embeddings are then recomputed.
PIXELS_REVISION = 1


class Preprocessing(BaseModel):
    """How a photograph becomes model input.

    `squash` resizes both sides to `image_size_px`, whatever the aspect ratio. `shorter_side` resizes the shorter side
    to `image_size_px / crop_fraction` and cuts the centre square, as timm evaluates. `mean` and `std` are RGB on the
    0 to 1 scale; they are applied inside the model graph, never here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size_px: int = Field(ge=8, le=4096)
    resize: Resize
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    interpolation: Interpolation
    mean: tuple[Channel, Channel, Channel]
    std: tuple[ChannelSpread, ChannelSpread, ChannelSpread]

    @model_validator(mode="after")
    def _refuse_crop_of_a_squash(self) -> Self:
        if self.resize == "squash" and self.crop_fraction != 1.0:
            raise ValueError(
                f"crop_fraction: {self.crop_fraction} is for resize 'shorter_side' only; leave it out with 'squash'"
            )
        return self

    @property
    def preprocessing_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON, part of the key of every cached embedding."""
        facts = {**self.model_dump(mode="json"), "pixels_revision": PIXELS_REVISION}
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def to_pixels(image_hwc_u8: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize a decoded RGB image, antialiased, to contiguous pixels_chw uint8 of `image_size_px` squared."""
    import numpy as np
    from PIL import Image

    if image_hwc_u8.ndim != 3 or image_hwc_u8.shape[2] != 3 or image_hwc_u8.dtype != np.uint8:
        raise ValueError(
            f"image of shape {image_hwc_u8.shape} and type {image_hwc_u8.dtype}: uint8 RGB [height, width, 3] is needed"
        )
    image = _resized(Image.fromarray(image_hwc_u8), preprocessing)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    from PIL import Image

    resample = Image.Resampling[preprocessing.interpolation.upper()]
    side = preprocessing.image_size_px
    if preprocessing.resize == "squash":
        return image.resize((side, side), resample)
    shorter = math.floor(side / preprocessing.crop_fraction)
    width, height = _scaled_size(image.width, image.height, shorter)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.resize((width, height), resample).crop((left, top, left + side, top + side))


def _scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Size with the shorter side at `shorter`; the longer side is cut down to a whole pixel, as torchvision does."""
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter
