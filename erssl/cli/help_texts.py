"""What ``erssl COMMAND --help`` prints, without what the command itself has to import."""

from __future__ import annotations

from importlib.resources import files

from erssl.cli.protocol_help import protocol_help
from erssl.downstream.detection.recipes import DETECTRON2_GUIDE
from erssl.settings.compose import GROUPS, group_options
from erssl.settings.keys import EXPORT_KEYS, LENS_KEYS


def _pretrain() -> str:
    groups = "\n".join(f"  {group:<11} {', '.join(group_options(group))}" for group in GROUPS)
    config = (files("erssl.configs") / "pretrain.yaml").read_text(encoding="utf-8")
    keys = config.partition("\n\n")[2]
    return f"""erssl pretrain: train a backbone without labels and say how good it is

Usage: erssl pretrain [key=value ...]

Examples:
  erssl pretrain method=mveb
  erssl pretrain method=entrec method.kind=discrete data=cifar10 data.download=true
  erssl pretrain data=imagefolder data.train_dir=photos/train data.val_dir=photos/val epochs=50
  erssl pretrain data=imagefolder data.train_dir=photos backbone=timm \\
      backbone.name=vit_small_patch16_224 optimizer=adamw trainer.precision=16-mixed
  erssl pretrain experiment=mveb_imagenet_2view data.root=/imagenet trainer.devices=8
  erssl pretrain checkpoint=runs/mine data=imagefolder data.train_dir=photos    from its weights
  erssl pretrain run_dir=runs/mine resume=true
  erssl pretrain run_dir=runs/mine resume=true epochs=200    longer than it was
  erssl pretrain method=mveb,simclr,byol seed=0,1,2 simclr.temperature=0.2 --multirun

Choices:
{groups}

Keys (and those of the chosen groups, such as method.beta or trainer.precision):
{keys}"""


def _knn() -> str:
    return protocol_help(
        "knn",
        "weighted nearest neighbours on frozen features",
        (
            "erssl knn checkpoint=runs/mine",
            "erssl knn checkpoint=moco_v2_800ep_pretrain.pth.tar data=imagenet data.root=/imagenet",
            "erssl knn checkpoint=zoo:dino_resnet50 preset=dino data=cifar10 data.root=data",
            "erssl knn checkpoint=random:runs/mine    the same network before training",
        ),
    )


def _linear() -> str:
    return protocol_help(
        "linear",
        "a linear classifier on a frozen backbone",
        (
            "erssl linear checkpoint=runs/mine mode=cached",
            "erssl linear checkpoint=runs/mine preset=lightly epochs=20 seeds=3",
            "erssl linear checkpoint=zoo:swav_800ep preset=barlowtwins data=imagenet "
            "data.root=/imagenet trainer.devices=8",
        ),
    )


def _semi() -> str:
    return protocol_help(
        "semi",
        "backbone and classifier trained on a part of the labels",
        (
            "erssl semi checkpoint=runs/mine fraction=0.1",
            "erssl semi checkpoint=resnet50.pth fraction=1percent.txt data=imagenet "
            "data.root=/imagenet",
            "erssl semi checkpoint=zoo:vicreg preset=vicreg fraction=0.01 data=imagenet "
            "data.root=/imagenet",
        ),
    )


def _finetune() -> str:
    return protocol_help(
        "finetune",
        "backbone and classifier trained on all labels",
        (
            "erssl finetune checkpoint=runs/mine",
            "erssl finetune checkpoint=runs/mine epochs=10 backbone_lr=0.01 head_lr=0.1 seeds=3",
            "erssl finetune checkpoint=last.ckpt data=imagenet data.root=/imagenet "
            "trainer.precision=16-mixed",
        ),
    )


def _transfer() -> str:
    return protocol_help(
        "transfer",
        "eleven data sets, by logistic regression or by fine-tuning",
        (
            "erssl transfer checkpoint=runs/mine data_root=/data datasets=[dtd,pets,cifar10]",
            "erssl transfer checkpoint=zoo:swav_800ep data_root=/data download=true",
            "erssl transfer checkpoint=resnet50.pth mode=finetune data_root=/data run_dir=runs/t",
            "erssl transfer checkpoint=resnet50.pth mode=finetune data_root=/data --multirun",
        ),
    )


