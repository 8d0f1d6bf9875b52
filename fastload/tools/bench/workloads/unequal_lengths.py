"""Sequences of different lengths: what is usually written against fastload's collate functions."""

import re
from itertools import accumulate
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import fastload
from fastload.tools.bench.workload import Recipe
from fastload.tools.bench.workloads.structures import library_text, tokens

_RECORDS = 2_048
_TEXT_BYTES = 1 << 20
_IGNORED = -100

Record = dict[str, Any]


class TokenRecords(Dataset[Record]):
    """What a tokenizer leaves: 16 to 512 ids and labels as lists, and the number of the record.

    The ids are those of the words and signs of Python's own library. The first eighth of a record
    is its prompt, which has no labels.
    """

    def __init__(self, text: bytes, samples: int) -> None:
        words = re.findall(rb"\w+|\S", text)
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
        ids = [vocabulary[word] for word in words]
        self.records = [_make_record(ids, number) for number in range(_RECORDS)]
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Record:
        return self.records[index % _RECORDS]


def _make_record(ids: list[int], number: int) -> Record:
    length = 16 + (number * 7_919) % 497
    start = (number * 104_729) % (len(ids) - length)
    chosen = ids[start : start + length]
    prompt = length // 8
    labels = [_IGNORED] * prompt + chosen[prompt:]
    return {"input_ids": chosen, "labels": labels, "number": number}


def collate_padded(batch: list[Record]) -> dict[str, torch.Tensor]:
    """Pad ids and labels to the longest record, `(batch, longest)`, with a mask."""
    ids = [torch.tensor(record["input_ids"]) for record in batch]
    labels = [torch.tensor(record["labels"]) for record in batch]
    lengths = torch.tensor([len(each) for each in ids])
    padded = pad_sequence(ids, batch_first=True)
    return {
        "input_ids": padded,
        "attention_mask": torch.arange(padded.shape[1]) < lengths[:, None],
        "labels": pad_sequence(labels, batch_first=True, padding_value=_IGNORED),
        "number": torch.tensor([record["number"] for record in batch]),
    }


def collate_flattened(batch: list[Record]) -> dict[str, Any]:
    """Put records behind one another, `(1, all)`, as `DataCollatorWithFlattening` does."""
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    for record in batch:
        ids += record["input_ids"]
        labels += record["labels"]
        positions += range(len(record["input_ids"]))
    lengths = [len(record["input_ids"]) for record in batch]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "number": torch.tensor([record["number"] for record in batch]),
        "position_ids": torch.tensor([positions]),
        "cu_seqlens": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        "max_seqlen": max(lengths),
    }


def collate_nested(batch: list[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
    """Join sequences to a jagged nested tensor, beside the labels."""
    sequences, labels = zip(*batch, strict=True)
    nested = torch.nested.nested_tensor(list(sequences), layout=torch.jagged)
    return [nested, torch.tensor(labels)]


def _padded_as_usual(batch: Any) -> dict[str, torch.Tensor]:
    (data, lengths), labels = batch
    return {"tokens": data, "lengths": lengths, "labels": labels}


def _packed_as_usual(batch: Any) -> dict[str, Any]:
    return {
        **batch.data,
        "position_ids": batch.position_ids,
        "cu_seqlens": batch.cu_seqlens,
        "max_seqlen": batch.max_seqlen,
    }


def pad_usual(samples: int) -> Recipe:
    """The byte sequences of `tokens`, padded in the usual way."""
    return tokens(samples)


def pad_own(samples: int) -> Recipe:
    """The byte sequences of `tokens`, padded by us."""
    return Recipe(tokens(samples).dataset, {"collate_fn": fastload.pad}, _padded_as_usual)


def pad_dict_usual(samples: int) -> Recipe:
    """Token records, padded in the usual way."""
    return Recipe(_token_records(samples), {"collate_fn": collate_padded})


def pad_dict_own(samples: int) -> Recipe:
    """Token records, padded by us."""
    fields = {
        "input_ids": fastload.Pad(returns="mask"),
        "labels": fastload.Pad(value=_IGNORED, returns="data"),
    }
    collate = fastload.PadDict(fields, mask="attention_mask")
    return Recipe(_token_records(samples), {"collate_fn": collate})


def pack_usual(samples: int) -> Recipe:
    """Token records, put behind one another in the usual way."""
    return Recipe(_token_records(samples), {"collate_fn": collate_flattened})


def pack_own(samples: int) -> Recipe:
    """Token records, put behind one another by us."""
    return Recipe(_token_records(samples), {"collate_fn": fastload.Pack()}, _packed_as_usual)


def ragged_usual(samples: int) -> Recipe:
    """The byte sequences of `tokens`, as nested tensors made by torch."""
    return Recipe(_nestable_tokens(samples), {"collate_fn": collate_nested})


def ragged_own(samples: int) -> Recipe:
    """The byte sequences of `tokens`, as nested tensors made by us."""
    return Recipe(_nestable_tokens(samples), {"collate_fn": fastload.ragged})


def _nestable_tokens(samples: int) -> Dataset[Any]:
    """The dataset, once torch has imported what its first nested tensor needs, for seconds."""
    torch.nested.nested_tensor([torch.zeros(1)], layout=torch.jagged)
    dataset: Dataset[Any] = tokens(samples).dataset
    return dataset


def _token_records(samples: int) -> TokenRecords:
    return TokenRecords(library_text()[:_TEXT_BYTES], samples)
