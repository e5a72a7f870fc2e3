"""Sets that torchvision itself reads from files in their published layout, made here; nothing is fetched."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from platform_assets.stores.torchvision_sets import written_set
from platform_assets.vision.datasets.sources import BadSource, Candidates, MissingSource, source_files
from platform_assets.vision.formats.torchvision_set import SET_MANIFEST, TorchvisionSource
from platform_tests.vision.pictures import encoded, noise, write

CIFAR_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def spec(name: str, **more: Any) -> TorchvisionSource:
    return TorchvisionSource(kind="torchvision", name=name, **more)


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """The IDX format of unsigned bytes (LeCun)."""
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_mnist(root: Path, name: str = "MNIST", *, labels: tuple[int, ...] = (7, 0, 7)) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    for part, order in {"train": 1, "t10k": -1}.items():
        write(root, f"{name}/raw/{part}-images-idx3-ubyte", idx(pixels[::order]))
        write(root, f"{name}/raw/{part}-labels-idx1-ubyte", idx(np.array(labels, dtype=np.uint8)[::order]))
    return pixels


def make_cifar(root: Path, payload: object = None) -> dict[str, str]:
    """CIFAR-10 in its "python version": pickles. Gives the MD5 of each file."""
    folder = root / "cifar-10-batches-py"
    for number, name in enumerate(CIFAR_FILES):
        pixels = np.random.default_rng(number).integers(0, 256, (2, 3072), dtype=np.uint8)
        write(folder, name, pickle.dumps(payload or {"data": pixels, "labels": [number, 9]}))
    write(folder, "batches.meta", pickle.dumps({"label_names": [f"class {number}" for number in range(10)]}))
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def rows(found: Candidates) -> list[tuple[Any, ...]]:
    return found.rows.select("path", "label", "split").rows()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Where torchvision looks for the sets' own files."""
    return tmp_path / "torchvision" / "_files"


def test_mnist__pixels_parts_and_own_class_order(tmp_path: Path, files: Path) -> None:
    pixels = make_mnist(files)
    seen: list[tuple[int, int]] = []
    root = written_set(spec("MNIST"), tmp_path, lambda *done: seen.append(done))
    found = spec("MNIST").read(root)
    assert root == tmp_path / "torchvision" / "MNIST"
    assert rows(found) == [
        ("test/0000_0_-_zero/000001.png", "0 - zero", "test"),
        ("test/0007_7_-_seven/000000.png", "7 - seven", "test"),
        ("test/0007_7_-_seven/000002.png", "7 - seven", "test"),
        ("train/0000_0_-_zero/000001.png", "0 - zero", "train"),
        ("train/0007_7_-_seven/000000.png", "7 - seven", "train"),
        ("train/0007_7_-_seven/000002.png", "7 - seven", "train"),
    ]
    assert found.classes is not None
    assert found.classes[:2] == ("0 - zero", "1 - one")
    with Image.open(root / "train/0007_7_-_seven/000002.png") as image:
        assert np.array_equal(np.asarray(image), pixels[2])
    assert seen == [(done, 6) for done in range(1, 7)]


