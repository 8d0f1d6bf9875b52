"""The modules of the reference training: an encoder per task under one classifier."""

import torch
from torch import nn

from fastload.tools.training.datasets import PADDING, TOKENS


class Classifier(nn.Module):
    """An encoder, a small head, and a learned scale of the logits."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.apply(init_weights)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(batch, classes)` of whatever the encoder takes."""
        logits: torch.Tensor = self.head(self.encoder(*inputs))
        return self.scale * logits


class TextEncoder(nn.Module):
    """Bytes to one vector: embedding, convolution, the maximum over the text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 32, padding_idx=PADDING)
        self.convolution = nn.Sequential(nn.Conv1d(32, width, 5, padding=2), nn.ReLU())

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return `(batch, width)` for tokens and mask `(batch, longest)`."""
        features: torch.Tensor = self.convolution(self.embedding(tokens).transpose(1, 2))
        return features.masked_fill(~mask[:, None], 0.0).amax(dim=2)


def digits_classifier() -> Classifier:
    """Return a classifier of images `(batch, 1, 8, 8)` into ten digits."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return Classifier(encoder, width=32 * 4 * 4, classes=10)


def text_classifier(classes: int) -> Classifier:
    """Return a classifier of padded bytes."""
    return Classifier(TextEncoder(width=96), width=96, classes=classes)


def init_weights(module: nn.Module) -> None:
    """Draw the weights of one layer; biases start at zero."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
