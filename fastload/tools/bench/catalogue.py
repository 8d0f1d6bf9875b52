"""The workloads, in the order in which they run and are shown."""

import difflib

from fastload.tools.bench.workload import Workload

_FOLDER = "fastload.tools.bench.workloads"

WORKLOADS: tuple[Workload, ...] = (
    Workload(
        name="images-float32",
        description="float32 images of 3x224x224 with labels, 38 MB a batch",
        recipe=f"{_FOLDER}.images:float32",
        batch_size=64,
        samples=3_072,
        quick_samples=512,
    ),
    Workload(
        name="images-uint8",
        description="uint8 images of 3x224x224 with labels, 9.6 MB a batch",
        recipe=f"{_FOLDER}.images:uint8",
        batch_size=64,
        samples=8_192,
        quick_samples=1_024,
    ),
    Workload(
        name="images-small",
        description="float32 images of 3x32x32 with labels",
        recipe=f"{_FOLDER}.images:small",
        batch_size=128,
        samples=49_152,
        quick_samples=8_192,
    ),
    Workload(
        name="jpeg",
        description="photographs decoded from JPEG with Pillow, 256x256",
        recipe=f"{_FOLDER}.images:jpeg",
        batch_size=32,
        samples=3_072,
        quick_samples=256,
        needs=("PIL", "sklearn"),
    ),
    Workload(
        name="digits",
        description="scikit-learn's handwritten digits, 8x8, shuffled",
        recipe=f"{_FOLDER}.images:digits",
        batch_size=64,
        samples=65_536,
        quick_samples=8_192,
        needs=("sklearn",),
    ),
    Workload(
        name="tiny-tensor",
        description="16 float32 and a label, as a tensor",
        recipe=f"{_FOLDER}.small_rows:tiny_tensor",
        batch_size=256,
        samples=262_144,
        quick_samples=32_768,
    ),
    Workload(
        name="tiny-tensor-inline",
        description="16 float32 and a label, as a tensor, without workers",
        recipe=f"{_FOLDER}.small_rows:tiny_tensor",
        batch_size=256,
        samples=262_144,
        quick_samples=32_768,
        workers=0,
    ),
    Workload(
        name="tiny-numpy",
        description="16 float32 and a label, as a NumPy array",
        recipe=f"{_FOLDER}.small_rows:tiny_numpy",
        batch_size=256,
        samples=131_072,
        quick_samples=16_384,
    ),
    Workload(
        name="tiny-numpy-inline",
        description="16 float32 and a label, as a NumPy array, without workers",
        recipe=f"{_FOLDER}.small_rows:tiny_numpy",
        batch_size=256,
        samples=131_072,
        quick_samples=16_384,
        workers=0,
    ),
    Workload(
        name="table",
        description="a shuffled TensorDataset of 100,000 rows of 16 float32",
        recipe=f"{_FOLDER}.small_rows:table",
        batch_size=256,
        samples=100_000,
        quick_samples=25_600,
    ),
    Workload(
        name="table-inline",
        description="a shuffled TensorDataset of 100,000 rows of 16 float32, without workers",
        recipe=f"{_FOLDER}.small_rows:table",
        batch_size=256,
        samples=100_000,
        quick_samples=25_600,
        workers=0,
    ),
    Workload(
        name="stream",
        description="an iterable dataset of 16 float32 and a label, sharded among workers",
        recipe=f"{_FOLDER}.small_rows:stream",
        batch_size=256,
        samples=262_144,
        quick_samples=32_768,
    ),
    Workload(
        name="fields",
        description="a dict of 26 fields: 13 numbers, 13 categories",
        recipe=f"{_FOLDER}.structures:fields",
        batch_size=64,
        samples=8_192,
        quick_samples=1_024,
    ),
    Workload(
        name="detection",
        description="images with dicts of many small target tensors, zipped, not stacked",
        recipe=f"{_FOLDER}.structures:detection",
        batch_size=16,
        samples=1_536,
        quick_samples=256,
    ),
    Workload(
        name="tokens",
        description="variable-length int64 bytes of Python's own library, padded",
        recipe=f"{_FOLDER}.structures:tokens",
        batch_size=32,
        samples=32_768,
        quick_samples=4_096,
    ),
    Workload(
        name="pad",
        description="bytes of different lengths: `pad_sequence` against `fastload.pad`",
        recipe=f"{_FOLDER}.unequal_lengths:pad_usual",
        own=f"{_FOLDER}.unequal_lengths:pad_own",
        batch_size=32,
        samples=16_384,
        quick_samples=2_048,
    ),
    Workload(
        name="pad-dict",
        description="dicts of token ids as lists: `pad_sequence` against `fastload.PadDict`",
        recipe=f"{_FOLDER}.unequal_lengths:pad_dict_usual",
        own=f"{_FOLDER}.unequal_lengths:pad_dict_own",
        batch_size=32,
        samples=8_192,
        quick_samples=1_024,
    ),
    Workload(
        name="pack",
        description="token ids behind one another: joined Python lists against `fastload.Pack`",
        recipe=f"{_FOLDER}.unequal_lengths:pack_usual",
        own=f"{_FOLDER}.unequal_lengths:pack_own",
        batch_size=32,
        samples=8_192,
        quick_samples=1_024,
    ),
    Workload(
        name="ragged",
        description="bytes of different lengths, nested: `torch.nested` against `fastload.ragged`",
        recipe=f"{_FOLDER}.unequal_lengths:ragged_usual",
        own=f"{_FOLDER}.unequal_lengths:ragged_own",
        batch_size=32,
        samples=16_384,
        quick_samples=2_048,
    ),
    Workload(
        name="arrow",
        description="shuffled records: rows of a pyarrow table against `ArrowDataset`",
        recipe=f"{_FOLDER}.tables:arrow_usual",
        own=f"{_FOLDER}.tables:arrow_own",
        batch_size=256,
        samples=32_768,
        quick_samples=8_192,
    ),
    Workload(
        name="parquet",
        description="records in order: a Parquet file read at once against `ParquetDataset`",
        recipe=f"{_FOLDER}.tables:parquet_usual",
        own=f"{_FOLDER}.tables:parquet_own",
        batch_size=256,
        samples=131_072,
        quick_samples=16_384,
    ),
    Workload(
        name="latency",
        description="samples that wait 20 ms: one at a time against `concurrent_samples=16`",
        recipe=f"{_FOLDER}.latency:usual",
        own=f"{_FOLDER}.latency:own",
        batch_size=16,
        samples=256,
        quick_samples=128,
    ),
    Workload(
        name="short-epochs",
        description="epochs of 4 batches in a row, workers started anew each time",
        recipe=f"{_FOLDER}.small_rows:tiny_tensor",
        batch_size=256,
        samples=1_024,
        quick_samples=1_024,
        unit="epochs",
    ),
    Workload(
        name="short-epochs-persistent",
        description="epochs of 4 batches in a row, workers kept",
        recipe=f"{_FOLDER}.small_rows:tiny_tensor",
        batch_size=256,
        samples=1_024,
        quick_samples=1_024,
        persistent=True,
        unit="epochs",
    ),
)


def find(name: str) -> Workload:
    """Return the workload called `name`.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    by_name = {workload.name: workload for workload in WORKLOADS}
    if name in by_name:
        return by_name[name]
    close = difflib.get_close_matches(name, by_name, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"unknown workload {name!r}{hint} The workloads are: {', '.join(by_name)}")
