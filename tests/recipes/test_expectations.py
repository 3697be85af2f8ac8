"""Every method and experiment against the papers and their authors' code, typed in by hand here."""

from __future__ import annotations

import pytest
import yaml

from erssl.layers import flat
from erssl.methods import METHODS, available_methods, get_method
from erssl.models import BackboneOptions, build_backbone
from erssl.recipes import read_recipe
from erssl.settings.pretrain import read_settings

from ..methods.test_methods import TinyBackbone

R50, R18 = ("torchvision", "resnet50"), ("torchvision", "resnet18")
VIT, VIT_S = ("timm", "vit_base_patch16_224"), ("timm", "vit_small_patch16_224")
# name: optimiser, rate per 256 images, weight decay, momentum, warm-up, end of the cosine / peak
SIMCLR = ("lars", 0.3, 1e-6, 0.9, 10, 0.0)  # SimCLR section 2.2, appendix B.6
MVEB = ("lars", 0.4, 1e-6, 0.9, 10, 1e-3)  # MVEB section 6.1
BYOL = ("lars", 0.2, 1.5e-6, 0.9, 10, 0.0)  # BYOL section 3.3
MOCO = ("sgd", 0.03, 1e-4, 0.9, 0, 0.0)  # main_moco.py --cos
SWAV = ("lars", 0.3, 1e-6, 0.9, 10, 1e-3)  # 4.8 at batch 4096, final 0.0048
OPTIMIZERS = {
    "barlowtwins": ("lars", 0.2, 1e-6, 0.9, 10, 1e-3),  # main.py
    "byol": BYOL,
    "byol_er": BYOL,
    "cmc": SIMCLR,
    "deepcluster_er": SWAV,
    "deepclusterv2": SWAV,
    "dino": ("sgd", 0.03, 1e-4, 0.9, 10, 1e-6 / 0.06),  # README, ResNet-50 on 8 GPUs
    "dino_er": ("lars", 0.3, 1e-6, 0.9, 10, 0.0),
    "entrec": SIMCLR,
    "infomin": ("sgd", 0.03, 1e-4, 0.9, 0, 1e-3),  # PyContrast
    "mae": ("adamw", 1.5e-4, 0.05, 0.9, 40, 0.0),  # PRETRAIN.md
    "mocov2": MOCO,
    "mocov3": ("lars", 0.3, 1e-6, 0.9, 10, 0.0),  # CONFIG.md, 300 epochs
    "mveb": MVEB,
    "mveb_stable": MVEB,
    "mvib": MVEB,
    "self_classifier": SWAV,
    "simclr": SIMCLR,
    "simclr_er": SIMCLR,
    "simmim": ("adamw", 5e-5, 0.05, 0.9, 10, 1e-3),  # 1e-4 per 512 images
    "simsiam": ("sgd", 0.05, 1e-4, 0.9, 0, 0.0),  # main_simsiam.py
    "swav": SWAV,
    "swav_er": SWAV,
    "unigrad": ("sgd", 0.05, 1e-4, 0.9, 5, 1e-3),
    "vicreg": ("lars", 0.2, 1e-6, 0.9, 10, 1e-3),  # main_vicreg.py
    "corinfomax": ("sgd", 0.2 * 256 / 1536, 1e-4, 0.9, 10, 1e-6 / 0.2),  # README, ImageNet-1K
    "dhel": SIMCLR,
    "e2mc": ("lars", 0.02, 1e-6, 0.9, 1, 1e-3),  # ours
    "emp_ssl": ("lars", 0.3 * 256 / 100, 1e-4, 0.9, 0, 0.0),  # main.py
    "frossl": ("lars", 0.3, 1e-4, 0.9, 10, 0.0),  # scripts/pretrain/imagenet
    "hydes": SIMCLR,
    "lejepa": ("adamw", 5e-4 / 2, 0.05, 0.9, 1, 1e-3),  # lightly's benchmark, batch 512
    "matrixssl": ("sgd", 0.5, 1e-5, 0.9, 10, 0.0),  # main_pretrain.py
    "mec": ("sgd", 0.5, 1e-5, 0.9, 10, 0.0),  # main_pretrain.py
    "mmcr": ("lars", 0.6, 1e-6, 0.9, 10, 1e-3),  # pretrain_imagenet.py
    "nnclr": SIMCLR,  # not confirmed
    "simdino": ("adamw", 5e-4, 0.04, 0.9, 10, 1e-6 / 1e-3),  # main_dino.py, batch 512
    "tico": ("lars", 0.2, 1.5e-6, 0.9, 10, 0.0),  # lightly's benchmark
    "visreg": ("adamw", 9e-4 / 2, 0.05, 0.9, 1, 1e-3),  # lightly's benchmark, batch 512
}
# recipe, local views, scale of global and of local crops (None: the recipe's own)
SWAV_CROPS = ("swav", 6, (0.14, 1.0), (0.05, 0.14))  # --nmb_crops 2 6 ... of its scripts
DINO_CROPS = ("dino", 8, (0.14, 1.0), (0.05, 0.14))  # README's command
MOCO_CROPS = ("mocov2", 0, (0.2, 1.0), None)
BYOL_CROPS = ("byol", 0, (0.08, 1.0), None)
SIMCLR_CROPS = ("simclr", 0, None, None)
MVEB_CROPS = ("dino", 0, None, None)
JEPA_CROPS = ("dino", 6, (0.3, 1.0), (0.05, 0.3))
VIEWS = {
    **dict.fromkeys(("dhel", "hydes"), SIMCLR_CROPS),
    **dict.fromkeys(("corinfomax", "e2mc", "mmcr", "nnclr", "tico"), BYOL_CROPS),
    **dict.fromkeys(("lejepa", "visreg"), JEPA_CROPS),
    **dict.fromkeys(("frossl", "matrixssl", "mec"), ("byol", 0, (0.2, 1.0), None)),
    "emp_ssl": ("dino", 18, (0.25, 0.25), (0.25, 0.25)),
    "simdino": ("dino", 10, (0.4, 1.0), (0.05, 0.4)),
    **dict.fromkeys(("simclr", "simclr_er", "entrec", "cmc"), SIMCLR_CROPS),
    **dict.fromkeys(("byol", "byol_er", "barlowtwins", "vicreg"), BYOL_CROPS),
    **dict.fromkeys(("mocov2", "simsiam", "unigrad"), MOCO_CROPS),
    **dict.fromkeys(("swav", "swav_er", "deepclusterv2", "deepcluster_er"), SWAV_CROPS),
    **dict.fromkeys(("dino", "dino_er"), DINO_CROPS),
    **dict.fromkeys(("mveb", "mveb_stable", "mvib"), MVEB_CROPS),
    "mocov3": ("byol", 0, (0.2, 1.0), None),
    "infomin": ("infomin", 0, (0.2, 1.0), None),
    "self_classifier": ("dino", 6, (0.4, 1.0), (0.05, 0.4)),
    "mae": ("mae", 0, (0.2, 1.0), None),
    "simmim": ("simmim", 0, (0.67, 1.0), None),
}
# EMA of the target at the first and the last step
EMA = {
    **dict.fromkeys(("byol", "byol_er", "dino", "dino_er", "unigrad"), (0.996, 1.0)),
    **dict.fromkeys(("mveb", "mveb_stable"), (0.996, 1.0)),
    **dict.fromkeys(("mocov2", "infomin"), (0.999, 0.999)),
    "mocov3": (0.99, 1.0),
    **dict.fromkeys(("matrixssl", "mec", "simdino"), (0.996, 1.0)),
    "mmcr": (0.99, 0.99),
    "tico": (0.99, 1.0),
}
BACKBONES = {
    **dict.fromkeys(("mae", "simmim", "simdino"), VIT),
    **dict.fromkeys(("lejepa", "visreg"), VIT_S),
    **dict.fromkeys(("emp_ssl", "frossl"), R18),
}
TRUST = {"frossl": 0.02, "emp_ssl": 0.005}
# what else the optimiser of the authors' code does
NO_EXCLUSION = {"mocov2", "infomin", "simsiam", "unigrad", "self_classifier"} | {
    "swav",
    "swav_er",
    "deepclusterv2",
    "deepcluster_er",
    "corinfomax",
    "lejepa",
    "matrixssl",
    "mec",
    "visreg",
}
WARMUP_START = {
    **dict.fromkeys(
        ("swav", "swav_er", "deepclusterv2", "deepcluster_er", "self_classifier"), 0.3 / 4.8
    ),
    "unigrad": 1e-3,
    "corinfomax": 3e-3 / 0.2,
    "lejepa": 0.01,
    "visreg": 0.01,
}
# epochs, batch size, and whatever an experiment has that its method has not
EXPERIMENTS = {
    "barlowtwins_imagenet": (1000, 2048, {}),
    "byol_er_imagenet": (400, 4096, {"leave_one_out": False, "gather_distributed": False}),
    "byol_imagenet": (1000, 4096, {}),
    "cmc_imagenet": (400, 4096, {}),
    "deepclusterv2_imagenet": (800, 4096, {"memory_bank_size": 1281167}),
    "dino_er_imagenet": (400, 4096, {"gather_distributed": False}),
    "dino_imagenet": (100, 512, {}),
    "entrec_imagenet": (400, 4096, {"leave_one_out": False, "gather_distributed": False}),
    "infomin_imagenet": (200, 256, {}),
    "mae_imagenet": (1600, 4096, {}),
    "mocov2_imagenet": (200, 256, {}),
    "mocov3_imagenet": (300, 4096, {}),
    "mveb_batchsize_ablation": (
        100,
        1024,
        {"target": "shared", "projection_hidden_dim": 8192, "projection_dim": 8192},
    ),
    "mveb_imagenet_2view": (800, 4096, {}),
    "mveb_imagenet_multicrop": (800, 4096, {}),
    "mveb_vits_imagenet": (300, 4096, {}),
    "self_classifier_imagenet": (100, 4096, {}),
    "simclr_er_imagenet": (400, 4096, {"leave_one_out": False, "gather_distributed": False}),
    "simclr_imagenet": (1000, 4096, {}),
    "simmim_imagenet": (800, 2048, {}),
    "simsiam_imagenet": (100, 512, {}),
    "swav_imagenet": (800, 4096, {}),
    "unigrad_imagenet": (100, 1024, {}),
    "vicreg_imagenet": (1000, 2048, {}),
    "corinfomax_imagenet": (100, 1536, {"gather_distributed": False}),
    "dhel_imagenet": (100, 4096, {}),  # ours
    "e2mc_imagenet": (10, 512, {}),
    "emp_ssl_imagenet": (2, 100, {}),
    "frossl_imagenet": (100, 256, {"gather_distributed": False}),
    "hydes_imagenet": (100, 4096, {}),  # ours
    "lejepa_imagenet": (100, 512, {}),
    "matrixssl_imagenet": (100, 1024, {}),
    "mec_imagenet": (100, 1024, {}),
    "mmcr_imagenet": (100, 2048, {}),
    "nnclr_imagenet": (1000, 4096, {}),
    "simdino_imagenet": (100, 512, {"distortion": 0.05, "gather_distributed": False}),
    "tico_imagenet": (100, 256, {}),
    "visreg_imagenet": (100, 512, {}),
}
# method options that come from the papers or their code
OPTIONS = {
    "simclr": {"temperature": 0.1, "loss_scale": 2.0, "output_norm": True, "projection_dim": 128},
    "cmc": {"loss_scale": 2.0, "output_norm": True},
    "simclr_er": {"kappa": 10.0, "output_norm": True, "projection_dim": 128},
    "entrec": {"output_norm": True},
    "byol": {"loss_scale": 4.0, "projection_hidden_dim": 4096, "projection_dim": 256},
    "dino": {"num_prototypes": 65536, "head_norm": False, "target_temperature": 0.04},
    "dino_er": {"num_prototypes": 60000, "local_view_weight": 2.0},
    "swav_er": {"local_view_weight": 2.0},
    "barlowtwins": {"lambda_param": 0.0051, "projection_dim": 8192},
    "vicreg": {"lambda_param": 25.0, "mu_param": 25.0, "nu_param": 1.0},
    "mveb": {"beta": 0.01, "eta": 0.01, "projection_dim": 2048, "target": "momentum"},
    "swav": {"num_prototypes": 3000, "sinkhorn_epsilon": 0.05, "queue_length": 0},
    "mocov2": {"temperature": 0.2, "memory_bank_size": 65536},
    "infomin": {"temperature": 0.15, "memory_bank_size": 65536},
    "mocov3": {"temperature": 1.0, "prediction_hidden_dim": 4096},
    "simsiam": {"projection_dim": 2048, "prediction_hidden_dim": 512},
    "mae": {"mask_ratio": 0.75, "norm_pixels": True},
    "simmim": {"mask_ratio": 0.6, "mask_size": 32},
    "unigrad": {"lambda_param": 100.0, "rho": 0.99},
    "corinfomax": {"alpha": 2000.0, "forgetting": 0.1, "ridge": 1e-8, "projection_dim": 512},
    "dhel": {"kappa": 1 / 0.3, "entropy_weight": 2.0, "leave_one_out": True},
    "emp_ssl": {"distortion": 0.2, "invariance_weight": 200.0, "projection_dim": 1024},
    "frossl": {"invariance_weight": 2.0, "projection_dim": 1024},
    "lejepa": {"lambda_param": 0.05, "num_slices": 1024, "projection_dim": 64},
    "matrixssl": {"uniformity_weight": 1.0, "gamma": 1.0, "order": 4},
    "mec": {"distortion_per_dim": 64 / 2048, "order": 4, "projection_dim": 2048},
    "mmcr": {"projection_hidden_dim": 8192, "projection_dim": 512},
    "nnclr": {"temperature": 0.1, "memory_bank_size": 98304, "prediction_hidden_dim": 4096},
    "simdino": {"distortion": 0.5, "gamma": None, "smooth": True, "projection_dim": 256},
    "tico": {"beta": 0.9, "rho": 8.0, "projection_dim": 256},
    "visreg": {"lambda_param": 0.9, "num_slices": 2048, "projection_dim": 256},
}


