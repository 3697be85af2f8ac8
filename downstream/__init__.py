"""Downstream tasks: how good a pretrained backbone is away from the pictures it has learnt on."""
