"""How fast do images come, and how near is that to the limit? Writes benchmarks/images.json.

    python benchmarks/images.py                 # measure: about four minutes
    python benchmarks/images.py --only decode   # this load again, the other stays
    python benchmarks/images.py --quick         # one round, prints only: a smoke test
    python benchmarks/publish.py                # the table in docs/benchmarks.md

JPEG files, cut from the photographs that ship with scikit-learn, in batches of 64 with two workers.
All ways are measured in turn, round after round, each in a fresh process; the table gives medians.
An epoch counts from `iter` to its last batch, with the start of the workers. Checked first: all
ways to a load give the same batches (augmented ones: within 2 of 255, which is what Pillow's way
of rounding makes).

Ways: `torch` is torch's loader with the dataset that is usually written, which decodes with Pillow;
`torch, simplejpeg` the same with simplejpeg; `change of import` is that dataset with our loader;
`fastload` is `ImageFolder`, with `fastload.transforms` where there is augmentation. The limit is
two bare processes that read the files and decode them, each into one buffer, and do nothing else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import fastload  # noqa: E402
from benchmarks.in_turn import WrongError, look_at_machine, measure  # noqa: E402
from fastload import ImageFolder, transforms  # noqa: E402
from fastload.tools.bench.child import await_turn  # noqa: E402
from fastload.tools.bench.workloads.image_files import PillowFolder, folder_of  # noqa: E402

RESULTS = ROOT / "benchmarks" / "images.json"
ROUNDS = 5
SAMPLES = 2_000
COMPARED = 256
WORKERS = 2
BATCH_SIZE = 64
CROP = transforms.RandomResizedCrop(224)
FLIP = transforms.RandomHorizontalFlip()

Make = Callable[[ImageFolder], Any]
"""Makes a dataset of the files of a folder."""


class SimplejpegFolder(PillowFolder):
    """The usual dataset, with simplejpeg in the place of Pillow."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from simplejpeg import decode_jpeg

        path, label = self.samples[index]
        pixels = decode_jpeg(Path(path).read_bytes())
        return torch.from_numpy(pixels).permute(2, 0, 1), label


