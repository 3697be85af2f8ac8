"""The hydra configs, shipped as ``erssl.configs``."""
