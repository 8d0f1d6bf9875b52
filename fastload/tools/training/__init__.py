"""The reference training loop behind `fastload train`: small modules, real data, any loader."""

from typing import TYPE_CHECKING, Any

from fastload.tools.training.config import Step, TrainingConfig, TrainingResult

if TYPE_CHECKING:
    from fastload.tools.training.reference_loop import train

__all__ = ["Step", "TrainingConfig", "TrainingResult", "train"]


def __getattr__(name: str) -> Any:
    """Import the loop, and torch with it, when it is first asked for."""
    if name == "train":
        from fastload.tools.training.reference_loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
