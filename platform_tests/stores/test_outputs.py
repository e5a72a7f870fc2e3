"""Run folders: published whole, added to without loss, and never taken for finished when they are not."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from platform_assets.stores.manifests import (
    MANIFEST_NAME,
    BadOutputName,
    DamagedOutput,
    IncompleteOutput,
    OutputConflict,
    later_name,
)
from platform_assets.stores.outputs import OutputFolder, Outputs

WEIGHTS = b"weights of a small net"
IDS = {"run_id": "run-1", "config_hash": "c" * 64, "checkpoint_id": hashlib.sha256(WEIGHTS).hexdigest()[:16]}


@pytest.fixture(params=["local", "memory"])
def outputs(request: pytest.FixtureRequest, tmp_path: Path) -> Outputs:
    url = str(tmp_path / "outputs") if request.param == "local" else f"memory://{uuid.uuid4().hex}/outputs"
    return Outputs(url, tmp_path / "scratch")


def local_outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "outputs", tmp_path / "scratch")


def fill(outputs: Outputs) -> Path:
    work = outputs.working("elpv/binary/checkpoint", "probe__s0", IDS["config_hash"], "v1")
    (work / "ckpt.safetensors").write_bytes(WEIGHTS)
    (work / "config.json").write_text("{}")
    (work / "tb").mkdir(exist_ok=True)
    (work / "tb" / "events").write_bytes(b"\x00\x01")
    (work / "_training").mkdir(exist_ok=True)
    (work / "_training" / "last.pt").write_bytes(b"optimizer")
    return work


def publish(outputs: Outputs) -> OutputFolder:
    return outputs.publish(fill(outputs), **IDS)


def test_working__same_trial_finds_the_same_folder_whatever_the_run(outputs: Outputs) -> None:
    assert fill(outputs) == fill(outputs)
    assert (fill(outputs) / "_training" / "last.pt").read_bytes() == b"optimizer"


def test_working__other_data_version_is_another_folder(outputs: Outputs) -> None:
    assert outputs.working("a", "t", "c", "v1") != outputs.working("a", "t", "c", "v2")


@pytest.mark.parametrize("part", ["..", "", ".", "a/b", "_working", "a b", "a\\b", "a|b"])
def test_working__part_that_leaves_its_folder_is_refused(outputs: Outputs, part: str) -> None:
    with pytest.raises(BadOutputName, match="letters, digits"):
        outputs.working("a", part, "c", "v1")


def test_publish__folder_is_complete_and_verifies(outputs: Outputs) -> None:
    folder = publish(outputs)
    assert folder.is_complete
    assert folder.verify() == []
    assert set(folder.manifest().files) == {"ckpt.safetensors", "config.json", "tb/events"}
    assert folder.path("tb/events").read_bytes() == b"\x00\x01"
    assert folder.url.endswith("/".join(IDS.values()))


def test_publish__manifest_holds_size_and_sha256(outputs: Outputs) -> None:
    facts = publish(outputs).manifest().files["ckpt.safetensors"]
    assert (facts.bytes, facts.sha256) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())


def test_publish__working_folder_is_gone(outputs: Outputs) -> None:
    work = fill(outputs)
    outputs.publish(work, **IDS)
    assert not work.exists()


def test_publish__second_time_with_same_weights_keeps_the_folder_and_what_was_added(outputs: Outputs) -> None:
    publish(outputs).add("metrics.json", b"{}")
    work = fill(outputs)
    (work / "history.parquet").write_bytes(b"other seconds per epoch")
    folder = outputs.publish(work, **IDS)
    assert set(folder.manifest().files) == {"ckpt.safetensors", "config.json", "tb/events", "metrics.json"}
    assert folder.verify() == []
    assert not work.exists()


def test_publish__weights_that_are_not_the_checkpoint_id_are_refused(outputs: Outputs) -> None:
    work = fill(outputs)
    (work / "ckpt.safetensors").write_bytes(b"other")
    with pytest.raises(OutputConflict, match=f"checkpoint id '{IDS['checkpoint_id']}'"):
        outputs.publish(work, **IDS)
    (work / "ckpt.safetensors").unlink()
    with pytest.raises(OutputConflict, match="no such file"):
        outputs.publish(work, **IDS)


def test_publish__folder_from_elsewhere_is_refused(outputs: Outputs, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BadOutputName, match=r"Outputs\.working"):
        outputs.publish(tmp_path / "mine", **IDS)


def test_publish__symbolic_link_is_refused(outputs: Outputs) -> None:
    work = fill(outputs)
    (work / "leak").symlink_to("/etc/hostname")
    with pytest.raises(BadOutputName, match="symbolic link"):
        outputs.publish(work, **IDS)


def test_publish__local_folder_without_manifest_is_not_overwritten(tmp_path: Path) -> None:
    outputs = local_outputs(tmp_path)
    place = Path(publish(outputs).url)
    (place / MANIFEST_NAME).unlink()
    with pytest.raises(OutputConflict, match="move it away"):
        publish(outputs)


def test_add__file_is_listed_and_read_back(outputs: Outputs, tmp_path: Path) -> None:
    folder = publish(outputs)
    (tmp_path / "predictions").write_bytes(b"PAR1")
    folder.add("predictions.parquet", tmp_path / "predictions")
    folder.add("exports/report.json", b"[1]")
    assert folder.path("predictions.parquet").read_bytes() == b"PAR1"
    assert folder.path("exports/report.json").read_bytes() == b"[1]"
    assert folder.verify() == []


def test_add__replaces_an_older_file(outputs: Outputs) -> None:
    folder = publish(outputs)
    folder.add("metrics.json", b"old")
    assert folder.path("metrics.json").read_bytes() == b"old"
    folder.add("metrics.json", b"newer")
    assert folder.path("metrics.json").read_bytes() == b"newer"
    assert folder.verify() == []


def test_add_tree__replaces_the_whole_tree_and_nothing_beside_it(outputs: Outputs, tmp_path: Path) -> None:
    folder = publish(outputs)
    folder.add("exports.json", b"beside")
    first, second = tmp_path / "first", tmp_path / "second"
    for tree, names in ((first, ["model.onnx", "deep/a"]), (second, ["model.onnx", "b"])):
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(f"{tree.name} {name}")
    folder.add_tree("exports", first)
    folder.add_tree("exports", second)
    listed = {name for name in folder.manifest().files if name.startswith("exports")}
    assert listed == {"exports.json", "exports/model.onnx", "exports/b"}
    assert folder.path("exports/model.onnx").read_text() == "second model.onnx"
    assert folder.verify() == []


def test_add__unfinished_folder_is_refused(outputs: Outputs) -> None:
    with pytest.raises(IncompleteOutput, match=r"no MANIFEST\.json"):
        outputs.folder(**IDS).add("metrics.json", b"{}")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "", "a//b", "./a", "a\\b", ".hidden", "_x", "a\n", "a/"])
def test_add__name_outside_of_the_folder_is_refused(outputs: Outputs, name: str) -> None:
    with pytest.raises(BadOutputName, match="not a relative POSIX name"):
        publish(outputs).add(name, b"")


def test_add_tree__empty_tree_outside_of_the_folder_removes_nothing(tmp_path: Path) -> None:
    outputs = local_outputs(tmp_path)
    folder = publish(outputs)
    (tmp_path / "empty").mkdir()
    kept = Path(folder.root).parent / "kept.txt"
    kept.write_text("not ours")
    with pytest.raises(BadOutputName):
        folder.add_tree("../kept.txt", tmp_path / "empty")
    assert kept.read_text() == "not ours"


@pytest.mark.parametrize("name", ["../../leak", "/etc/hostname"])
def test_path__manifest_that_lists_a_name_outside_is_damaged(outputs: Outputs, name: str) -> None:
    folder = publish(outputs)
    text = folder.manifest().to_json().replace("config.json", name)
    outputs.fs.pipe_file(f"{folder.root}/{MANIFEST_NAME}", text.encode())
    with pytest.raises(DamagedOutput, match="not a relative POSIX name"):
        folder.path(name)


@pytest.mark.parametrize("name", ["ckpt.safetensors", MANIFEST_NAME])
def test_add__weights_and_manifest_are_refused(outputs: Outputs, name: str) -> None:
    with pytest.raises(BadOutputName, match="written once by publish"):
        publish(outputs).add(name, b"")


@given(st.text(alphabet="ab./\\_ \n", max_size=8))
def test_later_name__accepted_name_stays_inside(name: str) -> None:
    try:
        accepted = later_name(name)
    except BadOutputName:
        return
    inside = os.path.normpath(f"/folder/{accepted}")
    assert inside == f"/folder/{name}"


def test_path__unlisted_file_is_refused(tmp_path: Path) -> None:
    folder = publish(local_outputs(tmp_path))
    Path(folder.url, "stray.json").write_text("{}")
    with pytest.raises(IncompleteOutput, match=r"'stray\.json' is not in MANIFEST"):
        folder.path("stray.json")


def test_path__remote_file_with_other_bytes_is_refused(tmp_path: Path) -> None:
    outputs = Outputs(f"memory://{uuid.uuid4().hex}", tmp_path)
    folder = publish(outputs)
    outputs.fs.pipe_file(f"{folder.root}/config.json", b"{1}")
    with pytest.raises(DamagedOutput, match=r"config\.json does not have the bytes"):
        folder.path("config.json")


def test_path__downloaded_copy_that_was_changed_is_fetched_again(tmp_path: Path) -> None:
    folder = publish(Outputs(f"memory://{uuid.uuid4().hex}", tmp_path))
    folder.path("config.json").write_text("changed")
    assert folder.path("config.json").read_text() == "{}"


def test_local_folder__holds_the_named_files_side_by_side(outputs: Outputs) -> None:
    local = publish(outputs).local_folder("ckpt.safetensors", "config.json")
    assert (local / "ckpt.safetensors").read_bytes() == WEIGHTS
    assert (local / "config.json").read_text() == "{}"


def test_at__finds_the_folder_by_its_url(outputs: Outputs) -> None:
    folder = publish(outputs)
    assert outputs.at(folder.url) == folder
    assert outputs.at(folder.url).verify() == []


@pytest.mark.parametrize("tail", ["", "/run-1", "/run-1/c/../x", "/a/b/c/d", "x/run-1/c/d"])
def test_at__url_elsewhere_is_refused(outputs: Outputs, tail: str) -> None:
    with pytest.raises(BadOutputName):
        outputs.at(f"{outputs.root}{tail}")


def test_verify__names_every_kind_of_damage(outputs: Outputs) -> None:
    folder = publish(outputs)
    fs, root = outputs.fs, folder.root
    fs.pipe_file(f"{root}/stray", b"?")
    fs.pipe_file(f"{root}/ckpt.safetensors", WEIGHTS[:-1] + b"T")
    fs.rm_file(f"{root}/config.json")
    missing, changed, unlisted = folder.verify()
    assert missing.endswith("config.json is missing")
    assert "ckpt.safetensors has changed" in changed
    assert unlisted.endswith("stray is not listed in MANIFEST.json")


def test_verify__manifest_missing_unreadable_or_of_another_folder(outputs: Outputs) -> None:
    folder = publish(outputs)
    manifest = f"{folder.root}/{MANIFEST_NAME}"
    text = outputs.fs.cat_file(manifest)
    outputs.fs.pipe_file(manifest, text.replace(b"run-1", b"run-2"))
    assert "another folder" in folder.verify()[0]
    outputs.fs.pipe_file(manifest, text[:-20])
    assert "restore it" in folder.verify()[0]
    assert not folder.is_complete
    outputs.fs.rm_file(manifest)
    assert "no MANIFEST.json" in folder.verify()[0]
    assert not folder.is_complete


# The same two adders in two processes, many times: without the lock one of them overwrites the other's manifest.
def _add_many(outputs: Outputs, who: str) -> None:
    for index in range(20):
        outputs.folder(**IDS).add(f"{who}/{index}", who.encode())


def test_add__two_processes_lose_nothing_and_a_reader_always_sees_a_whole_manifest(tmp_path: Path) -> None:
    outputs = local_outputs(tmp_path)
    folder = publish(outputs)
    context = multiprocessing.get_context("fork")
    adders = [context.Process(target=_add_many, args=(outputs, who)) for who in ("predictions", "metrics")]
    for adder in adders:
        adder.start()
    while any(adder.is_alive() for adder in adders):
        assert folder.manifest().files.keys() >= {"ckpt.safetensors", "config.json", "tb/events"}
    for adder in adders:
        adder.join()
    assert [adder.exitcode for adder in adders] == [0, 0]
    assert len(folder.manifest().files) == 3 + 40
    assert folder.verify() == []


WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def _dies_at_write(number: int, act: Callable[[], object]) -> bool:
    """Runs `act` in a forked process, killed just before its n-th change of the disk; False when it got through."""
    child = os.fork()
    if child == 0:
        seen = 0

        def kill_at_write(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            seen += bool(writes)
            if writes and seen > number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_at_write)
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_publish__killed_at_each_step_leaves_nothing_finished_and_the_next_run_succeeds(tmp_path: Path) -> None:
    for number in range(100):
        outputs = local_outputs(tmp_path / str(number))
        work = fill(outputs)
        killed = _dies_at_write(number, lambda work=work, outputs=outputs: outputs.publish(work, **IDS))  # type: ignore[misc]
        folder = outputs.folder(**IDS)
        assert not Path(folder.root).exists() or folder.verify() == []
        assert publish(outputs).verify() == []
        if not killed:
            break
    assert 6 <= number < 99


def test_add__killed_at_each_step_never_lists_wrong_bytes_and_the_next_add_heals(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "a").write_text("new a")
    (source / "c").write_text("new c")
    for number in range(100):
        folder = publish(local_outputs(tmp_path / str(number)))
        for name in ("a", "b"):
            folder.add(f"exports/{name}", f"old {name}".encode())
        killed = _dies_at_write(number, lambda folder=folder: folder.add_tree("exports", source))  # type: ignore[misc]
        assert not [problem for problem in folder.verify() if "not listed" not in problem]
        folder.add_tree("exports", source)
        assert folder.verify() == []
        assert folder.path("exports/a").read_text() == "new a"
        if not killed:
            break
    assert 10 <= number < 99


class FlakyFileSystem(MemoryFileSystem):
    """A remote store whose connection breaks after some uploads."""

    protocol = "flaky"
    uploads_left = 0

    def put_file(self, *args: Any, **kwargs: Any) -> None:
        if FlakyFileSystem.uploads_left == 0:
            raise ConnectionError("connection reset")
        FlakyFileSystem.uploads_left -= 1
        super().put_file(*args, **kwargs)


def test_publish__remote_upload_cut_off_is_not_finished_and_the_next_run_succeeds(tmp_path: Path) -> None:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    for uploads in range(4):
        outputs = Outputs(f"flaky://{uuid.uuid4().hex}", tmp_path)
        work = fill(outputs)
        FlakyFileSystem.uploads_left = uploads
        with pytest.raises(ConnectionError):
            outputs.publish(work, **IDS)
        assert not outputs.folder(**IDS).is_complete
        FlakyFileSystem.uploads_left = -1
        assert outputs.publish(work, **IDS).verify() == []
