"""One pass over files: the same answer in any number of threads, in bounded memory, and stopped at once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from platform_assets.vision.datasets import file_facts, inspection
from platform_assets.vision.datasets.inspection import FACTS_SCHEMA, in_threads, inspect_files
from platform_tests.vision.pictures import png, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(40):
        write(tmp_path, f"{seed:02}.png", png(seed % 30) if seed % 4 else png(seed)[:300])
    return tmp_path


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_inspect__same_answer_in_any_number_of_threads(folder: Path) -> None:
    alone = inspect_files(folder, names(folder), threads=1)
    together = inspect_files(folder, sorted(names(folder), reverse=True), threads=8)
    assert_frame_equal(alone.files, together.files)
    assert_frame_equal(alone.facts, together.facts)
    assert alone.files["path"].is_sorted()
    assert alone.files_read == 40


def test_inspect__a_row_a_file_and_facts_once_a_content(folder: Path) -> None:
    found = inspect_files(folder, [*names(folder), "00.png", "gone.png"])
    assert found.files.height == found.files_read == 41
    assert found.facts.schema == FACTS_SCHEMA
    contents = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found.facts["image_id"].to_list() == sorted(contents)
    by_path = {
        path: (image_id, reason) for path, image_id, reason in found.files.select("path", "image_id", "reason").rows()
    }
    assert by_path["gone.png"] == (None, "missing_file")
    assert by_path["00.png"] == (hashlib.sha256(png(0)[:300]).hexdigest(), "truncated")
    assert by_path["01.png"] == (hashlib.sha256(png(1)).hexdigest(), None)


def test_inspect__packs_of_any_size_give_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 40 files in tasks of 16: packs of one task, of two and of all.
    found = []
    for files in (1, 17, 1000):
        monkeypatch.setattr(inspection, "_FILES_PER_PACK", files)
        found.append(inspect_files(folder, names(folder), threads=2))
    for other in found[1:]:
        assert_frame_equal(other.files, found[0].files)
        assert_frame_equal(other.facts, found[0].facts)


def test_inspect__of_nothing(tmp_path: Path) -> None:
    found = inspect_files(tmp_path, [])
    assert (found.files.height, found.facts.height, found.files_read) == (0, 0, 0)


def test_inspect__unexpected_error_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(data: bytes, **_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(file_facts, "inspect_image", break_down)
    with pytest.raises(KeyError) as caught:
        inspect_files(folder, ["01.png"])
    assert caught.value.__notes__ == [f"while reading {folder / '01.png'}"]


def test_inspect__interrupt_drops_the_files_that_wait(folder: Path) -> None:
    # A pool left by an exception works its whole queue off first: Ctrl-C took as long as the scan.
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        inspect_files(folder, names(folder), threads=2, on_progress=interrupt)
    assert caught.tb is not None  # as long as it lives, it holds the generator that feeds the pool
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_in_threads__takes_few_items_ahead_and_drops_them_when_closed() -> None:
    taken, worked = [], []

    def items() -> Iterator[int]:
        for number in range(100_000):
            taken.append(number)
            yield number

    results = in_threads(lambda number: (worked.append(number), number)[1], items(), threads=2)
    assert [next(results) for _ in range(50)] == list(range(50))
    assert len(taken) < 300
    results.close()
    assert len(worked) <= len(taken) < 300


def test_in_threads__closing_stops_in_the_middle_of_a_task() -> None:
    worked: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.02)
        worked.append(number)
        return number

    results = in_threads(work, range(64), threads=1)
    next(results)
    results.close()
    assert 16 <= len(worked) < 24


def test_in_threads__an_error_of_the_work_is_raised_and_ends_the_threads() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (number - 20), range(1000), threads=2))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_progress__known_files_count_as_done_at_once(folder: Path) -> None:
    from platform_assets.vision.datasets.scanning import hash_files

    paths = names(folder)
    facts = inspect_files(folder, paths).facts.filter(pl.col("reason").is_null())
    known = inspection.Known(hashes=hash_files(folder, paths), facts=facts, code="")
    seen: list[tuple[int, int]] = []
    inspect_files(folder, paths, known=known, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 40) for done in range(30, 41)]
