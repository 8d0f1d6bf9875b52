"""What fastload.pad makes of sequences, compared with pad_sequence and with loops."""

from __future__ import annotations

import functools
import pickle
from typing import Any, NamedTuple

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

import fastload
from fastload import Masked, Pad, Padded, pad

from .samples import DTYPES, assert_equal, padded_by_hand, sequence

LENGTHS = [3, 0, 5, 1]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_any_dtype_are_padded(dtype: torch.dtype, side: str) -> None:
    """Bit for bit, on either side, with a value of that dtype."""
    tensors = [sequence(length, dtype) for length in LENGTHS]
    data, lengths = pad(tensors, value=1, side=side)
    assert_equal(data, padded_by_hand(tensors, 1, side))
    assert lengths.tolist() == LENGTHS
    assert lengths.dtype == torch.int64


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("feature", [(), (2,), (2, 3), (1,), (0,)])
def test_trailing_shapes_are_kept(feature: tuple[int, ...], side: str) -> None:
    """Sequences of vectors, of matrices, of nothing."""
    tensors = [sequence(length, torch.float32, feature) for length in LENGTHS]
    data, _ = pad(tensors, value=0.5, side=side)
    assert_equal(data, padded_by_hand(tensors, 0.5, side))
    assert data.is_contiguous()


