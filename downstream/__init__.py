"""Downstream tasks: how good a pretrained backbone is away from the images it has learnt on."""
