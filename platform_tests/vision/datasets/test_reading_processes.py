"""Reading in processes: the same answer as in threads, nothing heavy loaded, and every end is a clean one that names its file."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from polars.testing import assert_frame_equal

from platform_assets.vision.datasets import inspection, reading_processes
from platform_assets.vision.datasets.file_facts import take_facts
from platform_assets.vision.datasets.inspection import inspect_files
from platform_assets.vision.datasets.reading_processes import CrashedReader, ReadingProcesses
from platform_tests.vision.pictures import png, write

LIMIT_PX = 50_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(40):
        write(tmp_path, f"{seed:02}.png", png(seed % 30) if seed % 4 else png(seed)[:300])
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Two processes for every scan, and which they were."""
    found: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            found.append(self)

    monkeypatch.setattr(reading_processes.subprocess, "Popen", Noted)
    for name, files in {"_PROCESSES_FROM": 1, "_FILES_PER_PROCESS": 20, "_FILES_PER_PROCESS_TASK": 6}.items():
        monkeypatch.setattr(inspection, name, files)
    return found


def test_processes__same_answer_as_threads(folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    paths = [*(path.name for path in folder.iterdir()), "gone.png"]
    threads = threading.active_count()
    seen: list[tuple[int, int]] = []
    apart = inspect_files(folder, paths, threads=2, on_progress=lambda done, total: seen.append((done, total)))
    alone = inspect_files(folder, paths, threads=1)
    assert len(started) == 2
    assert_frame_equal(apart.files, alone.files)
    assert_frame_equal(apart.facts, alone.facts)
    assert apart.files.filter(pl.col("reason").is_null()).height == 30
    assert seen == [(done, 41) for done in range(1, 42)]
    assert threading.active_count() == threads
    assert all(process.poll() is not None for process in started)


def test_processes__interrupt_ends_them(folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        inspect_files(folder, [path.name for path in folder.iterdir()], threads=2, on_progress=interrupt)
    assert caught.tb is not None
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_processes__interrupt_does_not_wait_for_the_tasks_in_work(
    folder: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = folder / "large_0.png"
    Image.new("RGB", (4000, 4000)).save(large, compress_level=1)
    for number in range(1, 160):
        (folder / f"large_{number}.png").hardlink_to(large)

    asked = list[float]()

    def interrupt(done: int, total: int) -> None:
        asked.append(time.monotonic())
        raise KeyboardInterrupt

    # 40 small files, and 160 of a tenth of a second and more in four tasks.
    monkeypatch.setattr(inspection, "_FILES_PER_PROCESS_TASK", 40)
    with pytest.raises(KeyboardInterrupt):
        inspect_files(folder, [path.name for path in folder.iterdir()], threads=2, on_progress=interrupt)
    assert time.monotonic() - asked[0] < 4
    assert all(process.poll() == -signal.SIGKILL for process in started)


def test_processes__work_from_another_thread(folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    # As in a step of a graph.
    found: list[inspection.Inspection] = []
    paths = [path.name for path in folder.iterdir()]
    thread = threading.Thread(target=lambda: found.append(inspect_files(folder, paths, threads=2)))
    thread.start()
    thread.join()
    assert (found[0].files_read, len(started)) == (40, 2)


def test_processes__one_that_died_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, "0.png", png())
    Image.new("RGB", (4000, 4000)).save(tmp_path / "1.png", compress_level=1)
    with ReadingProcesses(tmp_path, LIMIT_PX, 1) as processes:
        reader = processes._all[0]

        def kill() -> None:
            while not reader._at[0]:
                time.sleep(0.001)
            reader.process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(CrashedReader, match=rf"1\.png: the process .* signal {signal.SIGKILL:d}; move"):
            processes.take_facts(["0.png", *["1.png"] * 9])
        killer.join()
        # It stays dead, and its next task starts with another file.
        with pytest.raises(CrashedReader, match=r"0\.png: the process that read it ended with signal"):
            processes.take_facts(["0.png"])


def test_processes__one_that_breaks_down_says_why(folder: Path) -> None:
    with (
        ReadingProcesses(folder, "many", 1) as processes,  # type: ignore[arg-type]
        pytest.raises(CrashedReader, match=r"(?s)01\.png: .* ended with code 1; .*ValueError: invalid literal"),
    ):
        processes.take_facts(["01.png"])


def test_processes__a_relative_root_is_that_of_the_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with ReadingProcesses(Path(folder.name), LIMIT_PX, 1) as processes:
        assert (
            processes.take_facts(["01.png", "00.png"]).reasons
            == take_facts(folder, LIMIT_PX, ["01.png", "00.png"]).reasons
        )


def test_processes__end_when_whoever_started_them_is_gone(folder: Path) -> None:
    with ReadingProcesses(folder, LIMIT_PX, 2) as processes:
        processes.take_facts(["01.png"])
        for reader in processes._all:
            assert reader.process.stdin is not None
            reader.process.stdin.close()  # what the kernel does when the other end dies
            assert reader.process.wait(20) == 0
            reader.process.stdin = None


def test_processes__load_neither_torch_nor_frames() -> None:
    code = (
        "import sys, cv2, platform_assets.vision.datasets.reading_processes as _; "
        "print(sorted({'torch', 'polars', 'dagster', 'scipy', 'pydantic', 'mlflow'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
