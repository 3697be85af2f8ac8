"""Object detection and instance segmentation from a pretrained backbone."""
