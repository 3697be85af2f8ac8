"""The data sets: one file each, found by its name in ``data=``."""
