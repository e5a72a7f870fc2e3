"""Decoding: the right pixels for every kind of image, the exact reason for every kind of damage."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from platform_assets.vision.images.decoding import UnreadableImage, decode_rgb
from platform_assets.vision.images.image_facts import inspect_image
from platform_tests.vision.pictures import encoded, noise, png


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def smooth(width: int = 64, height: int = 48) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes whose header claims width x height; its pixel data would end at once."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed(data: bytes, start: float, length: int) -> bytes:
    at = int(len(data) * start)
    return data[:at] + bytes(length) + data[at + length :]


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty_file"),
    "zeros": (lambda: bytes(500), "not_an_image"),
    "text": (lambda: b"GIF is a format, BMW a car maker", "not_an_image"),
    "web page saved as a picture": (lambda: b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
    "table": (lambda: b"path,label\na.png,cat\n", "not_an_image"),
    "git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not_an_image"),
    "zip": (lambda: b"PK\x03\x04" + bytes(40), "not_an_image"),
    "sound": (lambda: b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28), "not_an_image"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"),
    "pdf": (lambda: b"%PDF-1.7\n", "unsupported_format"),
    "photoshop": (lambda: b"8BPS\0\1" + bytes(40), "unsupported_format"),
    "icon": (lambda: encoded(noise().resize((16, 16)), "ICO"), "unsupported_format"),
    "jpeg 2000": (lambda: encoded(noise(), "JPEG2000"), "unsupported_format"),
    "phone's heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "unsupported_format"),
    "vector graphics": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
    "png header only": (lambda: png()[:20], "truncated"),
    "png signature and junk": (lambda: png()[:8] + b"junk" * 9, "truncated"),
    "png cut in half": (lambda: cut_in_half(png()), "truncated"),
    "png wrong checksum": (lambda: zeroed(png(), 0.5, 3), "corrupt"),
    "png without pixels": (lambda: bomb(10, 10), "truncated"),
    "jpeg start only": (lambda: b"\xff\xd8\xff\xe0", "corrupt"),
    "jpeg cut in half": (lambda: cut_in_half(encoded(smooth(), "JPEG")), "truncated"),
    "jpeg without its end": (lambda: encoded(smooth(), "JPEG")[:-2], "truncated"),
    "progressive jpeg cut in half": (lambda: cut_in_half(encoded(smooth(), "JPEG", progressive=True)), "truncated"),
    # Pillow decodes this one without a word, half of it grey.
    "jpeg zeroed inside": (lambda: zeroed(encoded(smooth(), "JPEG"), 0.8, 60), "corrupt"),
    "cmyk jpeg cut in half": (lambda: cut_in_half(encoded(smooth().convert("CMYK"), "JPEG")), "truncated"),
    "gif cut in its palette": (lambda: encoded(noise(), "GIF")[:300], "corrupt"),
    "gif cut in half": (lambda: cut_in_half(encoded(noise(width=64, height=64), "GIF")), "truncated"),
    "bmp cut in half": (lambda: cut_in_half(encoded(noise(), "BMP")), "truncated"),
    "webp cut in half": (lambda: cut_in_half(encoded(noise(), "WEBP", lossless=True)), "corrupt"),
    "tiff cut in half": (lambda: cut_in_half(encoded(noise(), "TIFF")), "truncated"),
    "float tiff": (lambda: encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "unsupported_mode"),
    "32-bit tiff": (lambda: encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), "unsupported_mode"),
    "lab tiff": (lambda: encoded(Image.new("LAB", (4, 4)), "TIFF"), "unsupported_mode"),
    "bomb over our limit": (lambda: bomb(8_000, 8_000), "too_many_pixels"),
    "bomb over pillow's limit": (lambda: bomb(60_000, 60_000), "too_many_pixels"),
}


@pytest.mark.parametrize(("damaged", "reason"), DAMAGED.values(), ids=list(DAMAGED))
def test_decode__damaged_bytes_have_their_exact_reason(damaged: Callable[[], bytes], reason: str) -> None:
    for read in (decode_rgb, inspect_image):
        with pytest.raises(UnreadableImage) as caught:
            read(damaged())
        assert caught.value.reason == reason, caught.value


def test_decode__damage_that_pillow_passes_over_is_found() -> None:
    damaged = DAMAGED["jpeg zeroed inside"][0]()
    assert (by_pillow(damaged) != by_pillow(encoded(smooth(), "JPEG"))).mean() > 0.1


def test_decode__size_is_judged_before_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png()
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="20 x 14 is over the limit of 279 pixels"):
        decode_rgb(data, max_pixels=279)


def test_decode__limit_is_inclusive() -> None:
    assert decode_rgb(png(), max_pixels=280).shape == (14, 20, 3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_decode__lossless_formats_give_the_pixels_back(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode_rgb(encoded(noise(), kind, **options)), np.asarray(noise()))


@pytest.mark.parametrize("size", [(64, 48), (37, 53), (8, 9), (1, 1)])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}]
)
def test_decode__jpeg_fast_path_is_pillow_bit_for_bit(size: tuple[int, int], options: dict[str, bool | int]) -> None:
    for image in (smooth().resize(size), noise(width=size[0], height=size[1]), smooth().resize(size).convert("L")):
        if image.mode == "L" and "keep_rgb" in options:
            continue
        data = encoded(image, "JPEG", quality=90, **options)
        np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))


def test_decode__cmyk_jpeg_is_pillows() -> None:
    data = encoded(smooth().convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(decode_rgb(data), by_pillow(data))
    assert np.abs(decode_rgb(data).astype(int) - np.asarray(smooth())).mean() < 8


def test_decode__jpeg_with_stray_bytes_is_read() -> None:
    data = encoded(smooth(), "JPEG")
    np.testing.assert_array_equal(decode_rgb(data[:-2] + b"abc" + data[-2:]), decode_rgb(data))
    np.testing.assert_array_equal(decode_rgb(data + b"trailer"), decode_rgb(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "MPO"])
def test_decode__exif_orientation_is_undone(kind: str, orientation: int) -> None:
    data = encoded(smooth(), kind, exif=oriented(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    pixels_hwc = decode_rgb(data)
    np.testing.assert_array_equal(pixels_hwc, np.asarray(expected))
    assert pixels_hwc.flags.c_contiguous
    facts = inspect_image(data)
    assert (facts.width, facts.height) == expected.size == ((48, 64) if orientation > 4 else (64, 48))


@pytest.mark.parametrize("orientation", [0, 9, 60_000])
def test_decode__orientation_that_does_not_exist_means_as_stored(orientation: int) -> None:
    np.testing.assert_array_equal(decode_rgb(encoded(noise(), exif=oriented(orientation))), np.asarray(noise()))


def test_decode__grey_palette_and_bilevel_become_rgb() -> None:
    grey = noise().convert("L")
    np.testing.assert_array_equal(decode_rgb(encoded(grey))[..., 2], np.asarray(grey))
    palette = noise().convert("P")
    np.testing.assert_array_equal(decode_rgb(encoded(palette)), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(decode_rgb(encoded(palette, "GIF")), np.asarray(palette.convert("RGB")))
    assert set(np.unique(decode_rgb(encoded(grey.convert("1"))))) == {0, 255}


def test_decode__16_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 128, 129, 257, 32_768, 65_406, 65_535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels_hwc = decode_rgb(encoded(Image.fromarray(levels), kind))
        assert pixels_hwc[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255]


def test_decode__transparency_lies_on_white() -> None:
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = [0, 128, 255]
    assert decode_rgb(encoded(Image.fromarray(pixels)))[0, :, 0].tolist() == [255, 127, 0]
    grey = Image.fromarray(pixels).convert("LA")
    assert decode_rgb(encoded(grey))[0, :, 0].tolist() == [255, 127, 0]


def test_decode__transparent_palette_colour_lies_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    for kind in ("PNG", "GIF"):
        assert decode_rgb(encoded(palette, kind, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_decode__first_frame_of_an_animation() -> None:
    frames = [noise(seed).convert("P") for seed in (0, 1)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(frames[0].convert("RGB")))


def test_inspect__facts_by_hand() -> None:
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[:, :2] = (255, 51, 0)
    facts = inspect_image(encoded(Image.fromarray(pixels)))
    assert (facts.width, facts.height, facts.mode, facts.format) == (4, 2, "RGB", "PNG")
    assert facts.pixel_mean == pytest.approx((0.5, 0.1, 0))
    assert facts.pixel_std == pytest.approx((0.5, 0.1, 0))


def test_inspect__mean_and_std_are_numpys() -> None:
    facts = inspect_image(png())
    pixels = np.asarray(noise()) / 255
    assert facts.pixel_mean == pytest.approx(pixels.mean(axis=(0, 1)))
    assert facts.pixel_std == pytest.approx(pixels.std(axis=(0, 1)))


def test_inspect__perceptual_hash_survives_another_encoding_and_tells_pictures_apart() -> None:
    blocks, others = (noise(seed, width=8, height=8).resize((96, 96)) for seed in (0, 1))
    files = encoded(blocks), encoded(blocks, "JPEG", quality=60), encoded(others)
    first, again, other = (int(inspect_image(data).phash, 16) for data in files)
    assert (first ^ again).bit_count() <= 4 < (first ^ other).bit_count()


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Half its contrast in large shapes, half in ever finer ones, as photographs have it, down to single pixels."""
    generator, total = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48, 96):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) - 128) / cells**0.8
    return Image.fromarray((128 + total / np.abs(total).max() * 127).astype(np.uint8))


