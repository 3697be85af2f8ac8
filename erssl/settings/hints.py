"""What was probably meant: by those who come from other tools, or who gave a path without a key.

Nothing here needs torch, so that a misspelt setting is answered at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable

from erssl.settings.arguments import is_setting

# How lightly, solo-learn, PyTorch Lightning, MMSelfSup and the authors' scripts call what we have,
# by our keys, of which the first counts that the command has.
_OTHER_NAMES = {
    "optimizer.base_lr base_lr learning_rate head_lr": (
        "lr learning_rate base_lr base_learning_rate blr"
    ),
    "optimizer.weight_decay weight_decay": "wd weight_decay",
    "optimizer.warmup_epochs": "warmup warmup_epoch warmup_epochs",
    "epochs": "epoch max_epochs num_epochs n_epochs max_epoch",
    "batch_size feature_batch_size": (
        "bs batch batchsize batch_size_per_device per_device_batch_size"
    ),
    "data.image_size image_size": (
        "image_size img_size imgsize crop_size input_size resolution size"
    ),
    "data.num_workers num_workers": "num_workers workers n_workers nworkers",
    "trainer.devices devices": "gpus gpu num_gpus n_gpus ngpu devices",
    "trainer.accelerator device": "device accelerator",
    "trainer.precision features_precision": (
        "precision amp fp16 bf16 use_amp use_fp16 mixed_precision"
    ),
    "trainer.accumulate_grad_batches": (
        "accum_iter accumulate gradient_accumulation_steps accumulate_grad_batches"
    ),
    "trainer.gradient_clip_val": "clip_grad grad_clip clip",
    "method.temperature temperature": "temp tau t temperature",
    "method.projection_dim": "proj_dim out_dim projector_dim proj_output_dim",
    "method.projection_hidden_dim": "proj_hidden_dim hidden_dim",
    "data.train_dir data.root data_root train_images": (
        "train_dir train_path train_data train_data_path data_dir data_path dataset_path "
        "dataset_dir folder dir path root data_folder data_root images image_dir "
        "input_dir"
    ),
    "data.val_dir": "val_dir val_path val_data val_data_path",
    "data datasets": "dataset dataset_name",
    "backbone arch": "model network net encoder architecture model_name arch",
    "method": "algorithm algo loss ssl_method",
    "checkpoint": (
        "ckpt ckpt_path checkpoint_path pretrained pretrained_path run weights_path "
        "load_from init_from model_path backbone_path pretrained_feature_extractor "
        "pretrained_weights"
    ),
    "resume": "resume_from resume_from_checkpoint auto_resume",
    "run_dir output": (
        "out output output_dir out_dir save_dir work_dir workdir default_root_dir log_dir "
        "logdir exp_dir save_path checkpoint_dir"
    ),
    "checkpoint_every_n_steps": "save_freq save_every checkpoint_freq",
    "k evaluation.knn_k": "knn_k n_neighbors num_neighbors nb_knn",
    "temperature evaluation.knn_temperature": "knn_t knn_temperature",
    "fraction": "label_fraction data_fraction percent train_percent",
    "format": "fmt type to",
}
SYNONYMS = {
    name: tuple(keys.split()) for keys, names in _OTHER_NAMES.items() for name in names.split()
}
_OWN = {key.rpartition(".")[2]: key for key in (keys.split()[0] for keys in _OTHER_NAMES)}
_FOLDER_KEYS = SYNONYMS["train_dir"]
_WEIGHTS = (".ckpt", ".pt", ".pth", ".tar", ".safetensors", ".bin", ".pkl")


def nearest(name: str, choices: Iterable[str]) -> str:
    """The hint of an error sentence: what was probably meant, and what there is."""
    names = sorted(choices)
    same = [choice for choice in names if _letters(choice) == _letters(name)]
    close = same + difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    if not same:
        close.sort(key=lambda choice: sorted(choice) != sorted(name))  # letters that changed places
    listed = ", ".join(names)
    return (
        f"did you mean {close[0]}? Choose from: {listed}." if close else f"choose from: {listed}."
    )


def unknown_key(key: str, level: Iterable[str], keys: Collection[str], value: str = "") -> str:
    """The sentence on a key that nothing reads.

    Args:
        key: As it was given.
        level: Keys beside which it would stand, which are listed.
        keys: All keys of the command, dotted.
        value: That it was given.

    Example:
        >>> unknown_key("lr", ["epochs"], ["epochs", "optimizer.base_lr"])
        'The key lr is unknown; did you mean optimizer.base_lr? Choose from: epochs.'
    """
    listed = sorted(set(level))
    if (key, value) == ("on", "patches"):
        return (
            "The key on is unknown; a linear layer on patch features is trained by erssl segment, "
            "on masks, and patch features are written by erssl embed on=patches."
        )
    if meant := meant_key(key, keys, value):
        return f"The key {key} is unknown; did you mean {meant}? Choose from: {', '.join(listed)}."
    return f"The key {key} is unknown; {nearest(key, listed)}"


# Of the groups that evaluations read beside their own keys: what is asked for by other names.
OF_DATA = ("data", "data.image_size", "data.num_workers", "data.train_dir", "data.val_dir")


def unknown_setting(
    override: str, keys: Collection[str], folder_key: str = "data=imagefolder data.train_dir"
) -> str:
    """The sentence on an argument that a command does not read.

    Args:
        override: As it was given.
        keys: All keys of the command, dotted.
        folder_key: What the command calls a folder of images.
    """
    if not is_setting(override):
        return not_a_setting(override, folder_key, keys)
    key, _, value = override.partition("=")
    return unknown_key(key, (k for k in keys if "." not in k), keys, value)


def meant_key(key: str, keys: Collection[str], value: str = "") -> str | None:
    """The key of ours that somebody means who has another's name for it, or left out its group."""
    name = key.rpartition(".")[2].replace("-", "_").lower()
    if name in keys and name != key:
        return name
    groups = {each.partition(".")[0] for each in keys}
    alike = [k for k in keys if k.rpartition(".")[2] == name and k != key]
    if len(alike) == 1:
        return alike[0]
    if name == "pretrained" and value.lower() in ("true", "1") and "checkpoint" in keys:
        return "checkpoint=timm:<name> or checkpoint=zoo:<name>"
    targets = SYNONYMS.get(name, ())
    for target in targets:
        if target in keys and target != key:
            return target
    if targets == _FOLDER_KEYS and "data" in groups:
        return f"data=imagefolder data.train_dir={value or '<folder>'}"
    return None