def test_mnist__written_once(tmp_path: Path, files: Path) -> None:
    make_mnist(files)
    root = written_set(spec("MNIST"), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_mnist(files, labels=(1, 2, 3))
    assert written_set(spec("MNIST"), tmp_path) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_fashion_mnist__a_slash_in_a_label_stays(tmp_path: Path, files: Path) -> None:
    make_mnist(files, "FashionMNIST", labels=(0,))
    source = spec("FashionMNIST")
    root = written_set(source, tmp_path)
    assert rows(source.read(root))[0] == ("test/0000_T-shirt_top/000000.png", "T-shirt/top", "test")
    assert SET_MANIFEST in source_files(source, root)


def test_emnist__options_and_the_placeholder_class(tmp_path: Path, files: Path) -> None:
    make_mnist(files, labels=(1, 26))
    for path in (files / "MNIST" / "raw").iterdir():
        renamed = path.name.replace("train-", "emnist-letters-train-").replace("t10k-", "emnist-letters-test-")
        write(files, f"EMNIST/raw/{renamed}", path.read_bytes())
    source = spec("EMNIST", options={"split": "letters"})
    root = written_set(source, tmp_path)
    found = source.read(root)
    assert root.name.startswith("EMNIST-")
    assert {row[1] for row in rows(found)} == {"a", "z"}
    assert found.classes is not None
    assert (found.classes[0], len(found.classes)) == ("a", 26)


def test_eurosat__its_files_are_linked_and_it_has_no_parts(tmp_path: Path, files: Path) -> None:
    original = write(files, "eurosat/2750/River/River_1.jpg", encoded(noise(1), "JPEG"))
    write(files, "eurosat/2750/Forest/Forest_2.jpg", encoded(noise(2), "JPEG"))
    root = written_set(spec("EuroSAT"), tmp_path)
    assert rows(spec("EuroSAT").read(root)) == [
        ("0000_Forest/000000.jpg", "Forest", None),
        ("0001_River/000001.jpg", "River", None),
    ]
    assert (root / "0001_River/000001.jpg").samefile(original)


def test_caltech101__pictures_by_category(tmp_path: Path, files: Path) -> None:
    for name in ("BACKGROUND_Google", "ant", "Faces"):
        write(files, f"caltech101/101_ObjectCategories/{name}/image_0001.jpg", encoded(noise(1), "JPEG"))
    (files / "caltech101" / "Annotations").mkdir()
    found = spec("Caltech101").read(written_set(spec("Caltech101"), tmp_path))
    assert found.classes == ("Faces", "ant")
    assert [row[0] for row in rows(found)] == ["0000_Faces/000000.png", "0001_ant/000001.png"]


def test_dtd__three_official_parts(tmp_path: Path, files: Path) -> None:
    for part in ("train", "val", "test"):
        write(files, f"dtd/dtd/labels/{part}1.txt", f"banded/{part}.jpg\nwoven/{part}.jpg\n")
        for texture in ("banded", "woven"):
            write(files, f"dtd/dtd/images/{texture}/{part}.jpg", encoded(noise(1), "JPEG"))
    found = spec("DTD").read(written_set(spec("DTD"), tmp_path))
    assert sorted((row[2], row[1]) for row in rows(found)) == [
        (part, texture) for part in ("test", "train", "val") for texture in ("banded", "woven")
    ]


def test_imagenette__names_and_val_as_test(tmp_path: Path, files: Path) -> None:
    from torchvision.datasets import Imagenette

    for part in ("train", "val"):
        for folder in Imagenette._WNID_TO_CLASS:
            write(files, f"imagenette2-160/{part}/{folder}/{folder}_1.JPEG", encoded(noise(1), "JPEG"))
    source = spec("Imagenette", options={"size": "160px"})
    found = source.read(written_set(source, tmp_path))
    assert {row[2] for row in rows(found)} == {"train", "test"}
    assert found.classes is not None
    assert found.classes[0] == "tench, Tinca tinca"


def test_fake_data__numbers_are_the_classes(tmp_path: Path) -> None:
    source = spec("FakeData", options={"size": 8, "num_classes": 3})
    found = source.read(written_set(source, tmp_path))
    assert found.rows.height == 8
    assert found.classes == tuple(sorted({row[1] for row in rows(found)}))


def test_cifar__pickles_with_the_published_checksum(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    md5 = make_cifar(files)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in CIFAR_FILES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    root = written_set(spec("CIFAR10"), tmp_path)
    found = rows(spec("CIFAR10").read(root))
    assert [row[1:] for row in found if row[2] == "test"] == [("class 5", "test"), ("class 9", "test")]
    assert len(found) == 12
    expected = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)[0].reshape(3, 32, 32)
    with Image.open(root / "train/0000_class_0/000000.png") as image:
        assert np.array_equal(np.asarray(image), expected.transpose(1, 2, 0))


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("download", [False, True])
def test_cifar__a_pickle_of_somebody_else_is_never_opened(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    make_cifar(files, Trap(tmp_path / "it ran"))
    said = "cannot make it of the files" if download else "data_batch_1: not the published file, whose MD5 is c99cafc1"
    with pytest.raises(BadSource, match=said):
        written_set(spec("CIFAR10", download=download), tmp_path)
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "torchvision" / "CIFAR10").exists()


OFFLINE = {
    "CIFAR10": r"cifar-10-batches-py/batches\.meta, .*test_batch not there; put the files there, or set `download: true`",
    "MNIST": r"MNIST/raw/train-images-idx3-ubyte, .*t10k-labels-idx1-ubyte not there below .*torchvision says: Dataset not",
    "EuroSAT": r"eurosat/2750/\* not there below .*_files; put the files there",
    "SVHN": r"train_32x32\.mat, test_32x32\.mat not there below",
    "StanfordCars": r"stanford_cars/devkit/\*\.mat, .* not there below",
}


@pytest.mark.parametrize(("name", "said"), OFFLINE.items(), ids=list(OFFLINE))
def test_offline__says_which_files_are_missing_and_where(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(MissingSource, match=f"{name}: .*{said}"):
        written_set(spec(name), tmp_path)
    assert {path.suffix for path in (tmp_path / "torchvision").iterdir()} <= {"", ".lock"}
    assert not (tmp_path / "torchvision" / name).exists()


def test_offline__a_download_that_fails_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(MissingSource, match=r"MNIST/raw/train-images.* not there .*Connection refused"):
        written_set(spec("MNIST", download=True), tmp_path)


REFUSED: dict[str, tuple[TorchvisionSource, str]] = {
    "detection": (spec("VOCDetection"), "'VOCDetection' is no classification set of torchvision; known are CIFAR10, "),
    "no set": (spec("ImageFolder"), "is no classification set"),
    "part as option": (
        spec("MNIST", options={"train": 1}),
        r"options \['train'\] of MNIST are set by the source itself",
    ),
    "root": (spec("SVHN", options={"root": "/", "split": "x"}), r"options \['root', 'split'\] of SVHN"),
    "unknown option": (
        spec("FakeData", options={"sice": 1}),
        "unexpected keyword argument 'sice'; restore .* the options",
    ),
}


@pytest.mark.parametrize(("source", "said"), REFUSED.values(), ids=list(REFUSED))
def test_written_set__what_is_refused(tmp_path: Path, source: TorchvisionSource, said: str) -> None:
    with pytest.raises(BadSource, match=said):
        written_set(source, tmp_path)


def test_written_set__a_damaged_file_leaves_nothing(tmp_path: Path, files: Path) -> None:
    make_mnist(files)
    write(files, "MNIST/raw/t10k-images-idx3-ubyte", b"\0\0\x08\x03cut")
    with pytest.raises(BadSource, match="MNIST: torchvision cannot make it of the files below"):
        written_set(spec("MNIST"), tmp_path)
    for name in ("ant", "BACKGROUND_Google"):
        write(files, f"caltech101/101_ObjectCategories/{name}/image_0001.jpg", b"no picture")
    (files / "caltech101" / "Annotations").mkdir()
    with pytest.raises(BadSource, match=r"Caltech101 below .*: image 0 cannot be read: .*; restore the set's files"):
        written_set(spec("Caltech101"), tmp_path)
    assert {path.name for path in (tmp_path / "torchvision").iterdir() if path.suffix != ".lock"} == {"_files"}


def test_read__a_written_set_that_lost_files(tmp_path: Path, files: Path) -> None:
    make_mnist(files)
    root = written_set(spec("MNIST"), tmp_path)
    next((root / "train").rglob("*.png")).unlink()
    with pytest.raises(BadSource, match=r"5 images, manifest\.json says 6; delete the folder"):
        spec("MNIST").read(root)
    (root / SET_MANIFEST).write_text("{}")
    with pytest.raises(
        BadSource, match=r"manifest\.json: name: Field required; delete .*, the set is then written again"
    ):
        spec("MNIST").read(root)