def optimizer_of(options):
    return (
        options.name,
        options.base_lr,
        options.weight_decay,
        options.momentum,
        options.warmup_epochs,
        options.final_lr_ratio,
    )


def check_recipe(name, settings):
    """Settings against the tables, but for what an experiment may change."""
    optimizer = settings.optimizer
    assert optimizer_of(optimizer)[0] == OPTIMIZERS[name][0]
    assert optimizer_of(optimizer)[1:] == pytest.approx(OPTIMIZERS[name][1:], rel=0.02)
    assert optimizer.exclude_norms is (name not in NO_EXCLUSION)
    assert optimizer.warmup_start_ratio == pytest.approx(WARMUP_START.get(name, 0.0))
    assert optimizer.bias_base_lr == (0.0048 if name == "barlowtwins" else None)
    assert optimizer.beta2 == (0.95 if name == "mae" else 0.999)
    assert optimizer.trust_coefficient == TRUST.get(name, 0.001)
    backbone = BACKBONES.get(name, R50)
    assert (settings.backbone.library, settings.backbone.name) == backbone
    clip = {"dino": 3.0, "simdino": 3.0, "simmim": 5.0}.get(name)
    assert settings.trainer["gradient_clip_val"] == clip
    start_and_end = (settings.method.get("momentum_start"), settings.method.get("momentum_end"))
    assert start_and_end == EMA.get(name, (None, None))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_method_on_imagenet_trains_as_its_paper_says(name):
    settings, resolved = read_settings([f"method={name}", "data=imagenet", "data.root=/x"])
    check_recipe(name, settings)
    shown = flat(yaml.safe_load(read_recipe(name).text))  # by erssl methods <name>
    assert {key: flat(resolved)[key] for key in shown} == shown
    views = settings.data.views
    crops = (views.recipe, views.n_local_views, views.global_scale, views.local_scale)
    assert crops == VIEWS[name]
    assert (settings.data.image_size, settings.epochs, settings.batch_size) == (224, 100, 256)
    assert {k: settings.method[k] for k in OPTIONS.get(name, {})} == OPTIONS.get(name, {})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_its_papers_run(name):
    settings, _ = read_settings([f"experiment={name}", "data.root=/x"])
    info = get_method(settings.method["name"]).info
    assert settings.data.views.n_local_views == 0 or info.multi_crop
    assert settings.data.views.n_views >= info.min_views
    epochs, batch_size, other = EXPERIMENTS[name]
    assert (settings.epochs, settings.batch_size) == (epochs, batch_size)
    method = settings.method["name"]
    plain, _ = read_settings([f"method={method}", "data=imagenet", "data.root=/x"])
    changed = {k: v for k, v in settings.method.items() if plain.method[k] != v}
    assert changed == other
    if name == "mveb_batchsize_ablation":  # MVEB, section 6.5
        assert optimizer_of(settings.optimizer) == ("sgd", 0.05, 1e-4, 0.9, 0, 1e-3)
    elif name == "mveb_vits_imagenet":  # MoCo v3's code, CONFIG.md
        assert optimizer_of(settings.optimizer) == ("adamw", 1.5e-4, 0.1, 0.9, 40, 0)
    else:
        check_recipe(method, settings)
    if name == "mveb_imagenet_multicrop":
        views = settings.data.views
        assert (views.n_local_views, views.local_image_size) == (6, 96)
        assert (views.global_scale, views.local_scale) == ((0.4, 1.0), (0.05, 0.4))
    else:
        assert settings.data.views == plain.data.views
    assert settings.trainer["precision"] == "16-mixed"
    if name == "mveb_vits_imagenet":
        assert settings.backbone == BackboneOptions("vit_small_patch16_224", "timm")
    else:
        assert settings.backbone == plain.backbone


@pytest.mark.parametrize("name", available_methods())
def test_the_class_of_lightlys_contract_trains_by_the_same_optimiser(name):
    method = small_method(name)  # no optimizer= is given, as in lightly's script
    settings, _ = read_settings([f"method={name}", "data=imagenet", "data.root=/x"])
    assert method.optimizer_options == settings.optimizer
    assert method.default_backbone == settings.backbone
    momenta = (method.momentum_start, method.momentum_end)
    assert name not in EMA or momenta == EMA[name]
    assert len(METHODS[name]["transform"].transforms) == settings.data.views.n_views
    assert get_method(name).default_views == settings.data.views


def small_method(name, **options):
    masked = name in ("mae", "simmim")
    small = BackboneOptions("vit_tiny_patch16_224", "timm", options={"depth": 1})
    heads = {} if masked else {"projection_hidden_dim": 8, "projection_dim": 8}
    backbone = build_backbone(small) if masked else TinyBackbone()
    model = METHODS[name]["model"]
    return model(batch_size_per_device=256, num_classes=2, backbone=backbone, **heads, **options)


@pytest.mark.parametrize("name", available_methods())
def test_a_class_without_options_is_the_class_with_those_of_its_recipe(name):
    heads = ("projection_hidden_dim", "projection_dim", "num_prototypes")
    options = {k: v for k, v in read_recipe(name).options.items() if k not in heads}
    plain, explicit = small_method(name), small_method(name, **options)
    assert repr(plain) == repr(explicit)
    assert plain_values(plain) == plain_values(explicit)
    assert plain_values(plain.criterion) == plain_values(explicit.criterion)


def plain_values(module):
    """What a module holds beside tensors and other modules."""
    return {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str))}
