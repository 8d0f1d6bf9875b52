"""Run in two processes, or imported in one: a seeded Trainer's losses, as JSON.

The model has no dropout, whose draws each rank makes for itself, and the samples fill all steps.
"""

import json
import sys
from typing import Any

from fastload.integrations.transformers import use_fastload

if __package__:
    from .with_transformers import losses, make_trainer
else:
    from with_transformers import losses, make_trainer  # type: ignore[import-not-found,no-redef]


def trained(folder: Any, ranks: int, checkpoint: Any = None) -> Any:
    """The losses of a training with a global batch of 4."""
    trainer = make_trainer(
        folder,
        dropout=0.0,
        samples=24,
        batch_size=4 // ranks,
        average_tokens_across_devices=False,  # its model's loss is a mean over samples
    )
    use_fastload(trainer, seed=7).train(resume_from_checkpoint=checkpoint)
    return losses(trainer)


if __name__ == "__main__":
    folder, *checkpoint = sys.argv[1:]
    print(json.dumps(trained(folder, 2, *checkpoint)))
