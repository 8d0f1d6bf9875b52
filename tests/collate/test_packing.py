"""What fastload.pack makes of sequences: rows, segments, positions."""

from __future__ import annotations

import functools
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload import CollateError, Pack, Packed, pack
from fastload.collate.packing_plan import first_fit_decreasing

from .samples import DTYPES, assert_equal, bits, sequence


def first_fit_by_hand(lengths: list[int], width: int) -> list[list[int]]:
    """From the definition."""
    bins: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        if lengths[item] == 0:
            continue
        for contained in bins:
            if sum(lengths[other] for other in contained) + lengths[item] <= width:
                contained.append(item)
                break
        else:
            bins.append([item])
    return bins


@given(
    st.integers(1, 30).flatmap(
        lambda width: st.tuples(st.just(width), st.lists(st.integers(0, width), max_size=40))
    )
)
@settings(deadline=None)
def test_each_sequence_lies_in_the_first_row_with_room(case: tuple[int, list[int]]) -> None:
    """First-fit decreasing, as defined."""
    width, lengths = case
    assert first_fit_decreasing(lengths, width) == first_fit_by_hand(lengths, width)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.sampled_from([None, 9, 12, 64]))
@settings(deadline=None)
def test_every_sequence_is_found_whole_where_the_indices_say(
    lengths: list[int], max_length: int | None
) -> None:
    """By segment, by position and by sample; what is in no segment of a sample is padding."""
    samples = [sequence(length) + 10 * number for number, length in enumerate(lengths)]
    packed = pack(samples, max_length, value=-7)
    flat = packed.data.flatten(0, 1)
    numbers, positions = packed.sequence_ids.flatten(), packed.position_ids.flatten()
    begins = packed.cu_seqlens.tolist()
    assert (begins[0], begins[-1]) == (0, len(flat))
    assert packed.max_seqlen == max((b - a for a, b in itertools.pairwise(begins)), default=0)
    found = []
    for begin, end in itertools.pairwise(begins):
        (number,) = set(numbers[begin:end].tolist())
        assert positions[begin:end].tolist() == list(range(end - begin))
        if number < 0:
            assert set(flat[begin:end].tolist()) == {-7}
        else:
            assert flat[begin:end].tolist() == samples[number].tolist()
            found.append(number)
    assert sorted(found) == [number for number, length in enumerate(lengths) if length]
    if max_length is None:
        assert packed.data.shape == (1, sum(lengths))
        assert found == sorted(found)
    else:
        assert packed.data.shape[1] == max_length
        assert set(range(0, len(flat), max_length)) <= set(begins)