def unknown_option(key: str, value: str, options: Collection[str]) -> str:
    """The sentence on a choice that a group does not have.

    Args:
        key: The group, such as ``backbone``.
        value: What was chosen.
        options: What there is.
    """
    same = _letters(value) in {_letters(option) for option in options}
    if key == "data" and not same and os.path.isdir(value):
        return (
            f"data={value} names a folder and not a data set; write data=imagefolder "
            f"data.train_dir={value}."
        )
    close = difflib.get_close_matches(value, options, n=1, cutoff=0.6)
    if key == "data" and not same and not close:
        return (
            f"data={value} is no data set (choose from: {', '.join(sorted(options))}), and there "
            "is no such folder; for images of your own write data=imagefolder "
            "data.train_dir=<folder>."
        )
    if key == "backbone" and not same:
        return (
            f"backbone={value} is unknown; {nearest(value, options)} A network of timm is named by "
            f"backbone=timm backbone.name={value}, one of torchvision by backbone=torchvision "
            f"backbone.name={value}."
        )
    return f"{key}={value} is unknown; {nearest(value, options)}"


def not_a_setting(
    argument: str,
    folder_key: str = "data=imagefolder data.train_dir",
    keys: Collection[str] = (),
) -> str:
    """The sentence on an argument that is no ``key=value``.

    Args:
        argument: As it was given.
        folder_key: What the command calls a folder of images.
        keys: All keys of the command, dotted, where they are known.
    """
    begin = f"{argument!r} is not understood; "
    name, _, value = argument.lstrip("+~-").partition("=")
    key = name.replace("-", "_")
    if argument.startswith(("-", "+", "~")) and key:
        other = meant_key(key, keys) or SYNONYMS.get(key, (key,))[0]
        meant = key if key in keys else other
        signs = "dashes" if argument.startswith("-") else "a sign before them"
        return f"{begin}settings have no {signs}: write {meant}={value or '<value>'}."
    if os.path.isdir(argument):
        if os.path.isfile(os.path.join(argument, "config.yaml")):
            return f"{begin}for the weights of that run write checkpoint={argument}."
        return f"{begin}for the images of that folder write {folder_key}={argument}."
    if os.path.isfile(argument):
        return f"{begin}for the weights in that file write checkpoint={argument}."
    if _is_path(argument):
        return (
            f"{begin}there is no such file or folder; name weights by checkpoint=<path>, and "
            f"images by {folder_key}=<folder>."
        )
    if key in SYNONYMS or key in _OWN:
        return f"{begin}write {SYNONYMS.get(key, (_OWN.get(key),))[0]}=<value>."
    return (
        f"{begin}give settings as key=value, for example method=mveb or optimizer.base_lr=0.3 "
        "(there is no file or folder of that name either)."
    )


def not_fitting(key: str, value: object) -> str:
    """What to write in place of a value of the wrong kind, where that is known; else nothing."""
    if key == "resume" and isinstance(value, str):
        return f" To go on with that run write resume=true run_dir={value}."
    if key == "trainer.precision" and str(value).lower() in ("fp16", "amp", "half", "true"):
        return " For automatic mixed precision write trainer.precision=16-mixed."
    if (key, value) == ("trainer.precision", "auto"):
        return " Only erssl pretrain chooses by itself."
    return ""


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_path(text: str) -> bool:
    return os.sep in text or text.startswith(("~", ".")) or text.lower().endswith(_WEIGHTS)
