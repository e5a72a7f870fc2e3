"""Classification sets of torchvision, written out once as image files with their official parts and class order."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock

from platform_assets.vision.datasets.label_map import normal_label
from platform_assets.vision.datasets.sources import BadSource, MissingSource
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.torchvision_set import (
    SET_MANIFEST,
    SetManifest,
    TorchvisionSource,
    WrittenClass,
)

Parts = Mapping[Part | None, Mapping[str, Any]]
"""The arguments of torchvision's class by part; None for a set without official parts."""


@dataclass(frozen=True)
class _Published:
    """How torchvision's class divides a set, and the files that it opens below its root folder (glob patterns)."""

    parts: Parts
    files: Sequence[str]
    unpickles: bool = False
    leaves_out: frozenset[str] = frozenset()


def _splits(**parts: str) -> Parts:
    return {part: {"split": split} for part, split in parts.items()}  # type: ignore[misc]


_TRAIN_TEST: Parts = {"train": {"train": True}, "test": {"train": False}}
_SPLIT_TRAIN_TEST = _splits(train="train", test="test")
_THREE = _splits(train="train", val="val", test="test")
# Test labels of these were never published and results are those on val: as test, nothing is selected on it.
_TRAIN_VAL = _splits(train="train", test="val")
_NO_PARTS: Parts = {None: {}}


def _idx(folder: str) -> list[str]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return [f"{folder}/raw/{part}-{kind}" for part in ("train", "t10k") for kind in kinds]


_SETS: dict[str, _Published] = {
    "CIFAR10": _Published(_TRAIN_TEST, ["cifar-10-batches-py/*"], unpickles=True),
    "CIFAR100": _Published(_TRAIN_TEST, ["cifar-100-python/*"], unpickles=True),
    "CLEVRClassification": _Published(_TRAIN_VAL, ["clevr/CLEVR_v1.0/images/*", "clevr/CLEVR_v1.0/scenes/*"]),
    "Caltech101": _Published(_NO_PARTS, ["caltech101/101_ObjectCategories/*"]),
    "Caltech256": _Published(_NO_PARTS, ["caltech256/256_ObjectCategories/*"]),
    "Country211": _Published(
        _splits(train="train", val="valid", test="test"),
        [f"country211/{part}/*" for part in ("train", "valid", "test")],
    ),
    "DTD": _Published(_THREE, ["dtd/dtd/labels/*.txt", "dtd/dtd/images/*"]),
    # Its first class of `letters` is a placeholder.
    "EMNIST": _Published(_TRAIN_TEST, ["EMNIST/raw/emnist-*-ubyte"], leaves_out=frozenset({"N/A"})),
    "EuroSAT": _Published(_NO_PARTS, ["eurosat/2750/*"]),
    "FER2013": _Published(_SPLIT_TRAIN_TEST, ["fer2013/fer2013.csv"]),
    "FGVCAircraft": _Published(_THREE, ["fgvc-aircraft-2013b/data/*.txt", "fgvc-aircraft-2013b/data/images/*"]),
    "FakeData": _Published(_NO_PARTS, []),
    "FashionMNIST": _Published(_TRAIN_TEST, _idx("FashionMNIST")),
    "Flowers102": _Published(_THREE, ["flowers-102/jpg/*.jpg", "flowers-102/setid.mat", "flowers-102/imagelabels.mat"]),
    "Food101": _Published(_SPLIT_TRAIN_TEST, ["food-101/meta/*.json", "food-101/images/*"]),
    "GTSRB": _Published(
        _SPLIT_TRAIN_TEST, ["gtsrb/GTSRB/Training/*", "gtsrb/GTSRB/Final_Test/Images/*", "gtsrb/*.csv"]
    ),
    "ImageNet": _Published(_TRAIN_VAL, ["ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_*.tar"]),
    "Imagenette": _Published(_TRAIN_VAL, ["imagenette2*/train/*", "imagenette2*/val/*"]),
    "INaturalist": _Published(_NO_PARTS, ["20*/*"]),
    "KMNIST": _Published(_TRAIN_TEST, _idx("KMNIST")),
    "MNIST": _Published(_TRAIN_TEST, _idx("MNIST")),
    "OxfordIIITPet": _Published(
        _splits(train="trainval", test="test"), ["oxford-iiit-pet/images/*", "oxford-iiit-pet/annotations/*.txt"]
    ),
    "PCAM": _Published(_THREE, ["pcam/camelyonpatch_level_2_split_*.h5"]),
    "Places365": _Published(_splits(train="train-standard", test="val"), ["*256*", "places365_*.txt"]),
    "QMNIST": _Published(_TRAIN_TEST, ["QMNIST/raw/qmnist-*"]),
    "RenderedSST2": _Published(_THREE, [f"rendered-sst2/{part}/*" for part in ("train", "valid", "test")]),
    "SEMEION": _Published(_NO_PARTS, ["semeion.data"]),
    "STL10": _Published(_SPLIT_TRAIN_TEST, ["stl10_binary/*.bin", "stl10_binary/class_names.txt"]),
    "SUN397": _Published(_NO_PARTS, ["SUN397/*"]),
    "SVHN": _Published(_SPLIT_TRAIN_TEST, ["train_32x32.mat", "test_32x32.mat"]),
    "StanfordCars": _Published(
        _SPLIT_TRAIN_TEST,
        ["stanford_cars/devkit/*.mat", "stanford_cars/cars_test_annos_withlabels.mat", "stanford_cars/cars_t*/*.jpg"],
    ),
    "USPS": _Published(_TRAIN_TEST, ["usps.bz2", "usps.t.bz2"]),
}

