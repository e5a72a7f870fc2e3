"""The step from an image file to the uint8 pixels that a model takes, as one hashable record."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from platform_assets.vision.images.cropping import crop_of
from platform_assets.vision.images.resampling import Interpolation, resized_window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from platform_assets.vision.formats.boxes import Box
    from platform_assets.vision.images.decoding import Decoder

Resize = Literal["squash", "shorter_side"]
Channel = Annotated[float, Field(allow_inf_nan=False)]
ChannelSpread = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BoxMargin = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

# Raise it when decoding or `to_pixels` gives other pixels for the same bytes: cached embeddings are then recomputed.
PIXELS_REVISION = 1


class Preprocessing(BaseModel):
    """How a photograph becomes model input.

    `squash` resizes both sides to `image_size_px`, whatever the aspect ratio. `shorter_side` resizes the shorter side
    to `image_size_px / crop_fraction` and cuts the centre square, as timm evaluates. `mean` and `std` are RGB on the
    0 to 1 scale; they are applied inside the model graph, never here. With `box_margin` the annotated box is cut out
    first, grown on every side by that fraction of its longer side; None keeps the whole picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size_px: int = Field(ge=8, le=4096)
    resize: Resize
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    interpolation: Interpolation
    mean: tuple[Channel, Channel, Channel]
    std: tuple[ChannelSpread, ChannelSpread, ChannelSpread]
    box_margin: BoxMargin | None = None

    @model_validator(mode="after")
    def _refuse_crop_of_a_squash(self) -> Self:
        if self.resize == "squash" and self.crop_fraction != 1.0:
            raise ValueError(
                f"crop_fraction: {self.crop_fraction} is for resize 'shorter_side' only; leave it out with 'squash'"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_no_crop(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Whole pictures are written as before there were crops, so that hashes and ids stay."""
        fields: dict[str, Any] = write(self)
        if self.box_margin is None:
            del fields["box_margin"]
        return fields

    @property
    def preprocessing_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON, part of the key of every cached embedding."""
        return self._hashed(self.model_dump(mode="json"))

    @property
    def pixels_id(self) -> str:
        """The same without mean and std, which change no pixel: models that differ in them share decoded images."""
        return self._hashed(self.model_dump(mode="json", exclude={"mean", "std"}))

    @staticmethod
    def _hashed(facts: dict[str, Any]) -> str:
        canonical = json.dumps({**facts, "pixels_revision": PIXELS_REVISION}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def pixels_of_file(
    data: bytes,
    preprocessing: Preprocessing,
    box: Box | None = None,
    *,
    max_pixels: int | None = None,
    decoder: Decoder = "libjpeg-turbo",
) -> NDArray[np.uint8]:
    """pixels_chw of an image file as it is on disk: for training, embedding, export and serving alike.

    `box` is in pixels of the file as stored; it counts when the preprocessing has a `box_margin`, and must then be given.
    Raises UnreadableImage, BadBox, MissingBox.
    """
    from platform_assets.vision.images.decoding import MAX_PIXELS, decode_rgb

    crop = crop_of(preprocessing, box)
    image_hwc = decode_rgb(data, max_pixels=max_pixels or MAX_PIXELS, crop=crop, decoder=decoder)
    return to_pixels(image_hwc, preprocessing)


def to_pixels(image_hwc_u8: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize a decoded RGB image, antialiased, to contiguous pixels_chw uint8 of `image_size_px` squared."""
    import numpy as np

    if image_hwc_u8.ndim != 3 or image_hwc_u8.shape[2] != 3 or image_hwc_u8.dtype != np.uint8:
        raise ValueError(
            f"image of shape {image_hwc_u8.shape} and type {image_hwc_u8.dtype}: uint8 RGB [height, width, 3] is needed"
        )
    height, width, _ = image_hwc_u8.shape
    side = preprocessing.image_size_px
    size, (left, top) = (side, side), (0, 0)
    if preprocessing.resize == "shorter_side":
        size = _scaled_size(width, height, math.floor(side / preprocessing.crop_fraction))
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return resized_window(image_hwc_u8, size, (left, top, left + side, top + side), preprocessing.interpolation)


def _scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Size with the shorter side at `shorter`; the longer side is cut down to a whole pixel, as torchvision does."""
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter
