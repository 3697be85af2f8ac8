"""Methods: one short file each, a small base, and the registry."""

import importlib
import pkgutil

from erssl.methods.barlowtwins import BarlowTwins
from erssl.methods.base import MultiViewMethod
from erssl.methods.byol import BYOL
from erssl.methods.byol_er import BYOLER
from erssl.methods.cmc import CMC
from erssl.methods.corinfomax import CorInfoMax
from erssl.methods.deepcluster_er import DeepClusterER
from erssl.methods.deepclusterv2 import DeepClusterV2
from erssl.methods.dhel import DHEL
from erssl.methods.dino import DINO
from erssl.methods.dino_er import DINOER
from erssl.methods.e2mc import E2MC
from erssl.methods.emp_ssl import EMPSSL
from erssl.methods.entrec import EntRec
from erssl.methods.frossl import FroSSL
from erssl.methods.hydes import HyDeS
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.infomin import InfoMin
from erssl.methods.lejepa import LeJEPA
from erssl.methods.mae import MAE
from erssl.methods.matrixssl import MatrixSSL
from erssl.methods.mec import MEC
from erssl.methods.mmcr import MMCR
from erssl.methods.mocov2 import MoCoV2
from erssl.methods.mocov3 import MoCoV3
from erssl.methods.mveb import MVEB
from erssl.methods.mveb_stable import MVEBStable
from erssl.methods.mvib import MVIB
from erssl.methods.nnclr import NNCLR
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.options import TargetOptions, TrainingOptions
from erssl.methods.registry import METHODS, available_methods, get_method, register_method
from erssl.methods.self_classifier import SelfClassifier
from erssl.methods.simclr import SimCLR
from erssl.methods.simclr_er import SimCLRER
from erssl.methods.simdino import SimDINO
from erssl.methods.simmim import SimMIM
from erssl.methods.simsiam import SimSiam
from erssl.methods.swav import SwAV
from erssl.methods.swav_er import SwAVER
from erssl.methods.tico import TiCo
from erssl.methods.unigrad import UniGrad
from erssl.methods.vicreg import VICReg
from erssl.methods.visreg import VISReg

__all__ = [
    "BYOL",
    "BYOLER",
    "CMC",
    "DHEL",
    "DINO",
    "DINOER",
    "E2MC",
    "EMPSSL",
    "MAE",
    "MEC",
    "METHODS",
    "MMCR",
    "MVEB",
    "MVIB",
    "NNCLR",
    "BarlowTwins",
    "CorInfoMax",
    "DeepClusterER",
    "DeepClusterV2",
    "EntRec",
    "FroSSL",
    "HyDeS",
    "InfoMin",
    "LeJEPA",
    "MVEBStable",
    "MatrixSSL",
    "MethodInfo",
    "MoCoV2",
    "MoCoV3",
    "MultiViewMethod",
    "OptimizerOptions",
    "SelfClassifier",
    "SimCLR",
    "SimCLRER",
    "SimDINO",
    "SimMIM",
    "SimSiam",
    "StepOutput",
    "SwAV",
    "SwAVER",
    "TargetOptions",
    "TiCo",
    "TrainingOptions",
    "UniGrad",
    "VICReg",
    "VISReg",
    "available_methods",
    "get_method",
    "register_method",
]

for _file in pkgutil.iter_modules(__path__):  # a method is known by its file, named above or not
    importlib.import_module(f"{__name__}.{_file.name}")