_NAME_LISTS = ("classes", "categories", "all_categories")
_CURE = "put the files there, or set `download: true` where the network is there"
_OURS = frozenset({"root", "train", "download", "loader", "transform", "target_transform", "transforms"})
# What torchvision raises on files that are missing, cut off or of another set. AssertionError is its check of idx files.
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, AssertionError)


def written_set(spec: TorchvisionSource, cache: Path, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The root `{cache}/torchvision/{name}`, written if it is not there: `{part}/{class}/{index}.png` and a manifest.

    Files that the set has are linked instead of decoded; a set without parts has no part folders. torchvision looks for
    its own files below `{cache}/torchvision/_files`. Safe between processes. Raises MissingSource, BadSource.
    """
    published = _SETS.get(spec.name)
    if published is None:
        raise BadSource(f"{spec.name!r} is no classification set of torchvision; known are {', '.join(sorted(_SETS))}")
    if taken := sorted((_OURS | set(_arguments(published))) & set(spec.options)):
        raise BadSource(f"options {taken} of {spec.name} are set by the source itself; leave them out")
    folder = cache / "torchvision"
    place = folder / _folder_name(spec)
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{place.name}.lock"):
            if not place.is_dir():
                for leftover in folder.glob(f".{place.name}.*.writing"):  # of a process that was killed
                    shutil.rmtree(leftover)
                _write(spec, published, folder / "_files", place, on_progress)
    return place


def _folder_name(spec: TorchvisionSource) -> str:
    if not spec.options:
        return spec.name
    text = json.dumps(spec.options, sort_keys=True)
    return f"{spec.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _arguments(published: _Published) -> set[str]:
    return {name for arguments in published.parts.values() for name in arguments}


def _write(
    spec: TorchvisionSource,
    published: _Published,
    files: Path,
    place: Path,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    sets = {part: _built(spec, published, files, arguments) for part, arguments in published.parts.items()}
    names = _class_names(next(iter(sets.values())))
    images = sum(len(dataset) for dataset in sets.values())
    folders: dict[int, WrittenClass] = {
        target: _written_class(target, name) for target, name in names.items() if name not in published.leaves_out
    }
    with _staged(place) as staging:
        done = 0
        for part, dataset in sets.items():
            for index, (picture, target) in enumerate(_items(spec, dataset, files)):
                written = folders.setdefault(target, _written_class(target, str(target)))
                folder = staging / (part or "") / written.folder
                folder.mkdir(parents=True, exist_ok=True)
                _write_picture(picture, folder / f"{index:06d}")
                done += 1
                if on_progress is not None:
                    on_progress(done, images)
        classes = tuple(folders[target] for target in sorted(folders))
        manifest = SetManifest(name=spec.name, options=spec.options, classes=classes, images=done)
        (staging / SET_MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


@contextmanager
def _staged(place: Path) -> Iterator[Path]:
    """A folder beside `place` that becomes it at the end, or goes."""
    staging = place.with_name(f".{place.name}.{secrets.token_hex(4)}.writing")
    try:
        staging.mkdir()
        yield staging
        staging.rename(place)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _built(spec: TorchvisionSource, published: _Published, files: Path, arguments: Mapping[str, Any]) -> Any:
    """torchvision's dataset of one part; one that reads image files gives their paths instead of pictures."""
    from torchvision import datasets

    kind = getattr(datasets, spec.name)
    known = inspect.signature(kind).parameters
    given: dict[str, Any] = {**arguments, **spec.options}
    if "root" in known:
        files.mkdir(parents=True, exist_ok=True)
        given["root"] = str(files)
    if "download" in known or issubclass(kind, datasets.MNIST):  # EMNIST and QMNIST hand it on
        given["download"] = spec.download
    if "loader" in known or issubclass(kind, datasets.DatasetFolder):
        given["loader"] = Path
    if published.unpickles and not spec.download:
        _require_md5(spec, kind, files)
    try:
        return kind(**given)
    except _UNREADABLE as error:
        raise _unreadable(spec, published, files, error) from error


def _require_md5(spec: TorchvisionSource, kind: Any, files: Path) -> None:
    """The files of this set are pickles, which run code: only the published ones may be opened. torchvision checks again."""
    from torchvision.datasets.utils import check_integrity

    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    places = {files / kind.base_folder / name: md5 for name, md5 in listed}
    if missing := sorted(str(place) for place in places if not place.is_file()):
        raise MissingSource(f"{spec.name}: {', '.join(missing)} not there; {_CURE}")
    for place, md5 in places.items():
        if not check_integrity(str(place), md5):
            cure = "it is a pickle, which may run code, so only the published one is opened: restore it"
            raise BadSource(f"{place}: not the published file, whose MD5 is {md5}; {cure}")


def _unreadable(spec: TorchvisionSource, published: _Published, files: Path, error: Exception) -> ValueError:
    said = " ".join(str(error).split()) or type(error).__name__
    missing = [pattern for pattern in published.files if not any(files.glob(pattern))]
    if missing:
        return MissingSource(
            f"{spec.name}: {', '.join(missing)} not there below {files}; {_CURE}; torchvision says: {said}"
        )
    return BadSource(
        f"{spec.name}: torchvision cannot make it of the files below {files} and options {spec.options}: {said}; "
        "restore the files or correct the options"
    )


def _class_names(dataset: Any) -> dict[int, str]:
    """The set's own names by index; empty where it has none, such as SVHN, whose labels are numbers."""
    found = next((getattr(dataset, name) for name in _NAME_LISTS if getattr(dataset, name, None)), ())
    names = [normal_label(", ".join(name) if isinstance(name, tuple) else str(name)) for name in found]
    counts = Counter(names)  # ImageNet has two kinds of crane
    return {index: name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)}