class AugmentedByPillow(PillowFolder):
    """The usual way to train on photographs: Pillow decodes, cuts, resizes and mirrors."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        path, label = self.samples[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        top, left, height, width = CROP.draw(image.height, image.width)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize(CROP.size[::-1], Image.Resampling.BILINEAR)
        if torch.rand(1).item() < FLIP.p:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div_(255), label


def _augmented(folder: ImageFolder) -> ImageFolder:
    folder.transform = transforms.Compose([CROP, FLIP, transforms.ToFloat()])
    return folder


LOADS: dict[str, tuple[tuple[int, int], dict[str, tuple[str, Make]]]] = {
    "decode": (
        (256, 256),
        {
            "torch": ("torch", lambda folder: PillowFolder(folder.samples)),
            "torch, simplejpeg": ("torch", lambda folder: SimplejpegFolder(folder.samples)),
            "change of import": ("fastload", lambda folder: PillowFolder(folder.samples)),
            "change of import, simplejpeg": (
                "fastload",
                lambda folder: SimplejpegFolder(folder.samples),
            ),
            "fastload": ("fastload", lambda folder: folder),
            "limit": ("bare", lambda folder: folder),
        },
    ),
    "augment": (
        (375, 500),
        {
            "torch": ("torch", lambda folder: AugmentedByPillow(folder.samples)),
            "change of import": ("fastload", lambda folder: AugmentedByPillow(folder.samples)),
            "fastload": ("fastload", _augmented),
        },
    ),
}
"""Of each load: height and width of the files, and the ways to load them."""


def loader_of(load: str, way: str, samples: int = SAMPLES) -> Any:
    """The loader of a way."""
    size, ways = LOADS[load]
    kind, make = ways[way]
    dataset = make(folder_of(samples, *size))
    loader: Any = fastload.DataLoader if kind == "fastload" else torch.utils.data.DataLoader
    return loader(dataset, batch_size=BATCH_SIZE, num_workers=WORKERS)


def check(load: str) -> None:
    """Hold the first batches of all ways against those of the first.

    Raises:
        WrongError: they differ; the message says where and by how much.
    """
    _, ways = LOADS[load]
    allowed = 2.01 / 255 if load == "augment" else 0
    found = {}
    for way, (kind, _) in ways.items():
        if kind != "bare":
            torch.manual_seed(0)
            found[way] = list(loader_of(load, way, COMPARED))
    for way, batches in found.items():
        pairs = zip(found["torch"], batches, strict=True)
        for number, ((images, labels), (others, other_labels)) in enumerate(pairs):
            same = (images.dtype, images.shape) == (others.dtype, others.shape)
            if not same or not torch.equal(labels, other_labels):
                raise WrongError(f"batch {number} of {way} has another form, or other labels")
            largest = (images.float() - others.float()).abs().max().item()
            if largest > allowed:
                raise WrongError(f"batch {number} of {way} differs from torch's by {largest:g}")


def epoch(load: str, way: str) -> float:
    """Images a second over an epoch, the start of workers included."""
    if way == "limit":
        return bare(load)
    loader = loader_of(load, way)
    await_turn()
    started = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    return count / (time.perf_counter() - started)


def bare(load: str) -> float:
    """Images a second of bare processes that decode into one buffer each."""
    import simplejpeg  # noqa: F401  (not in each process)

    size, _ = LOADS[load]
    paths = [path for path, _ in folder_of(SAMPLES, *size).samples]
    context = multiprocessing.get_context("fork")
    parts = [paths[number::WORKERS] for number in range(WORKERS)]
    processes = [context.Process(target=_decode_all, args=(part, size)) for part in parts]
    await_turn()
    started = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    elapsed_s = time.perf_counter() - started
    if any(process.exitcode for process in processes):
        raise WrongError("a bare process failed")
    return len(paths) / elapsed_s


def _decode_all(paths: list[str], size: tuple[int, int]) -> None:
    from simplejpeg import decode_jpeg

    buffer = np.empty((*size, 3), np.uint8)
    for path in paths:
        with Path(path).open("rb", buffering=0) as file:
            decode_jpeg(file.read(), "RGB", buffer=buffer)


def main() -> None:
    """Measure all loads and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=LOADS, help="measure one load")
    parser.add_argument("--quick", action="store_true", help="one round, prints only")
    parser.add_argument("--check", choices=LOADS, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, metavar=("LOAD", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        await_turn()
        check(args.check)
    elif args.one:
        print(epoch(*args.one), flush=True)
    else:
        loads = [args.only] if args.only else list(LOADS)
        _measure_all(loads, 1 if args.quick else ROUNDS, writes=not args.quick)


def _measure_all(loads: list[str], rounds: int, *, writes: bool) -> None:
    machine = look_at_machine()
    for size, _ in LOADS.values():
        folder_of(SAMPLES, *size)
    rates = {}
    for load in loads:
        ways = {way: ("--one", load, way) for way in LOADS[load][1]}
        rates[load] = measure(__file__, ("--check", load), ways, rounds, of=f" of {load}")
        for way, values in rates[load].items():
            print(f"{load}: {way}: {statistics.median(values):,.0f} images/s", flush=True)
    if writes:
        rates = {**_rates_to_keep(asdict(machine)), **rates}
        document = {"machine": asdict(machine), "settings": {"rounds": rounds}, "rates": rates}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


def _rates_to_keep(machine: dict[str, Any]) -> dict[str, Any]:
    """The last results, if they are of the same machine and versions."""
    if not RESULTS.exists():
        return {}
    document = json.loads(RESULTS.read_text())
    same = ("processor", "cores", "python", "torch")
    rates: dict[str, Any] = document["rates"]
    return rates if all(document["machine"][key] == machine[key] for key in same) else {}


if __name__ == "__main__":
    main()
