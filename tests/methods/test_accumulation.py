"""Four batches of one step move what a method keeps as the four in one do, for every method."""

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from erssl.loss._state import StepState, states_of
from erssl.methods import OptimizerOptions, available_methods

from .test_every_method import build
from .test_methods import TinyBackbone

IMAGES, STEPS, PARTS = 32, 3, 4
STILL = OptimizerOptions("sgd", base_lr=1e-30, warmup_epochs=0)  # weights as good as at rest
OPTIONS = {
    "byol_er": {"memory_bank_size": [80, 16]},
    "deepclusterv2": {"memory_bank_size": 80},
    "deepcluster_er": {"memory_bank_size": 80},
    "entrec": {"memory_bank_size": [80, 16]},
    "mvib": {"estimator": "mine"},
    "simclr_er": {"memory_bank_size": [80, 16]},
    "swav": {"queue_length": 80, "queue_start_epoch": 0},
}
# A critic compares each row with the next of its batch, the last with the first.
APPROXIMATE = {"mvib"}
WITHOUT = {"barlowtwins", "byol", "cmc", "mae", "mocov3", "mveb", "self_classifier", "simclr"}
WITHOUT |= {"simmim", "simsiam", "swav_er", "vicreg"}