REDUCED = [((127, 300), 6), ((128, 128), 1), ((201, 163), 6), ((300, 300), 3), ((513, 700), 5), ((1025, 1030), 1)]


@pytest.mark.parametrize(("size", "orientation"), REDUCED)
def test_inspect__reduced_pictures_keep_size_mean_and_hash_and_nearly_their_std(
    size: tuple[int, int], orientation: int
) -> None:
    for kind, options in (("JPEG", {"quality": 88}), ("PNG", {})):
        data = encoded(photograph(*size), kind, exif=oriented(orientation), **options)
        pixels_hwc, facts = decode_rgb(data), inspect_image(data)
        assert (facts.height, facts.width) == pixels_hwc.shape[:2]
        assert np.abs(facts.pixel_mean - (pixels_hwc / 255).mean(axis=(0, 1))).max() < 0.01
        kept = facts.pixel_std / (pixels_hwc / 255).std(axis=(0, 1))
        assert 0.9 < kept.min() <= kept.max() < 1.01
        assert bits_apart(facts.phash, str(imagehash.phash(Image.fromarray(pixels_hwc)))) <= 6


@pytest.mark.parametrize("size", [(127, 300), (20, 14)])
def test_inspect__small_pictures_are_not_reduced(size: tuple[int, int]) -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(noise(width=size[0], height=size[1]), kind)
        assert inspect_image(data).pixel_std == pytest.approx((decode_rgb(data) / 255).std(axis=(0, 1)))


