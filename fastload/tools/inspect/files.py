"""Find out what lies at a path, and look at it.

Runs in: consumer.
Takes: a path: a tar shard or a pattern of some, a Parquet or Arrow file, or a folder of either of
them or of images.
Gives: what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastload import ArrowDataset, DataLoader, ImageDataset, ImageFolder, ParquetDataset
from fastload.datasets.image_folder import IMAGE_EXTENSIONS
from fastload.datasets.tar_decoding import DECODERS, IMAGES, PICKLED
from fastload.datasets.tar_files import find_shards, open_shard
from fastload.datasets.tar_grouping import read_samples
from fastload.datasets.tar_index import load_index
from fastload.datasets.tar_samples import make_form
from fastload.datasets.tar_shards import TarShards, Waiting
from fastload.tools.inspect.inspection import (
    Inspection,
    Part,
    Shown,
    evenly,
    first_image,
    in_words,
    named_values,
    size_words,
    spread,
)
from fastload.tools.words import counted, one_line

_TABLES: dict[str, Any] = {
    **dict.fromkeys((".parquet", ".pq", ".parq"), ParquetDataset),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), ArrowDataset),
}
_TARS = (".tar", ".tar.gz", ".tgz")
_MOST_CLASSES = 20


def inspect_path(path: str, samples: int = 5) -> Inspection:
    """Look at a dataset's files.

    Args:
        path: A file, a pattern of tar shards, or a folder.
        samples: How many samples are shown.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is nothing that fastload reads.
    """
    kind = _kind(path)
    if kind == "tar":
        return _inspect_tar(path, samples)
    if kind == "images":
        return _inspect_images(path, samples)
    return _inspect_table(path, kind, samples)


def _kind(path: str) -> str:
    """Return ``"tar"``, ``"images"``, or the ending of a table's name."""
    place = Path(path)
    if place.is_dir():
        endings = Counter(_ending(each.name) for each in place.rglob("*") if each.is_file())
        known = {ending: count for ending, count in endings.items() if ending}
        if not known:
            raise ValueError(
                f"{path} holds neither images nor tar shards, Parquet or Arrow files; it has "
                f"{counted(endings.total(), 'file')}"
            )
        return max(known, key=lambda ending: known[ending])
    if ending := _ending(place.name):
        if ending == "images":
            raise ValueError(f"{path} is a single image; name the folder that it lies in")
        return ending
    if place.is_file():
        return _kind_by_content(path)
    raise FileNotFoundError(f"there is nothing at {path}")


