"""The random generators that a loader and its samplers own: their states, as plain values.

Runs in: consumer.
Takes: generators of torch, NumPy and Python's ``random`` that are attributes of a sampler.
Gives: states that ``torch.load(weights_only=True)`` reads; and puts generators back into them.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import torch

from fastload._epoch.loader import Loader
from fastload.samplers.epochs import nested


def samplers_of(loader: Loader) -> list[Any]:
    """All samplers of a loader, those inside others too."""
    return nested(loader.sampler) + nested(loader.batch_sampler)


def generators_of(loader: Loader) -> list[Any]:
    """The generators that a loader or its samplers have as attributes, each once."""
    kinds: tuple[Any, ...] = (torch.Generator, random.Random)
    if "numpy.random" in sys.modules:  # which takes long to import, and then nobody has one
        kinds += (np.random.Generator, np.random.RandomState)
    found: dict[int, Any] = {}
    if loader.generator is not None:
        found[id(loader.generator)] = loader.generator
    for sampler in samplers_of(loader):
        for value in tuple(getattr(sampler, "__dict__", {}).values()):
            if isinstance(value, kinds):
                found[id(value)] = value
    return list(found.values())


def state_of(generator: Any) -> Any:
    """The state of a generator, as plain values and tensors."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        version, words, next_gauss = generator.getstate()
        return [version, torch.as_tensor(words, device="cpu"), next_gauss]
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def set_state(generator: Any, state: Any) -> None:
    """Put a generator into a state that ``state_of`` gave for one of its kind."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, words, next_gauss = state
        generator.setstate((version, tuple(words.tolist()), next_gauss))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_numpy(state))
    else:
        generator.bit_generator.state = _numpy(state)


def _plain(state: Any) -> Any:
    """NumPy's state without arrays."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return [str(state.dtype), torch.from_numpy(state.astype(np.int64))]
    return state


def _numpy(state: Any) -> Any:
    """What ``_plain`` was made of."""
    if isinstance(state, dict):
        return {name: _numpy(value) for name, value in state.items()}
    if isinstance(state, list):
        dtype, values = state
        return values.numpy().astype(dtype)
    return state
