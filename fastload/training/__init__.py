"""The reference training loop behind `fastload train`: small modules, real data, any loader."""

from fastload.training.config import TrainingConfig, TrainingResult

__all__ = ["TrainingConfig", "TrainingResult"]
