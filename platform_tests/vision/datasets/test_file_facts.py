"""What a task of files gives: a row a file in their order, whatever the files are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from platform_assets.vision.datasets.file_facts import NOT_READ, take_facts
from platform_assets.vision.images.image_facts import inspect_image
from platform_tests.vision.pictures import encoded, noise, png, write

LIMIT_PX = 1_000_000


def test_task__one_row_a_file_in_their_order(tmp_path: Path) -> None:
    jpeg = encoded(noise(1, width=200, height=150), "JPEG")
    for name, data in {"b.png": png(0), "a.jpg": jpeg, "cut.png": png(2)[:300], "empty": b""}.items():
        write(tmp_path, name, data)
    found = take_facts(tmp_path, LIMIT_PX, ["b.png", "cut.png", "gone.png", "a.jpg", "empty"])
    assert found.modes == ["RGB", None, None, "RGB", None]
    assert found.formats == ["PNG", None, None, "JPEG", None]
    assert [reason and reason[0] for reason in found.reasons] == [None, "truncated", "missing_file", None, "empty_file"]
    assert found.rows["bytes"].tolist() == [len(png(0)), 300, NOT_READ, len(jpeg), 0]
    assert found.rows["width"].tolist() == [20, 0, 0, 200, 0]
    assert found.rows["image_id"][1].tobytes() == hashlib.sha256(png(2)[:300]).digest()
    facts = inspect_image(jpeg)
    assert found.rows["phash"][3].tobytes().hex() == facts.phash
    np.testing.assert_allclose(found.rows["pixel_std"][3], facts.pixel_std, rtol=1e-6)


def test_task__nothing_readable_and_nothing_at_all(tmp_path: Path) -> None:
    assert take_facts(tmp_path, LIMIT_PX, ["gone.png"]).rows["bytes"].tolist() == [NOT_READ]
    assert len(take_facts(tmp_path, LIMIT_PX, []).rows) == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_task__a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    found = take_facts(tmp_path, LIMIT_PX, ["pipe.png", "folder.png"])
    assert found.reasons == [("not_an_image", "not a regular file")] * 2


def test_task__a_file_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    with write(tmp_path, "padded.png", png()).open("ab") as file:
        file.truncate(1 << 30)
    found = take_facts(tmp_path, LIMIT_PX, ["padded.png"])
    assert found.reasons == [("too_many_bytes", "1,073,741,824 bytes, over the limit of 9,048,576")]
    assert found.rows["bytes"].tolist() == [NOT_READ]


def test_task__a_file_whose_size_is_said_to_be_none_is_read_whole(tmp_path: Path) -> None:
    # Some file systems say 0 bytes of files that have content, as /proc does.
    place = Path("/proc/self/status")
    if not place.exists():
        pytest.skip("no file of this kind here")
    found = take_facts(place.parent, LIMIT_PX, [place.name])
    assert found.rows["bytes"][0] > 300
    assert found.modes == [None]