def _written_class(target: int, label: str) -> WrittenClass:
    return WrittenClass(folder=f"{target:04d}_{re.sub(r'[^a-zA-Z0-9.+-]+', '_', label)[:80]}", label=label)


def _items(spec: TorchvisionSource, dataset: Any, files: Path) -> Iterator[tuple[Any, int]]:
    """Pictures, or paths in their own order, with the index of the class."""
    items = _in_set_order(spec, dataset, files)
    first = next(items, None)
    if first is None:
        return
    rest = chain([first], items)
    yield from sorted(rest) if isinstance(first[0], Path) else rest


def _in_set_order(spec: TorchvisionSource, dataset: Any, files: Path) -> Iterator[tuple[Any, int]]:
    for index in range(len(dataset)):
        try:
            picture, target = dataset[index]
            yield picture, int(target)
        except _UNREADABLE as error:
            said = f"image {index} cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
            raise BadSource(f"{spec.name} below {files}: {said}; restore the set's files") from error


def _write_picture(picture: Any, stem: Path) -> None:
    """Links a file, or copies it where links are not possible; writes pixels as PNG."""
    if not isinstance(picture, Path):
        picture.save(stem.with_name(f"{stem.name}.png"))
        return
    target = stem.with_name(stem.name + picture.suffix.lower())
    try:
        os.link(picture.resolve(), target)
    except OSError:
        shutil.copyfile(picture, target)
