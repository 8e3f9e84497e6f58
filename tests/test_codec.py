import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from mosaic.codec import decode, encode, size_in_bytes, wire
from mosaic.messages import GeneratorReply
from mosaic.server.state import ServerState
from tests.cases import for_each


@wire
@dataclass(frozen=True)
class Parcel:
    content: object


@dataclass(frozen=True)
class Unregistered:
    content: object


def there_and_back(content: object) -> object:
    return decode(encode(Parcel(content)), Parcel).content


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_keep_type_and_every_bit(dtype: torch.dtype, random: torch.Generator) -> None:
    sent = (100 * torch.rand(3, 5, generator=random)).to(dtype)
    got = there_and_back(sent)
    assert got.dtype == dtype
    assert torch.equal(got, sent)


@for_each("shape", [(), (0,), (2, 0, 3), (1,), (2, 3, 4)])
def test_tensors_of_any_shape_survive(shape: tuple[int, ...]) -> None:
    got = there_and_back(torch.ones(shape))
    assert got.shape == shape
    assert torch.equal(got, torch.ones(shape))


def test_views_and_shared_tensors_survive() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    sent = {"whole": whole, "row": whole[1], "turned": whole.T, "again": whole, "repeated": whole[:1].expand(3, 4)}
    got = there_and_back(sent)
    assert all(torch.equal(got[name], tensor) for name, tensor in sent.items())


def test_a_view_does_not_drag_its_storage_along() -> None:
    assert len(encode(Parcel(torch.zeros(100_000)[:10]))) < 1_000


def test_numbers_that_are_not_finite_survive() -> None:
    sent = torch.tensor([float("nan"), float("inf"), -0.0])
    got, number, text = there_and_back([sent, float("inf"), "ä\n"])
    assert got.view(torch.int32).tolist() == sent.view(torch.int32).tolist()
    assert (number, text) == (float("inf"), "ä\n")


def test_plain_values_keep_their_type() -> None:
    sent = {"none": None, "true": True, "one": 1, "half": 0.5, "text": "1"}
    got = there_and_back(sent)
    assert got == sent
    assert [type(value) for value in got.values()] == [type(value) for value in sent.values()]


def test_lists_arrive_as_tuples() -> None:
    assert there_and_back([1, [2, 3]]) == (1, (2, 3))


