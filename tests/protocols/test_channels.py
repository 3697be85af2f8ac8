"""Runs on grey images and on images of many channels: trained, read back, evaluated, exported."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from timm.models import adapt_input_conv

import erssl
from erssl.errors import ConfigError, DataError
from erssl.models import BackboneOptions, build_backbone, save_backbone, with_channels
from erssl.protocols import detect, embed, export, knn, pretrain, transfer
from erssl.run.directory import read_results  # type: ignore[attr-defined]