@pytest.mark.parametrize("feature", [(), (2,)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sequences_of_any_dtype_are_packed(dtype: torch.dtype, feature: tuple[int, ...]) -> None:
    """Bit for bit, with trailing shapes."""
    samples = [sequence(length, dtype, feature) for length in (2, 3, 1)]
    packed = pack(samples, 4, value=1)
    expected = [samples[1], samples[2], samples[0], torch.ones(2, *feature).to(dtype)]
    joined = torch.cat([bits(tensor) for tensor in expected]).view(dtype)
    assert_equal(packed.data, joined.reshape(2, 4, *feature))


def test_dtypes_are_those_that_kernels_take() -> None:
    """Boundaries int32, positions int64, the longest segment a Python integer."""
    packed = pack([[1, 2], [3]])
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.position_ids.dtype == packed.sequence_ids.dtype == torch.int64
    assert type(packed.max_seqlen) is int


def test_attention_over_segments_is_attention_over_samples() -> None:
    """A block-diagonal mask of the packed row gives what each sample alone would give."""
    torch.manual_seed(0)
    samples = [torch.randn(length, 8) for length in (5, 3, 2)]
    packed = pack(samples, 6)
    same = packed.sequence_ids[:, :, None] == packed.sequence_ids[:, None, :]
    attend = torch.nn.functional.scaled_dot_product_attention
    together = attend(packed.data, packed.data, packed.data, attn_mask=same)
    for number, sample in enumerate(samples):
        alone = attend(sample[None], sample[None], sample[None])[0]
        torch.testing.assert_close(together[packed.sequence_ids == number], alone)


def test_fields_of_a_dict_are_packed_alike() -> None:
    """Each with its own padding; the rest keeps the order of the samples."""
    samples = [
        {"ids": [1], "labels": np.array([1.5]), "name": "a", "words": ["x"]},
        {"ids": [2, 3], "labels": np.array([2.5, 3.5]), "name": "b", "words": []},
    ]
    packed = pack(samples, 4, value={"labels": -100})
    assert packed.data["ids"].tolist() == [[2, 3, 1, 0]]
    assert packed.data["labels"].tolist() == [[2.5, 3.5, 1.5, -100]]
    assert packed.data["name"] == ["a", "b"]
    assert packed.data["words"] == [["x"], []]
    assert packed.sequence_ids.tolist() == [[1, 1, 0, -1]]


def test_tuples_are_packed_by_position() -> None:
    """Sequences beside labels; which fields are sequences can be said."""
    tokens, labels = pack([([1, 2], 7), ([3], 8)]).data
    assert (tokens.tolist(), labels.tolist()) == ([[1, 2, 3]], [7, 8])
    tokens, vectors = pack([([1, 2], torch.ones(3)), ([3], torch.ones(3))], fields=[0]).data
    assert (tokens.shape, vectors.shape) == ((1, 3), (2, 3))


def test_width_is_rounded_up() -> None:
    """The rest is padding."""
    packed = pack([[1, 2], [3]], multiple_of=8)
    assert packed.data.shape == (1, 8)
    assert packed.cu_seqlens.tolist() == [0, 2, 3, 8]


def test_empty_sequences_leave_no_trace() -> None:
    """Not even a segment; alone they are one row of padding, or nothing."""
    assert pack([[], [1], []], 2).cu_seqlens.tolist() == [0, 1, 2]
    alone = pack([[], []], 2)
    assert (alone.data.tolist(), alone.cu_seqlens.tolist()) == ([[0, 0]], [0, 2])
    nothing = pack([[], []])
    assert (nothing.data.shape, nothing.cu_seqlens.tolist(), nothing.max_seqlen) == ((1, 0), [0], 0)


def test_long_sequences_are_an_error_unless_cut() -> None:
    """None is split."""
    samples = [[1], [1, 2, 3]]
    with pytest.raises(CollateError, match="position 1 of the batch has length 3"):
        pack(samples, 2)
    assert pack(samples, 2, truncate="right").data.tolist() == [[1, 2], [1, 0]]
    assert pack(samples, 2, truncate="left").data.tolist() == [[2, 3], [1, 0]]


def test_settings_can_be_sent_to_a_worker() -> None:
    """As an object and in a partial."""
    for collate in (Pack(4), functools.partial(pack, max_length=4)):
        packed = pickle.loads(pickle.dumps(collate))([[1, 2], [3]])
        assert isinstance(packed, Packed)
        assert packed.data.tolist() == [[1, 2, 3, 0]]


WRONG: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "unequal fields": (
        [{"a": [1], "b": [1]}, {"a": [1, 2], "b": [1]}],
        {},
        r"position 1 of the batch has length 1 under \['b'\], but its field 'a' has length 2",
    ),
    "unequal fields that are cut": (
        [{"a": [1, 2, 3], "b": [1, 2, 3, 4]}],
        {"max_length": 2, "truncate": "right"},
        "has length 4 under",
    ),
    "no sequence": ([(1, 2)], {}, r"no field with sequences among \[0, 1\]"),
    "no fields": ([1, 2], {}, "samples have no fields"),
    "unknown field": ([{"a": [1]}], {"fields": ["b"]}, "no field 'b'"),
    "field of another kind": ([{"a": 1}], {"fields": ["a"]}, "no sequence"),
    "trailing shapes": ([torch.ones(1, 2), torch.ones(1, 3)], {}, r"shape \(1, 3\)"),
    "no samples": ([], {}, "no sample"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_samples_that_do_not_fit_are_named(name: str) -> None:
    """What, where, and what to do."""
    samples, keywords, message = WRONG[name]
    with pytest.raises(CollateError, match=message):
        pack(samples, **keywords)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_length": -1},
        {"value": "x"},
        {"value": {"a": None}},
        {"truncate": "left"},
        {"max_length": 9, "truncate": "up"},
        {"max_length": 9, "multiple_of": 2},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_at_once(wrong: dict[str, Any]) -> None:
    """Before a worker has started."""
    with pytest.raises(ValueError, match=r"max_length|truncate|value is a number"):
        Pack(**wrong)