def test_names_with_a_slash_do_not_collide_with_nested_ones() -> None:
    got = there_and_back({"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}})
    assert (int(got["a/b"]), int(got["a"]["b"])) == (1, 2)


def test_messages_inside_messages_survive() -> None:
    upload = GeneratorReply(3, {"w": torch.ones(2)}, torch.tensor([0, 4]), {"loss": 0.5}, {"d": torch.zeros(7)})
    state = decode(encode(ServerState({"w": torch.zeros(2)}, (upload,))), ServerState)
    (got,) = state.generators
    assert isinstance(got, GeneratorReply)
    assert (got.client, got.class_counts.tolist(), got.metrics) == (3, [0, 4], {"loss": 0.5})


def test_gradients_do_not_travel() -> None:
    assert not there_and_back(torch.ones(2, requires_grad=True)).requires_grad


def test_what_arrives_does_not_share_memory() -> None:
    sent = torch.zeros(3)
    there_and_back(sent).add_(1)
    assert sent.sum() == 0


def test_equal_messages_give_equal_bytes() -> None:
    first, second = (encode(Parcel({"w": torch.arange(5.0), "n": 1})) for _ in range(2))
    assert first == second


@for_each("kept", [0, 4, 8, 30, 100, -1])
def test_truncated_bytes_are_refused(kept: int) -> None:
    with pytest.raises(ValueError, match="expected an encoded Parcel"):
        decode(encode(Parcel(torch.arange(64)))[:kept], Parcel)


def saved(message: object) -> bytes:
    return safetensors.torch.save({"t": torch.ones(1)}, metadata={"message": json.dumps(message)})


def vast() -> bytes:
    """A tensor without a number, whose strides no integer holds."""
    header = {
        "__metadata__": {"message": json.dumps({"$type": "Parcel", "content": {"$tensor": "t"}})},
        "t": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@for_each(
    "foreign",
    [
        b"not a message at all",
        pickle.dumps({"a": 1}),
        safetensors.torch.save({"t": torch.ones(1)}),
        saved([1, 2]),
        saved({"$type": "Popen", "args": "ls"}),
        saved({"$type": "Parcel", "content": {"$tensor": "elsewhere"}}),
        saved({"$type": "Parcel", "another_field": 1}),
        vast(),
    ],
)
def test_foreign_bytes_are_refused(foreign: bytes) -> None:
    with pytest.raises(ValueError, match="expected an encoded Parcel"):
        decode(foreign, Parcel)


def test_another_class_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="expected an encoded Parcel, got a ServerState"):
        decode(encode(ServerState({})), Parcel)


@for_each("content", [object(), {1, 2}, np.zeros(3), nn.Linear(1, 1), Unregistered(1), b"raw", torch.ones])
def test_objects_are_not_sent(content: object) -> None:
    with pytest.raises(TypeError, match="a message holds tensors"):
        encode(Parcel({"deep": [content]}))


def test_only_dataclasses_are_registered() -> None:
    with pytest.raises(TypeError, match="expects a dataclass, got Generator"):
        wire(torch.Generator)


def test_size_counts_every_byte_of_a_tensor() -> None:
    small, large = (size_in_bytes(Parcel(torch.zeros(n, dtype=torch.float64))) for n in (10, 1010))
    assert large - small == 8 * 1000


@pytest.mark.parametrize("tensors", [1, 50])
def test_size_is_the_encoded_length_but_for_the_header(tensors: int) -> None:
    parcel = Parcel({f"layer{i}.weight": torch.zeros(i + 1, 7) for i in range(tensors)})
    missing = len(encode(parcel)) - size_in_bytes(parcel)
    assert 0 <= missing < 100 * (tensors + 1)


@wire
@dataclass(frozen=True)
class Typed:
    number: int
    share: float
    flag: bool
    text: str
    model: dict[str, torch.Tensor]
    nested: dict[str, dict[str, torch.Tensor]]
    several: tuple[float, ...]
    either: Parcel | None


@wire
@dataclass(frozen=True)
class Loose:
    """The fields of :class:`Typed`, as somebody writes them who does not care."""

    number: object
    share: object
    flag: object
    text: object
    model: object
    nested: object
    several: object
    either: object


FITTING = {
    **{"number": 1, "share": 1, "flag": True, "text": "", "model": {"w": torch.zeros(1)}, "nested": {}},
    **{"several": (1, 0.5), "either": None},
}


def test_fields_have_the_types_that_they_declare() -> None:
    got = decode(encode(Typed(**FITTING)), Typed)  # type: ignore[arg-type]
    assert (got.share, got.several) == (1, (1, 0.5))


@for_each(
    "changed",
    [
        {"number": 1.5},
        {"number": True},
        {"share": "1"},
        {"share": False},
        {"flag": 1},
        {"text": None},
        {"model": torch.zeros(1)},
        {"model": {"w": 1.0}},
        {"nested": {"a": {"b": "c"}}},
        {"several": (1, "2")},
        {"several": 1.0},
        {"either": 3},
    ],
)
def test_fields_of_other_types_are_neither_written_nor_read(changed: dict[str, object]) -> None:
    field, values = f"Typed.{next(iter(changed))}: expected", {**FITTING, **changed}
    with pytest.raises(TypeError, match=field):
        encode(Typed(**values))  # type: ignore[arg-type]
    foreign = encode(Loose(*values.values())).replace(b"Loose", b"Typed")
    with pytest.raises(ValueError, match=field):
        decode(foreign, Typed)


def test_a_misfit_among_tensors_is_named() -> None:
    with pytest.raises(TypeError, match=r"Typed\.model: expected .*, got int under 'count'"):
        encode(Typed(**{**FITTING, "model": {"w": torch.zeros(1), "count": 2}}))  # type: ignore[arg-type]


def test_containers_of_other_kinds_may_be_sent() -> None:
    assert decode(encode(Typed(**{**FITTING, "several": [1, 2]})), Typed).several == (1, 2)  # type: ignore[arg-type]


def test_nesting_without_end_is_refused() -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    data = safetensors.torch.save({}, metadata={"message": deep})
    with pytest.raises(ValueError, match="do not decode"):
        decode(data, Parcel)


def test_a_header_beyond_the_limit_is_not_read() -> None:
    data = encode(Parcel({str(i): i for i in range(1000)}))
    assert decode(data, Parcel, largest_header=len(data)).content["999"] == 999
    with pytest.raises(ValueError, match="are allowed"):
        decode(data, Parcel, largest_header=1000)
