"""A script for Hugging Face's Trainer: it trains, evaluates, and goes on in mid-epoch."""

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

warnings.simplefilter("ignore")
logging.getLogger("transformers").setLevel(logging.ERROR)


class Sentences(Dataset[Any]):
    """Token numbers that say their label, some of them replaced at random."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        tokens = (torch.arange(6) * (index + 1)) % 29
        tokens[torch.rand(6) < 0.2] = int(np.random.randint(29))
        return {"input_ids": tokens, "attention_mask": torch.ones(6).long(), "labels": index % 2}


def make_trainer(
    folder: Any,
    workers: int = 0,
    *,
    dropout: float = 0.1,
    samples: int = 22,
    batch_size: int = 4,
    **options: Any,
) -> Any:
    """A trainer of a tiny model, built here."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=5,
        num_train_epochs=2,
        learning_rate=0.01,
        logging_steps=1,
        save_steps=4,
        dataloader_num_workers=workers,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    model = BertForSequenceClassification(config)
    dataset = Sentences(samples)
    trainer = Trainer(model, args, train_dataset=dataset, eval_dataset=dataset)
    trainer.remove_callback(PrinterCallback)  # which prints how long things took
    return trainer


def losses(trainer: Any) -> Any:
    """The loss of every step, those before a checkpoint included."""
    history = trainer.state.log_history
    return [[entry["step"], entry["loss"]] for entry in history if "loss" in entry]


def main() -> None:
    workers = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, workers)
        trainer.train()
        for step, loss in losses(trainer):
            print("step", step, repr(loss))
        print("evaluation", trainer.evaluate()["eval_loss"])
        again = make_trainer(folder, workers)
        again.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-4"))
        for step, loss in losses(again)[4:]:
            print("again", step, repr(loss))


if __name__ == "__main__":
    main()
