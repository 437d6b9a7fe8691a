"""Images that are read pixel by pixel, as batches of sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.envs.images import datasets
from semigradient.envs.memory.streams import Batch


class Pixels:
    """scikit-learn's digits, one pixel a step, top left first; the class is wanted at the last.

    Args:
        split: train or test.
        batch: B.
        seed: of the order of the images.
        permuted: the pixels of all images in one random order, the same for every seed.
    """

    classes = 10

    def __init__(self, split: str, batch: int, seed: int, permuted: bool) -> None:
        images = datasets.load("digits", split)
        # Each of the 64 pixels comes four by four.
        whole = torch.as_tensor(images.images[:, 0])[..., ::4, ::4].float() / 255
        self.pixels = whole.flatten(1)
        self.labels = torch.as_tensor(images.labels)
        if permuted:
            draw = torch.Generator().manual_seed(0)
            self.pixels = self.pixels[:, torch.randperm(self.pixels.shape[1], generator=draw)]
        self.batch, self.generator = batch, torch.Generator().manual_seed(seed)

    def whole(self) -> Batch:
        """B images, drawn with replacement."""
        chosen = torch.randint(len(self.labels), (self.batch,), generator=self.generator)
        return _sequences(self.pixels[chosen], self.labels[chosen])

    def every(self) -> Batch:
        """All images."""
        return _sequences(self.pixels, self.labels)


def _sequences(pixels: Tensor, labels: Tensor) -> Batch:
    inputs = pixels.T[..., None]
    steps, batch, _ = inputs.shape
    is_last = (torch.arange(steps) == steps - 1)[:, None].expand(steps, batch)
    is_first = (torch.arange(steps) == 0)[:, None].expand(steps, batch)
    return Batch(inputs, labels.expand(steps, batch), is_last, is_first)