def _detect() -> str:
    text = (files("erssl.configs") / "detect.yaml").read_text(encoding="utf-8")
    keys = "".join(f"  {line}\n" for line in text.splitlines()[1:])
    return f"""erssl detect: detection and instance segmentation from a pretrained backbone

Usage: erssl detect checkpoint=<what> data_root=<folder> [key=value ...]

Examples:
  erssl detect checkpoint=runs/mine data_root=/coco
  erssl detect checkpoint=zoo:swav_800ep data_root=/coco backend=torchvision batch_size=4
  erssl detect checkpoint=resnet50.pth data_root=/voc recipe=faster_rcnn_c4_voc_24k
  erssl detect checkpoint=runs/mine data_root=/coco run_dir=runs/coco resume=true

checkpoint= takes a ResNet: a run directory, a checkpoint of any known layout, zoo:<name> for
published weights, or random:<run or architecture> for an untrained network. backend=detectron2
needs Detectron2 ({DETECTRON2_GUIDE}),
backend=torchvision does not; both need pycocotools (pip install "erssl[detection]").

Keys:
{keys}"""


def _study() -> str:
    text = (files("erssl.configs") / "study.yaml").read_text(encoding="utf-8")
    keys = "".join(f"  {line}\n" for line in text.splitlines()[1:])
    names = sorted(
        file.name.removesuffix(".yaml")
        for file in (files("erssl.configs") / "study").iterdir()
        if file.name.endswith(".yaml")
    )
    return f"""erssl study: re-make a paper's table or answer a question by a grid of runs

Usage: erssl study NAME [scale=tiny] [key=value ...]

Examples:
  erssl study mveb_beta data.root=data dry_run=true    its runs, and how long they take here
  erssl study mveb_beta data.root=data
  erssl study er_table2 scale=imagenet data.root=/imagenet hydra/launcher=submitit_slurm
  erssl study mine.yaml scale=tiny data=imagefolder data.train_dir=photos

Studies: {", ".join(names)}

A run is trained once, whatever study asks for it, and an interrupted study goes on where it was.

Keys:
{keys}  any key of erssl pretrain that does not vary between the runs
"""


def _embed() -> str:
    text = (files("erssl.configs") / "embed.yaml").read_text(encoding="utf-8")
    keys = "".join(f"  {line}\n" for line in text.replace('"', "").splitlines()[1:])
    return f"""erssl embed: features of any images, as an array with a table or as Parquet

Usage: erssl embed checkpoint=<what> [data=<folder or images>] output=<file> [key=value ...]

Examples:
  erssl embed checkpoint=runs/mine data=photos output=features
  erssl embed checkpoint=zoo:dino_resnet50 data=photos output=photos.parquet data.on_error=skip
  erssl embed checkpoint=vit.safetensors data=photos on=patches output=patches
  erssl embed checkpoint=runs/mine on=embedding split=val output=val.safetensors

data= takes a folder of images, with class folders or without, or a data set as in erssl pretrain;
a run's own images where nothing is said. Row i of features.npy is row i of features.csv: file,
label, class, split. A command that was killed goes on where it was when it is given again.

Keys:
{keys}  data, data.*  as in erssl pretrain
"""


def _predict() -> str:
    text = (files("erssl.configs") / "predict.yaml").read_text(encoding="utf-8")
    keys = "".join(f"  {line}\n" for line in text.splitlines()[1:])
    return f"""erssl predict: the classes of any images, by a classifier that was trained

Usage: erssl predict checkpoint=<evaluation> [data=<folder or images>] [key=value ...]

Examples:
  erssl predict checkpoint=runs/finetune-mine data=photos output=photos.csv
  erssl predict checkpoint=runs/linear-mine    its own validation images
  erssl predict checkpoint=runs/semi-mine/seed1 data=photos top=null sheet=0

checkpoint= takes the folder of a finished erssl linear, semi or finetune. data= takes a folder of
images, with class folders or without, or a data set as in erssl pretrain; the run's own images
where nothing is said. Where the images have classes that the classifier knows, by name, the
accuracy is printed.

Keys:
{keys}  data, data.*  as in erssl pretrain
"""