@given(
    st.lists(
        arrays.arrays(
            arrays.integer_dtypes(endianness="=") | arrays.floating_dtypes(endianness="="),
            st.tuples(st.integers(0, 6), st.just(2)),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["right", "left"]),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_arrays_are_padded_as_the_tensors_of_them(samples: Any, side: str, multiple: int) -> None:
    """Also of different dtypes, which are promoted as torch promotes them."""
    tensors = [torch.tensor(sample) for sample in samples]
    try:
        dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    except RuntimeError:  # torch does not promote some unsigned dtypes
        with pytest.raises(RuntimeError):
            pad(samples)
        return
    longest = -(-max(map(len, tensors)) // multiple) * multiple
    expected = padded_by_hand([tensor.to(dtype) for tensor in tensors], 0, side, longest)
    for given_samples in (samples, tensors):
        data, lengths = pad(given_samples, side=side, multiple_of=multiple)
        assert_equal(data, expected)
        assert lengths.tolist() == list(map(len, tensors))


@given(
    st.lists(
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)
        | st.lists(st.floats(width=32), max_size=6)
        | st.lists(st.booleans(), max_size=6)
        | st.lists(st.booleans() | st.integers(-5, 5) | st.floats(width=32), max_size=6)
        | st.lists(st.complex_numbers(width=64), max_size=3),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None)
def test_lists_are_padded_as_the_tensors_of_them(samples: list[list[Any]]) -> None:
    """The dtype is what torch.tensor gives for what is in them."""
    known = [torch.tensor(sample) for sample in samples if sample]
    dtypes = [tensor.dtype for tensor in known] or [torch.int64]
    dtype = functools.reduce(torch.promote_types, dtypes)
    expected = [
        torch.tensor(sample).to(dtype) if sample else torch.empty(0, dtype=dtype)
        for sample in samples
    ]
    data, _ = pad(samples)
    assert_equal(data, padded_by_hand(expected))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if "float8" not in str(d)], ids=str)
def test_lists_can_be_given_a_dtype(dtype: torch.dtype) -> None:
    """As torch.tensor converts them."""
    samples = [[1, 0], [], [1]]
    data, _ = pad(samples, dtype=dtype)
    assert_equal(data, torch.tensor([[1, 0], [0, 0], [1, 0]]).to(dtype))


def test_lists_follow_the_default_dtype() -> None:
    """Python floats become what torch makes of them at the time."""
    torch.set_default_dtype(torch.float64)
    try:
        assert pad([[0.1], [1]]).data.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert pad([[0.1], [1]]).data.dtype == torch.float32


def test_fractions_after_integers_are_not_lost() -> None:
    """A list may begin with an integer and go on with a fraction."""
    assert pad([[1, 2.5], [3]]).data.tolist() == [[1, 2.5], [3, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
def test_numbers_that_a_dtype_can_not_hold_are_an_error(dtype: torch.dtype) -> None:
    """Not a number that wrapped around."""
    with pytest.raises(fastload.CollateError, match="position 1 of the batch"):
        pad([[1], [2**40]], dtype=dtype)


@pytest.mark.parametrize("numbers", [[0.5, 2, 1e300], [True, 3, 2.5], [np.float64(0.1), -0.0]])
def test_lists_of_floats_are_what_torch_makes_of_them(numbers: list[float]) -> None:
    """Rounded alike, with the same infinities."""
    expected = torch.tensor([float(number) for number in numbers], dtype=torch.float32)
    for samples in ([numbers, [1.5]], [[1.5], numbers]):
        found = pad(samples, dtype=torch.float32).data[samples.index(numbers)]
        assert torch.equal(found, expected)


def test_lists_of_lists_have_a_trailing_shape() -> None:
    """Boxes of detection targets, say, also where one image has none."""
    data, lengths = pad([[[1, 2], [3, 4]], [], [[5, 6]]])
    assert data.tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[5, 6], [0, 0]]]
    assert lengths.tolist() == [2, 0, 1]


def test_tensors_arrays_and_lists_can_be_mixed() -> None:
    """Each is a sequence; the dtypes are promoted."""
    data, _ = pad([torch.tensor([1, 2]), np.array([0.5]), [3, 4, 5]])
    assert data.tolist() == [[1, 2, 0], [0.5, 0, 0], [3, 4, 5]]
    assert data.dtype == torch.float64


def test_result_is_that_of_pad_sequence() -> None:
    """The usual way, for the usual case."""
    tensors = [torch.randn(length, 4) for length in (5, 2, 7)]
    assert_equal(pad(tensors).data, pad_sequence(tensors, batch_first=True))
    left = pad_sequence(tensors, batch_first=True, padding_side="left", padding_value=2.5)
    assert_equal(pad(tensors, side="left", value=2.5).data, left)


@pytest.mark.parametrize("sample", [[1, 2], torch.tensor([1, 2]), np.array([1, 2])], ids=repr)
def test_one_sample_is_a_batch(sample: Any) -> None:
    """Without padding."""
    data, lengths = pad([sample])
    assert (data.tolist(), lengths.tolist()) == ([[1, 2]], [2])


def test_empty_sequences_alone_make_an_empty_batch() -> None:
    """Of their dtype; lists that are all empty are int64."""
    data, lengths = pad([torch.empty(0, 3, dtype=torch.float16)] * 2)
    assert (data.shape, data.dtype, lengths.tolist()) == ((2, 0, 3), torch.float16, [0, 0])
    data, _ = pad([[], []])
    assert (data.shape, data.dtype) == ((2, 0), torch.int64)


def test_samples_that_are_not_contiguous_are_read_in_order() -> None:
    """Transposed, reversed, strided, expanded, read-only."""
    read_only = np.arange(3)
    read_only.flags.writeable = False
    data, _ = pad([np.arange(6)[::-2], read_only, np.broadcast_to(7, 2)])
    assert data.tolist() == [[5, 3, 1], [0, 1, 2], [7, 7, 0]]
    data, _ = pad([torch.arange(6).reshape(2, 3).T, torch.arange(8).reshape(2, 4)[:, ::2]])
    assert data.tolist() == [[[0, 3], [1, 4], [2, 5]], [[0, 2], [4, 6], [0, 0]]]


def test_conjugated_tensors_are_resolved() -> None:
    """What is padded is the value, not the memory behind it."""
    tensor = torch.tensor([1 + 2j, 3 - 1j])
    data, _ = pad([tensor.conj(), tensor[:1]])
    assert data.tolist() == [[1 - 2j, 3 + 1j], [1 + 2j, 0]]
    data, _ = pad([tensor.conj().imag])
    assert data.tolist() == [[-2, 1]]


def test_samples_are_not_changed_and_not_shared() -> None:
    """A batch is new memory."""
    samples = [torch.tensor([1, 2]), torch.tensor([3, 4])]
    data, _ = pad(samples)
    data.zero_()
    assert [sample.tolist() for sample in samples] == [[1, 2], [3, 4]]


def test_length_is_rounded_up() -> None:
    """To a multiple, for kernels that like it."""
    assert pad([[1] * 9, [1]], multiple_of=8).data.shape == (2, 16)
    assert pad([[1] * 8, [1]], multiple_of=8).data.shape == (2, 8)
    assert pad([[]], multiple_of=8).data.shape == (1, 0)


def test_long_sequences_are_an_error_unless_cut() -> None:
    """Nothing is lost silently; told so, the beginning or the end is kept."""
    samples = [[1, 2, 3, 4], [5]]
    with pytest.raises(fastload.CollateError, match="length 4, but max_length is 3"):
        pad(samples, max_length=3)
    data, lengths = pad(samples, max_length=3, truncate="right")
    assert (data.tolist(), lengths.tolist()) == ([[1, 2, 3], [5, 0, 0]], [3, 1])
    data, lengths = pad(samples, max_length=3, truncate="left", side="left")
    assert (data.tolist(), lengths.tolist()) == ([[2, 3, 4], [0, 0, 5]], [3, 1])
    assert pad(samples, max_length=9).data.shape == (2, 4)


def test_every_batch_has_one_length_if_told_so() -> None:
    """With ``multiple_of`` equal to ``max_length``."""
    assert pad([[1, 2], [3]], max_length=8, multiple_of=8).data.shape == (2, 8)


def test_truncating_does_not_change_the_samples() -> None:
    """The list of samples, and they, are the caller's."""
    samples = [np.arange(5), np.arange(2)]
    pad(samples, max_length=3, truncate="right")
    assert [len(sample) for sample in samples] == [5, 2]


@pytest.mark.parametrize("side", ["right", "left"])
def test_mask_is_true_where_a_sequence_is(side: str) -> None:
    """On the side where it is."""
    data, mask = pad([[1, 2, 3], [], [4]], side=side, returns="mask")
    assert mask.dtype == torch.bool
    assert torch.equal(mask, data != 0)


def test_data_alone_is_a_tensor() -> None:
    """For fields that share another's lengths."""
    data = pad([[1, 2], [3]], returns="data")
    assert data.tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize("dim", [1, -1])
def test_another_dimension_can_be_the_ragged_one(dim: int) -> None:
    """Spectrograms ``(mel, time)``, counted from either end."""
    samples = [torch.ones(2, 3), torch.ones(2, 1)]
    data, lengths = pad(samples, dim=dim)
    assert data.tolist() == [[[1, 1, 1]] * 2, [[1, 0, 0]] * 2]
    assert lengths.tolist() == [3, 1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_several_dimensions_can_be_ragged(side: str) -> None:
    """Images of any size: lengths and mask in both dimensions."""
    images = [torch.ones(3, 2, 5), torch.ones(3, 4, 1)]
    data, lengths = pad(images, dim=(1, 2), side=side)
    assert lengths.tolist() == [[2, 5], [4, 1]]
    expected = torch.zeros(2, 3, 4, 5)
    for image, place in zip(images, expected, strict=True):
        _, height, width = image.shape
        region = place[:, :height, :width] if side == "right" else place[:, -height:, -width:]
        region.copy_(image)
    assert_equal(data, expected)
    _, mask = pad(images, dim=(1, 2), side=side, returns="mask")
    assert torch.equal(mask, expected[:, 0] == 1)
    cut = pad(images, dim=(1, 2), max_length=2, truncate="right").data
    assert cut.shape == (2, 3, 2, 2)


class Record(NamedTuple):
    tokens: Any
    label: Any


def test_sequences_in_tuples_and_dicts_are_padded_and_the_rest_is_stacked() -> None:
    """Each sequence becomes data with lengths, in its place; lists of strings stay lists."""
    samples = [
        ([1, 2], 0, {"frames": torch.ones(1, 2), "words": ["a", "b"], "name": "x"}),
        ([3], 1, {"frames": torch.ones(2, 2), "words": [], "name": "y"}),
    ]
    tokens, labels, rest = pad(samples)
    assert isinstance(tokens, Padded)
    assert tokens.data.tolist() == [[1, 2], [3, 0]]
    assert torch.equal(labels, torch.tensor([0, 1]))
    assert rest["frames"].lengths.tolist() == [1, 2]
    assert rest["words"] == [["a", "b"], []]
    assert rest["name"] == ["x", "y"]


def test_containers_keep_the_form_that_the_default_collate_gives_them() -> None:
    """A named tuple stays one, a tuple becomes a list, a list of tensors is a container."""
    batch = pad([Record([1, 2], 0.5), Record([3], 1.5)])
    assert type(batch) is Record
    assert batch.label.dtype == torch.float64
    tensors, names = pad([[torch.ones(1), "a"], [torch.ones(2), "b"]])
    assert isinstance(tensors, Padded)
    assert names == fastload.default_collate([[1, "a"], [2, "b"]])[1]


def test_form_of_a_batch_does_not_depend_on_lengths() -> None:
    """Sequences that happen to be equally long are padded fields too."""
    (tokens, labels) = pad([([1, 2], 0), ([3, 4], 1)])
    assert isinstance(tokens, Padded)
    assert isinstance(labels, torch.Tensor)


def test_only_the_named_fields_are_padded() -> None:
    """An image is stacked beside its caption."""
    samples = [(torch.ones(3, 4, 4), [1, 2], 7), (torch.ones(3, 4, 4), [3], 8)]
    assert pad(samples, fields=1)[1].lengths.tolist() == [2, 1]
    images, captions, labels = pad(samples, fields=[1])
    assert images.shape == (2, 3, 4, 4)
    assert captions.data.tolist() == [[1, 2], [3, 0]]
    assert labels.tolist() == [7, 8]
    batch = pad([{"a": [1], "b": (2,)}, {"a": [1, 2], "b": (3,)}], fields=["a"])
    assert batch["a"].lengths.tolist() == [1, 2]
    assert batch["b"][0].tolist() == [2, 3]
    assert pad([{"ab": [1], "c": (2,)}], fields="ab")["ab"].lengths.tolist() == [1]
    named = pad([Record([1], 2), Record([1, 2], 3)], fields=[0])
    assert (type(named), named.tokens.lengths.tolist()) == (Record, [1, 2])


def test_settings_can_be_given_in_three_ways() -> None:
    """As keywords, in a partial, as an object; all can be sent to a worker."""
    samples = [[1, 2], [3]]
    expected = pad(samples, value=-1, returns="mask")
    for collate in (Pad(-1, returns="mask"), functools.partial(pad, value=-1, returns="mask")):
        got = pickle.loads(pickle.dumps(collate))(samples)
        assert isinstance(got, Masked)
        assert_equal(got.data, expected.data)
        assert_equal(got.mask, expected.mask)


WRONG = {
    "side": ({"side": "top"}, 'side is "left" or "right"'),
    "truncate": ({"truncate": "middle", "max_length": 3}, "truncate is"),
    "truncate alone": ({"truncate": "left"}, "needs max_length"),
    "returns": ({"returns": "both"}, "returns is"),
    "length": ({"max_length": 0}, "max_length is a positive integer"),
    "multiple": ({"multiple_of": 2.5}, "multiple_of is a positive integer"),
    "multiple above": ({"max_length": 100, "multiple_of": 8}, "not a multiple of multiple_of=8"),
    "dim": ({"dim": ()}, "dim is"),
    "dims twice": ({"dim": (1, 1)}, "dim is"),
    "dim of a name": ({"dim": "time"}, "dim is"),
    "value": ({"value": "x"}, "value is a number"),
    "no value": ({"value": None}, "value is a number"),
    "dtype": ({"dtype": np.int32}, "dtype is a torch.dtype"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_settings_are_refused_at_once(name: str) -> None:
    """Before a worker has started."""
    wrong, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        Pad(**wrong)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (-1, torch.uint8),
        (0.5, torch.int64),
        (2, torch.bool),
        (2**70, torch.int64),
        (1j, torch.float32),
    ],
    ids=str,
)
def test_value_that_the_dtype_can_not_hold_is_refused(value: Any, dtype: torch.dtype) -> None:
    """Not padded with another number."""
    with pytest.raises(ValueError, match="can't be an element of"):
        pad([sequence(2, dtype), sequence(1, dtype)], value=value)


def test_no_samples_are_an_error() -> None:
    """There is nothing to make a batch of."""
    with pytest.raises(fastload.CollateError, match="no sample"):
        pad([])
