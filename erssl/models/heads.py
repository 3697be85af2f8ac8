"""Projection heads from lightly's blocks."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn


def mlp_head(
    input_dim: int,
    hidden_dim: int,
    output_dim: int,
    num_layers: int,
    *,
    activation: type[nn.Module] = nn.ReLU,
    batch_norm: bool = True,
    output_norm: nn.Module | None = None,
) -> ProjectionHead:
    """MLP whose hidden layers are followed by batch normalisation and an activation.

    Args:
        input_dim: Dimension of the features (N, input_dim).
        hidden_dim: Width of the hidden layers.
        output_dim: Dimension of the embeddings (N, output_dim).
        num_layers: Number of linear layers; at least 1.
        activation: After each hidden layer.
        batch_norm: Whether hidden layers are normalised.
        output_norm: Normalises the embeddings; ``None`` for a plain last layer.

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
    hidden = [
        (i, o, nn.BatchNorm1d(o) if batch_norm else None, activation()) for i, o in pairwise(widths)
    ]
    return ProjectionHead([*hidden, (widths[-1], output_dim, output_norm, None)])


def shiftless_norm(dim: int) -> nn.BatchNorm1d:
    """Batch normalisation that scales but does not shift, after SimCLR's last layer.

    Args:
        dim: Dimension of the embeddings.
    """
    norm = nn.BatchNorm1d(dim)
    norm.bias.requires_grad_(False)  # stays at 0
    return norm


class Prototypes(nn.Module):
    """K learned directions; gives the cosine of each with an embedding.

    The last layer of DINO (weight normalisation with its gain fixed at 1) and, with the weights
    normalised inside rather than after each step, SwAV's prototypes.
    """

    def __init__(self, embedding_dim: int, num_prototypes: int) -> None:
        """Draw the directions at random.

        Args:
            embedding_dim: Dimension d of the embeddings.
            num_prototypes: Number K of directions.

        Raises:
            ValueError: If there are fewer than two.
        """
        super().__init__()
        if num_prototypes < 2:
            raise ValueError(f"num_prototypes must be at least 2 but is {num_prototypes}.")
        self.layer = nn.Linear(embedding_dim, num_prototypes, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Cosines (N, K) of embeddings (N, d)."""
        return F.linear(F.normalize(z, dim=-1), F.normalize(self.layer.weight.to(z.dtype), dim=-1))