def _lens() -> str:
    own = "\n".join(f"  {key:<16} {what}" for key, what in LENS_KEYS.items())
    return f"""erssl lens: entropy and reconstruction of a checkpoint, or an image of several runs

Usage: erssl lens checkpoint=<what> [key=value ...]
       erssl lens <run directory> <run directory> ... [output=lens.png]

Examples:
  erssl lens checkpoint=runs/mine
  erssl lens checkpoint=runs/mine data=cifar10 data.root=data on=features
  erssl lens checkpoint=last.ckpt data=imagenet data.root=/imagenet
  erssl lens runs/mveb runs/simclr runs/byol output=lens.png

Keys:
{own}
  data, data.*     as in erssl pretrain; of a run directory its own where nothing is said
  lens.probe_size  images that are read (256, or all where there are fewer)
  lens.kappas      concentrations, [10, 3, 30]
  seed             of the probe's views
"""


def _export() -> str:
    own = "\n".join(f"  {key:<12} {what}" for key, what in EXPORT_KEYS.items())
    return f"""erssl export: a backbone in the format of another library, checked by its own loader

Usage: erssl export checkpoint=<what> format=<format> output=<file or folder> [key=value ...]

Examples:
  erssl export checkpoint=runs/mine format=torchvision output=resnet50.pth
  erssl export checkpoint=runs/mine format=timm output=resnet50.safetensors
  erssl export checkpoint=runs/mine format=huggingface output=my-resnet50
  erssl export checkpoint=runs/mine format=detectron2 output=R-50.pth

Keys:
{own}

Formats:
  torchvision  .pth, a plain dict of tensors without the classifier
  timm         .safetensors or .pth for timm.create_model(checkpoint_path=...)
  huggingface  a folder with config.json, model.safetensors and a model card, to upload as it is
  detectron2   .pth of plain tensors under Detectron2's names, or .pkl with pickle=true
  safetensors  .safetensors with architecture and preprocessing in its header
  onnx         one .onnx file for batches of any size, opset 18; pip install "erssl[onnx]"

image_size=, mean=, std=, interpolation= and crop_pct= say how images are prepared, in place of what
the checkpoint says or of what is assumed.

What was written is loaded by the library that it is for and must give the same features on the
same images; otherwise nothing is left.
"""


def _report() -> str:
    return """erssl report: any number of results in one table

Usage: erssl report <folder> ... [output=<folder>] [plots=pdf|svg]

Examples:
  erssl report runs
  erssl report runs/knn-mveb runs/knn-simclr output=tables

Each folder is a run directory or holds some. Written are report.md, report.html, report.csv (every
metric, unrounded) and report.png, into output (report). plots=pdf or svg writes the figure in that
format too.
"""


def _methods() -> str:
    return (
        "erssl methods: list the methods with their paper, family, views, target branch and "
        "defaults\n\n"
        "Usage: erssl methods [name ...]\n\n"
        "Examples:\n"
        "  erssl methods\n"
        "  erssl methods mveb    its settings, each with its source\n"
    )


def _zoo() -> str:
    return """erssl zoo: published checkpoints by name, and your own beside them

Usage: erssl zoo                                  list them
       erssl zoo <name> ...                       all that is known of a checkpoint
       erssl zoo get <name> ...                   download it
       erssl zoo add <run directory> [key=value]  add a finished run and write its model card

Examples:
  erssl zoo mocov2_800ep
  erssl zoo get dino_resnet50
  erssl lens checkpoint=zoo:barlowtwins on=features data=cifar10 data.root=data
  erssl zoo add runs/mine name=mine url=https://example.org/backbone.safetensors

Keys of erssl zoo add:
  name       what to call it (the run directory's own name)
  url        where others will find its backbone.safetensors
  overwrite  true replaces what has that name

Files lie in the folder of torch.hub ($TORCH_HOME), your own rows in $ERSSL_HOME/zoo.yaml
(~/.cache/erssl). In Python: erssl.load_backbone("zoo:<name>").
"""


def help_text(command: str) -> str:
    """Usage, examples and keys of a command."""
    return _TEXTS[command]()


_TEXTS = {
    "pretrain": _pretrain,
    "knn": _knn,
    "linear": _linear,
    "semi": _semi,
    "finetune": _finetune,
    "transfer": _transfer,
    "detect": _detect,
    "embed": _embed,
    "predict": _predict,
    "lens": _lens,
    "export": _export,
    "study": _study,
    "report": _report,
    "methods": _methods,
    "zoo": _zoo,
}
