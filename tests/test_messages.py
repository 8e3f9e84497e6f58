import dataclasses
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from mosaic import messages
from mosaic.codec import decode, encode
from mosaic.messages import ClientState, Declined, Failed, Reply, Request, TrainReply
from tests.cases import for_each

MESSAGES = [*get_args(Request), *get_args(Reply), ClientState]
EXAMPLES: dict[Any, object] = {
    int: 7,
    bool: True,
    float: 0.25,
    str: "because",
    Tensor: torch.arange(3),
    messages.StateDict: {"body.0.weight": torch.ones(2, 2), "count": torch.tensor(5)},
    dict[str, float]: {"loss": 1.5},
}


def example(message: type) -> Any:
    return message(**{field.name: EXAMPLES[field.type] for field in dataclasses.fields(message)})


def same(one: object, other: object) -> bool:
    match one:
        case Tensor():
            return isinstance(other, Tensor) and torch.equal(one, other)
        case dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case _:
            return type(one) is type(other) and one == other


@for_each("message", MESSAGES)
def test_every_message_survives_the_wire(message: type) -> None:
    sent = example(message)
    got = decode(encode(sent), message)
    assert all(same(getattr(sent, f.name), getattr(got, f.name)) for f in dataclasses.fields(message))


@for_each("message", MESSAGES)
def test_messages_are_frozen(message: type) -> None:
    first = dataclasses.fields(message)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(example(message), first, None)


@for_each("message", MESSAGES)
def test_no_field_is_optional(message: type) -> None:
    with pytest.raises(TypeError, match="missing"):
        message()
    assert all(f.default is f.default_factory is dataclasses.MISSING for f in dataclasses.fields(message))


@for_each("message", [*get_args(Request), *get_args(Reply)])
def test_every_message_names_its_client(message: type) -> None:
    assert dataclasses.fields(message)[0].name == "client"


def test_each_request_has_one_reply_class() -> None:
    asked = {request.__name__.removesuffix("Request") for request in get_args(Request)}
    answered = {reply.__name__.removesuffix("Reply") for reply in get_args(Reply)}
    assert answered == asked | {Declined.__name__, Failed.__name__}


@pytest.mark.parametrize(("counts", "images"), [([3, 0, 0], 3), ([0, 0, 4], 4), ([1, 2, 3], 6)])
def test_class_zero_and_absent_classes_are_counted_as_they_are(counts: list[int], images: int) -> None:
    assert TrainReply(0, {}, torch.tensor(counts), {}, {}).num_examples == images
