"""The ranks of a reference training: one process, or several that `torchrun` started.

    torchrun --nproc-per-node 2 -m fastload train

Runs in: consumer.
Takes: the environment that `torchrun` sets.
Gives: what differs between one rank and several: the module's gradients, sums, what counts.

With several ranks the loss is the mean over the samples of all ranks, and what an incomplete step
was filled with does not count. So two ranks with batches of 32 train like one with batches of 64,
up to the order in which numbers are added.
"""

import contextlib
import gc
import os
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed
from torch import nn

_LONGEST_WAIT = timedelta(minutes=5)  # for another rank; after that the run fails


class RankLostError(RuntimeError):
    """Another rank of the training has ended, or does not answer."""


class Ranks(Protocol):
    """What a training step asks of the ranks.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module to call in training: its gradients are the mean over the ranks."""

    def without_exchange(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Within the block, `backward` adds to this rank's own gradients only."""

    def counted(self, samples: int, loader: Any) -> torch.Tensor:
        """Return which of the newest batch's samples count `(samples,)`: those not filled in."""

    def sum(self, value: float) -> float:
        """Return the sum over the ranks."""

    def same(self, value: Any) -> Any:
        """Return what the first rank has."""


class OneRank:
    """A training in one process."""

    rank = 0
    size = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module itself."""
        return module

    def without_exchange(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """Return a block without effect."""
        return contextlib.nullcontext()

    def counted(self, samples: int, loader: Any) -> torch.Tensor:  # noqa: ARG002
        """Return that all samples count."""
        return torch.ones(samples, dtype=torch.bool, device="cpu")

    def sum(self, value: float) -> float:
        """Return the value."""
        return value

    def same(self, value: Any) -> Any:
        """Return the value."""
        return value


class SeveralRanks:
    """A training in several processes, over torch.distributed's default group.

    All ranks take equally many steps, so none waits for another one at the end of an epoch, and
    the loader's `mask()` says which samples were only filled in.
    """

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module such that `backward` takes the mean of the gradients over the ranks."""
        return nn.parallel.DistributedDataParallel(module)

    def without_exchange(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Within the block, `backward` adds to this rank's own gradients only."""
        no_sync: contextlib.AbstractContextManager[None] = wrapped.no_sync()  # type: ignore[operator]
        return no_sync

    def counted(self, samples: int, loader: Any) -> torch.Tensor:  # noqa: ARG002
        """Return the loader's mask of the newest batch."""
        mask: torch.Tensor = loader.mask()
        return mask

    def sum(self, value: float) -> float:
        """Return the sum over the ranks; each has to call this."""
        total = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return total.item()

    def same(self, value: Any) -> Any:
        """Return what the first rank gave; each has to call this."""
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the process group of this program's ranks, if there are several, until leaving.

    Raises:
        RankLostError: another rank has ended, or does not answer within five minutes.
    """
    if rank_count() == 1:
        yield OneRank()
        return
    torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield SeveralRanks()
    except RuntimeError as error:
        traceback.clear_frames(error.__traceback__)  # they refer to the wrapped module
        if not _is_of_gloo(error):
            raise
        raise RankLostError(
            f"rank {os.environ['RANK']} of {rank_count()} can't go on: another rank has ended or "
            f"does not answer, and what it wrote says why. The training goes on from its newest "
            f"checkpoint (--checkpoint FILE --resume), also with fewer ranks"
        ) from error
    finally:
        # The wrapped module must be gone first. Otherwise it is the last to refer to the group, and
        # the group's threads are joined while the interpreter's lock is held, which some of them
        # need: about one run in five hung for ever.
        gc.collect()
        torch.distributed.destroy_process_group()


def rank_count() -> int:
    """Return how many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_of_gloo(error: RuntimeError) -> bool:
    """Whether a connection to another rank failed: torch has no type of its own for it."""
    text = str(error)
    return "gloo" in text or "closed by peer" in text or "reset by peer" in text