def _kind_by_content(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        begin = file.read(512)
    if begin.startswith(b"PAR1"):
        return ".parquet"
    if begin.startswith(b"ARROW1"):
        return ".arrow"
    if begin[257:262] == b"ustar" or begin[:2] == b"\x1f\x8b":
        return "tar"
    raise ValueError(f"{path} is neither a tar shard nor a Parquet or Arrow file")


def _ending(name: str) -> str:
    name = name.lower()
    if name.endswith(_TARS):
        return "tar"
    suffix = Path(name).suffix
    if suffix in _TABLES:
        return suffix
    return "images" if suffix in IMAGE_EXTENSIONS else ""


def _inspect_tar(path: str, samples: int) -> Inspection:
    source: Any = path
    if Path(path).is_dir():
        source = sorted(str(each) for each in Path(path).rglob("*") if _ending(each.name) == "tar")
    paths = find_shards(source)
    problems: list[str] = []
    states: Counter[str] = Counter()
    places: list[Waiting] = []
    left_out: dict[str, int] = {}
    for number, shard in enumerate(paths):
        try:
            index = load_index(shard)
            states["with an index" if index else "without an index"] += 1
        except ValueError as error:
            states["with an index that is of no use"] += 1
            problems.append(str(error))
        try:
            for place in read_samples(open_shard(shard), left_out):
                places.append(Waiting(number, place))  # noqa: PERF401  (those before an error)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if states["without an index"]:
        hint = f"`fastload index {one_line(paths[0], 200)}{' ...' if len(paths) > 1 else ''}`"
        words = f"{states['without an index']} of {counted(len(paths), 'shard')} have no index"
        is_bad = bool(problems)
        problems.append(f"{words}, so there is no length and no random access: {hint}")
    else:
        is_bad = bool(problems)
    form = make_form(dict.fromkeys(PICKLED, bytes), None, None, allow_pickle=False, verify=True)
    shards = TarShards(paths, form, "ignore")
    fields = [field for waiting in places for field in waiting.place.fields]
    sizes: dict[str, list[int]] = {}
    for field in fields:
        sizes.setdefault(field.name, []).append(field.size)
    chosen = [places[number] for number in evenly(len(places), samples)]
    shown, made = _show(chosen, shards.make, lambda waiting: waiting.place.key)
    total = sum(Path(shard).stat().st_size for shard in paths)
    return Inspection(
        path,
        "tar shards" if len(paths) > 1 else "a tar shard",
        {
            "samples": f"{len(places):,}",
            "shards": f"{len(paths):,}",
            "size": size_words(total),
            "content of samples": size_words(sum(field.size for field in fields)),
            "indices": ", ".join(f"{count} {state}" for state, count in states.items()),
            "members left out": ", ".join(f"{n} {_LEFT_OUT[why]}" for why, n in left_out.items())
            or "none",
        },
        "fields",
        [Part(name, _decoded_as(name), len(of), spread(of)) for name, of in sorted(sizes.items())],
        shown,
        _batch(made),
        problems,
        is_bad or len(made) < len(chosen),
    )


_LEFT_OUT = {
    "others": "folders, links and other special ones",
    "unnamed": "metadata or without an extension",
}


def _decoded_as(name: str) -> str:
    last = name.removesuffix(".gz").rpartition(".")[2]
    if last in IMAGES:
        return "image"
    if last in PICKLED:
        return "pickle: refused without allow_pickle=True"
    return {"decode_text": "text", "int": "number", "loads": "JSON"}.get(
        getattr(DECODERS.get(last), "__name__", ""), "array" if last in DECODERS else "bytes"
    )


def _inspect_table(path: str, ending: str, samples: int) -> Inspection:
    kind = _TABLES[ending]
    paths = [Path(path)]
    if Path(path).is_dir():
        paths = sorted(each for each in Path(path).rglob("*") if _ending(each.name) == ending)
    options: dict[str, Any] = {"nulls": "mask", "decimals": "float64"}
    dataset = kind([str(each) for each in paths] if len(paths) > 1 else str(paths[0]), **options)
    names = {".pq": "Parquet", ".parq": "Parquet", ".parquet": "Parquet"}
    facts = {
        "rows": f"{len(dataset):,}",
        "files": f"{len(paths):,}",
        "size": size_words(sum(each.stat().st_size for each in paths)),
    }
    if kind is ParquetDataset:
        lengths = dataset.block_lengths
        facts["row groups"] = f"{len(lengths):,}"
        if lengths:
            least, median, most = spread(lengths) or (0, 0, 0)
            facts["rows of a row group"] = f"{least:,} to {most:,}, median {median:,}"
    chosen = evenly(len(dataset), samples)
    shown, made = _show(chosen, dataset.__getitem__, lambda row: f"row {row}")
    rows = _without_needless_masks(shown)
    return Inspection(
        path,
        f"{'a ' if len(paths) == 1 else ''}{names.get(ending, 'Arrow')} "
        f"file{'' if len(paths) == 1 else 's'}",
        facts,
        "columns",
        [Part(field.name, str(field.type), len(dataset)) for field in dataset.schema],
        rows,
        _loaded_batch(dataset, len(chosen)) if made else {},
        [],
        len(made) < len(chosen),
    )


def _without_needless_masks(shown: list[Shown]) -> list[Shown]:
    """Leave out what says only that a value is not null."""
    return [
        Shown(
            each.name,
            {
                name: words
                for name, words in each.values.items()
                if not (name.endswith("_valid") and words == "bool tensor True")
            },
            each.image,
        )
        for each in shown
    ]


def _inspect_images(path: str, samples: int) -> Inspection:
    files = sorted(
        str(each)
        for each in Path(path).rglob("*")
        if each.is_file() and _ending(each.name) == "images"
    )
    try:
        dataset: Any = ImageFolder(path, allow_empty=True)
    except FileNotFoundError:
        dataset = ImageDataset(files)
    names = (
        dataset.samples if isinstance(dataset, ImageFolder) else [(each, None) for each in files]
    )
    if not names:
        dataset = ImageDataset(files)
        names = [(each, None) for each in files]
    chosen = evenly(len(names), samples)
    shown, made = _show(chosen, dataset.__getitem__, lambda number: names[number][0])
    sizes = [Path(each).stat().st_size for each, _ in names]
    parts: dict[Any, list[int]] = {}
    for (_, target), size in zip(names, sizes, strict=True):
        parts.setdefault(target, []).append(size)
    classes = getattr(dataset, "classes", [])
    by_name = [
        Part("images" if at is None else classes[at], "image", len(of), spread(of))
        for at, of in parts.items()
    ]
    problems = []
    if len(names) < len(files):
        problems.append(f"{counted(len(files) - len(names), 'image')} lie in no class folder")
    if len(by_name) > _MOST_CLASSES:
        problems.append(f"of {len(by_name)} classes the first {_MOST_CLASSES} are listed")
    formats = Counter(Path(each).suffix.lower() for each, _ in names)
    return Inspection(
        path,
        f"a folder of images in {len(classes)} classes" if classes else "a folder of images",
        {
            "images": f"{len(names):,}",
            "classes": f"{len(classes):,}",
            "size": size_words(sum(sizes)),
            "files": ", ".join(f"{count:,} {name}" for name, count in formats.most_common()),
        },
        "classes",
        by_name[:_MOST_CLASSES],
        shown,
        _batch(made),
        problems,
        len(made) < len(chosen),
    )


def _show(
    chosen: Sequence[Any], make: Callable[[Any], Any], name: Callable[[Any], str]
) -> tuple[list[Shown], list[Any]]:
    """Return samples in words, and those that could be read as they are."""
    shown, made = [], []
    for each in chosen:
        try:
            sample = make(each)
        except Exception as error:  # noqa: BLE001  (what is wrong with a sample is the answer)
            words = f"{type(error).__name__}: {one_line(error, 300)}"
            shown.append(Shown(name(each), {"can't be read": words}))
        else:
            shown.append(Shown(name(each), named_values(sample), first_image(sample)))
            made.append(sample)
    return shown, made


def _batch(made: list[Any]) -> dict[str, str]:
    return _loaded_batch(made, len(made)) if made else {}


def _loaded_batch(dataset: Any, size: int) -> dict[str, str]:
    """Return in words what a loader without options makes of the first samples."""
    try:
        batch = next(iter(DataLoader(dataset, batch_size=size)))
    except Exception as error:  # noqa: BLE001  (that there is none is the answer)
        return {"no batch": f"{type(error).__name__}: {one_line(error, 400)}"}
    return {"": in_words(batch)} if not isinstance(batch, dict | list) else named_values(batch)
