"""Projection heads from lightly's blocks."""

from __future__ import annotations

from itertools import pairwise

from lightly.models.modules.heads import ProjectionHead
from torch import nn


def mlp_head(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> ProjectionHead:
    """MLP whose hidden layers are followed by batch normalisation and ReLU.

    Args:
        input_dim: Dimension of the features (N, input_dim).
        hidden_dim: Width of the hidden layers.
        output_dim: Dimension of the embeddings (N, output_dim).
        num_layers: Number of linear layers; at least 1.

    Returns:
        The head, built on lightly's ``ProjectionHead``.

    Raises:
        ValueError: If the hidden layers have no width or the embedding less than 2 dimensions.
    """
    if hidden_dim < 1 or output_dim < 2:
        raise ValueError(
            "A projection head needs projection_hidden_dim of at least 1 and projection_dim of at "
            f"least 2 but has {hidden_dim} and {output_dim}."
        )
    widths = [input_dim, *[hidden_dim] * (num_layers - 1)]
    hidden = [(i, o, nn.BatchNorm1d(o), nn.ReLU()) for i, o in pairwise(widths)]
    return ProjectionHead([*hidden, (widths[-1], output_dim, None, None)])
