"""Describe a network as one hashable value: all that decides which kernels it launches, but weights and images."""

from collections.abc import Hashable, Iterator
from enum import Enum
from functools import partial
from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CONSTANTS = (bool, int, float, complex, str, type, FunctionType, BuiltinFunctionType, Enum, torch.dtype, torch.device)


class StandIn:
    """Takes the place of a network's ``forward`` for a while, and is no part of the network."""


def structure_of(network: nn.Module) -> Hashable | None:
    """Return all that a network's kernels depend on but weights and images; nothing where that is unknown.

    A hook that is a ``functools.partial`` of numbers counts as a part of the network, as those of narrow networks are.
    """
    parts: list[Hashable] = []
    first: dict[int, str] = {}
    try:
        for name, module in network.named_modules(remove_duplicate=False):
            if any(getattr(module, hooks) for hooks in _BACKWARD_HOOKS):
                return None
            hooks = [_hook(hook) for kind in _FORWARD_HOOKS for hook in getattr(module, kind).values()]
            parts.append((name, type(module), *hooks, *((key, _constant(value)) for key, value in _own(module))))
    except (TypeError, RecursionError):  # a module may hold one that holds it
        return None
    every = network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    for name, tensor in chain(*every):
        if not tensor.is_leaf or tensor._backward_hooks:
            return None
        same = first.setdefault(id(tensor), name)
        parts.append((name, same, tensor.shape, tensor.dtype, tensor.stride(), tensor.requires_grad))
    return tuple(parts)


def attributes_of(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield where each constant, weight and buffer of a network is found, its name and what it is."""
    for module in network.modules():
        yield from ((vars(module), name, value) for name, value in _own(module))
        for held in (module._parameters, module._buffers):
            yield from ((held, name, value) for name, value in held.items())


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that not every module has, and the mode."""
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE and not isinstance(value, StandIn):
            yield name, value


def _hook(hook: object) -> Hashable:
    numbers = isinstance(hook, partial) and (*hook.args, *hook.keywords.values())
    if not numbers or not all(isinstance(each, int | float) for each in numbers):
        raise TypeError(hook)
    return _constant(hook)


def _constant(value: object) -> Hashable:
    """Return a constant by its value.

    Raises:
        TypeError: it could hold tensors, or change.
    """
    if isinstance(value, partial):
        return value.func, _constant(value.args), _constant(value.keywords)
    if isinstance(value, dict):
        return dict, *((name, _constant(each)) for name, each in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), *map(_constant, value)
    if value is None or isinstance(value, _CONSTANTS):
        return type(value), value
    structure = structure_of(value) if isinstance(value, nn.Module) and _is_without_weights(value) else None
    if structure is None:
        raise TypeError(value)
    return structure


def _is_without_weights(network: nn.Module) -> bool:
    """Whether a network is the mere form of one, as a stack holds that of its members."""
    return all(tensor.is_meta for tensor in chain(network.parameters(), network.buffers()))
