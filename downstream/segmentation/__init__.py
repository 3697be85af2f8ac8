"""Semantic segmentation by a linear layer on the patch features of a frozen backbone."""
