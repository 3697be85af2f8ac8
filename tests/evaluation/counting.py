"""What tests of features that are kept share: a backbone that counts what is asked of it."""

import torch
from torch import nn

from erssl.data import build_eval_transform

N, SHARD, BATCH = 37, 8, 3  # five shards, the last one of five images
TRANSFORM = build_eval_transform(8, (0.5,) * 3, (0.25,) * 3)


class Counting(nn.Sequential):
    """A layer that counts the images it sees, and may break down at one."""

    def __init__(self, width=6, *further):
        torch.manual_seed(1)
        super().__init__(nn.Flatten(), nn.Linear(192, width), *further, nn.GELU())
        self.seen, self._breaks_at = [], None

    def forward(self, images):
        self.seen.append(len(images))
        if self._breaks_at is not None and sum(self.seen) > self._breaks_at:
            raise KeyboardInterrupt
        return super().forward(images)


def take(function, backbone, images, cache_dir, transform=TRANSFORM, **changes):
    """Features, and how many images the backbone saw for them."""
    options = {"batch_size": BATCH, "shard_size": SHARD}
    backbone.seen.clear()
    taken = function(backbone, images, transform, cache_dir=cache_dir, **(options | changes))
    return taken, sum(backbone.seen)


def shards(cache_dir):
    return sorted(cache_dir.glob("*/*.safetensors"))
