"""Bytes of an image file to RGB pixels, or the exact reason why not."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (
    Image,
    MpoImagePlugin,  # noqa: F401 - the three are asked for by being imported
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from platform_assets.vision.images.jpeg_headers import plain_jpeg

if TYPE_CHECKING:
    from platform_assets.vision.images.cropping import BoxCrop

MAX_PIXELS = 50_000_000

Decoder = Literal["libjpeg-turbo", "Pillow"]
DECODERS: tuple[Decoder, ...] = ("libjpeg-turbo", "Pillow")
"""Who makes pixels of a plain JPEG: the same ones, bit for bit. The first also tells most damage to them."""

RejectReason = Literal[
    "empty_file",
    "truncated",
    "corrupt",
    "not_an_image",
    "too_many_bytes",
    "too_many_pixels",
    "unsupported_mode",
    "unsupported_format",
    "unknown_label",
    "missing_label",
    "missing_file",
    "unreadable_file",
    "malformed_row",
    "outside_root",
    "duplicate_path",
    "duplicate_bytes",
    "conflicting_labels",
]
"""Why a file or a row of a table was not taken in. The first eight are said of bytes, by this module."""

# A camera's MPO opens as JPEG. EPS is Postscript, run by an outside program: never.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")

_OWN_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP", re.DOTALL
)
_OTHER_SIGNATURES = {
    **{b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"%PDF": "PDF", b"8BPS": "PSD", b"\0\0\1\0": "ICO", b"DDS ": "DDS"},
    **{b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"<svg": "SVG"},
    **{b"qoif": "QOI", b"SIMPLE  =": "FITS"},
}

# 2026-11: a million mutated files made Pillow raise the first four; the others are what its C and zlib parts may say.
# Anything else is a bug to look at.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
    OverflowError,
    MemoryError,
)

ON_ITS_SIDE = (5, 6, 7, 8)
TURNED = (2, 3, 4, *ON_ITS_SIDE)
# Facts are taken of the picture at half its sides from this length of the shorter one on; see image_facts.py.
_HALF_FROM_PX = 128
_SCAN, _COMMON_HEADER_BYTES = b"\xff\xda", 2048

# Pillow warns at 89 megapixels; the limit here is `max_pixels`, and it refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings(
    "ignore", message="Corrupt EXIF data"
)  # said of a user's file, once a process; the picture counts
# All of _FORMATS, before threads ask for them; `Image.init` takes four times as long, and every worker process pays it.
Image.preinit()


class UnreadableImage(ValueError):
    """An image file that cannot be used as it is; `reason` says why."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RejectReason = reason
        self.detail = detail


def decode_rgb(
    data: bytes, *, max_pixels: int = MAX_PIXELS, crop: BoxCrop | None = None, decoder: Decoder = "libjpeg-turbo"
) -> NDArray[np.uint8]:
    """The first picture of the file, or its crop, as RGB [height, width, 3], upright by its EXIF orientation.

    Grey and palette become RGB, transparency lies on white, 16-bit grey is scaled to 8 (16-bit colour keeps its high
    byte). The real format counts, not a file name. The size is read and judged before pixels are decoded.
    Raises UnreadableImage, and BadBox when the crop misses the picture.
    """
    decoded = decode(data, max_pixels, reduced=False, decoder=decoder)
    pixels_hwc = np.asarray(decoded.pixels)
    if crop is not None:
        # Before the picture is turned: boxes are in pixels of the file as stored.
        pixels_hwc = pixels_hwc[crop.window(pixels_hwc.shape[1], pixels_hwc.shape[0])]
    return upright(pixels_hwc, decoded.orientation)


class Decoded(NamedTuple):
    """Pixels as stored, not yet upright: libjpeg-turbo's array, or Pillow's picture. `size` (width, height) is the file's."""

    pixels: NDArray[np.uint8] | Image.Image
    size: tuple[int, int]
    mode: str
    format: str
    orientation: object