@pytest.mark.parametrize("size", [(128, 200), (600, 513)])
def test_inspect__a_jpeg_is_reduced_as_a_png_is(size: tuple[int, int]) -> None:
    # By its low frequencies the one, by means of squares the other.
    picture = photograph(*size)
    jpeg, lossless = inspect_image(encoded(picture, "JPEG", quality=95)), inspect_image(encoded(picture))
    assert jpeg.pixel_mean == pytest.approx(lossless.pixel_mean, abs=0.005)
    assert jpeg.pixel_std == pytest.approx(lossless.pixel_std, rel=0.05)
    assert bits_apart(jpeg.phash, lossless.phash) <= 2
    # Of white noise a half of the picture keeps half the std, a quarter a quarter.
    for kind, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {})):
        facts = inspect_image(encoded(noise(width=size[0], height=size[1]), kind, **options))
        assert facts.pixel_std == pytest.approx([0.289 / (2 if size[0] < 512 else 4)] * 3, rel=0.1)


LARGE = [
    encoded(photograph(150, 131), "JPEG", **options)
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"exif": oriented(6)})
]


def reason_of(read: Callable[[bytes], object], data: bytes) -> tuple[str, str] | None:
    try:
        read(data)
    except UnreadableImage as unreadable:
        return unreadable.reason, unreadable.detail
    return None


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=300)
@given(
    st.sampled_from(LARGE),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    st.tuples(st.floats(0, 1), st.integers(0, 80)),
    st.floats(0, 1) | st.just(1),
)
def test_inspect__damage_has_the_same_reason_at_the_reduced_size(
    data: bytes, changes: list[tuple[float, int]], zeros: tuple[float, int], cut: float
) -> None:
    mutated = bytearray(zeroed(data, *zeros))
    for where, value in changes:
        mutated[int(where * (len(mutated) - 1))] = value
    damaged = bytes(mutated[: int(cut * len(mutated))])
    assert reason_of(inspect_image, damaged) == reason_of(decode_rgb, damaged)


KINDS = [
    encoded(noise(), "JPEG", exif=oriented(6)),
    encoded(noise(), "JPEG", progressive=True),
    encoded(noise().convert("CMYK"), "JPEG"),
    encoded(noise(), "PNG", exif=oriented(3)),
    encoded(noise().convert("P"), "PNG"),
    encoded(noise().convert("P"), "GIF", transparency=3),
    encoded(noise(), "BMP"),
    encoded(noise(), "TIFF", exif=oriented(8)),
    encoded(noise(), "WEBP", exif=oriented(5)),
]


@pytest.mark.parametrize("data", KINDS)
def test_inspect__facts_are_those_of_the_decoded_pixels(data: bytes) -> None:
    # Facts are taken from four-byte pixels as stored, and turned later.
    pixels_hwc, facts = decode_rgb(data), inspect_image(data)
    assert (facts.height, facts.width) == pixels_hwc.shape[:2]
    assert bits_apart(facts.phash, str(imagehash.phash(Image.fromarray(pixels_hwc)))) <= 6
    assert facts.pixel_mean == pytest.approx((pixels_hwc / 255).mean(axis=(0, 1)))
    assert facts.pixel_std == pytest.approx((pixels_hwc / 255).std(axis=(0, 1)))


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=400)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), min_size=1, max_size=8),
    st.floats(0, 1) | st.none(),
)
def test_decode__mutated_files_give_pixels_or_a_reason(
    data: bytes, changes: list[tuple[float, int, bool]], cut: float | None
) -> None:
    mutated = bytearray(data)
    for where, value, in_header in changes:
        # Half of the changes hit the first 64 bytes, where headers are.
        mutated[int(where * (min(len(mutated), 64) - 1 if in_header else len(mutated) - 1))] = value
    end = len(mutated) if cut is None else int(cut * len(mutated))
    try:
        pixels_hwc = decode_rgb(bytes(mutated[:end]), max_pixels=1_000_000)
    except UnreadableImage:
        return
    assert pixels_hwc.dtype == np.uint8
    assert pixels_hwc.ndim == 3
    assert pixels_hwc.shape[2] == 3


@given(st.binary(max_size=200))
def test_decode__any_bytes_give_a_reason(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        decode_rgb(data)