def decode(data: bytes, max_pixels: int, *, reduced: bool, decoder: Decoder = "libjpeg-turbo") -> Decoded:
    """As it is stored, or the `reduced` picture that facts are taken of. Raises UnreadableImage."""
    if not data:
        raise UnreadableImage("empty_file", "0 bytes")
    turbo = decoder == "libjpeg-turbo"
    if turbo and (decoded := _decode_plain_jpeg(data, max_pixels, reduced=reduced)) is not None:
        return decoded
    try:
        with _open(data) as image:
            mode, kind = image.mode, image.format or ""
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImage(
                    "too_many_pixels", f"{width} x {height} is over the limit of {max_pixels:,} pixels"
                )
            pixels: NDArray[np.uint8] | Image.Image | None = None
            if turbo and kind in ("JPEG", "MPO"):
                pixels = _jpeg_pixels(data, image, reduced=reduced)
            if pixels is None:
                pixels = _as_rgb(image)
                if reduced and (factor := _reduction(width, height)) > 1:
                    pixels = pixels.reduce(factor)
            return Decoded(pixels, (width, height), mode, kind, image.getexif().get(0x0112, 1))
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too_many_pixels", str(error)) from error
    except _PILLOW_ERRORS as error:
        cut_off = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise UnreadableImage("truncated" if cut_off else "corrupt", str(error) or repr(error)) from error


def _decode_plain_jpeg(data: bytes, max_pixels: int, *, reduced: bool) -> Decoded | None:
    """As by Pillow's header and libjpeg-turbo's pixels, or None: whatever is odd goes the longer way to its reason."""
    # Most of a set's JPEGs begin alike, and looking for the end of that takes an eighth of the time of reading it.
    end = data.find(_SCAN, 0, _COMMON_HEADER_BYTES)
    header = (_plain_header(data[: end + 4]) if end > 0 else None) or plain_jpeg(data)
    if header is None:
        return None
    width, height, mode = header
    if width * height > min(max_pixels, MAX_PIXELS):
        return None
    try:
        return Decoded(_turbo_pixels(data, width, height, reduced=reduced), (width, height), mode, "JPEG", 1)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _plain_header(header: bytes) -> tuple[int, int, Literal["L", "RGB"]] | None:
    return plain_jpeg(header)


def _turbo_pixels(data: bytes, width: int, height: int, *, reduced: bool) -> NDArray[np.uint8]:
    """RGB, or four bytes a pixel of the reduced picture: those are the faster to sum up. Raises ValueError for damage."""
    if not reduced:
        full_hwc: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
        return full_hwc
    factor = _reduction(width, height)
    least = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
    reduced_hwc: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGBX", strict=True, **least)
    return reduced_hwc


def _reduction(width: int, height: int) -> int:
    shorter = min(width, height)
    if shorter < _HALF_FROM_PX:
        return 1
    return 2 if shorter < 4 * _HALF_FROM_PX else 4 if shorter < 8 * _HALF_FROM_PX else 8


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        if _OWN_SIGNATURES.match(data):
            raise UnreadableImage("corrupt", f"starts as an image ({data[:4]!r}), its header cannot be read") from error
        other = next((name for start, name in _OTHER_SIGNATURES.items() if data.startswith(start)), None)
        if other is None and data[4:8] == b"ftyp":
            other = "HEIF or AVIF"
        if other is not None:
            raise UnreadableImage(
                "unsupported_format", f"{other}; convert it to one of {', '.join(_FORMATS)}"
            ) from error
        raise UnreadableImage("not_an_image", f"starts with {data[:8]!r}") from error


def _jpeg_pixels(data: bytes, image: Image.Image, *, reduced: bool) -> NDArray[np.uint8] | None:
    """Pixels by libjpeg-turbo directly, or None where Pillow shall decide.

    2026-11: the same pixels as Pillow's, bit for bit (grey, RGB, YCbCr, progressive, every subsampling), 1.3 times as
    fast; CMYK differs. It also reports most damage to the entropy data, which Pillow decodes to garbage without a word.
    """
    if image.mode not in ("RGB", "L"):
        return None
    try:
        return _turbo_pixels(data, *image.size, reduced=reduced)
    except ValueError as error:
        if "Corrupt JPEG data" in str(error) and "extraneous bytes" not in str(error):
            raise UnreadableImage("corrupt", str(error)) from error
        return None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImage(
            "unsupported_mode", f"pixels of mode {image.mode} have no agreed range; convert them to 8 or 16 bits"
        )
    image.load()
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def upright(pixels: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Undoes the EXIF orientation (tag 0x0112, values 2 to 8) of [height, width, ...]; any other means as stored."""
    if orientation in ON_ITS_SIDE:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
