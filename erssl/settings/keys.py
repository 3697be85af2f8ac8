"""Keys of the commands that no YAML file lists, each with what it takes; and those of none."""

LENS_KEYS = {
    "checkpoint": "a run directory, a checkpoint of any layout, or zoo:<name>",
    "on": "embedding (what the loss sees) or features (of the backbone)",
    "output": "a folder for the result, or the image of several runs",
    "arch": "the backbone of a foreign file, where its shapes do not tell",
    "head_prefix": "what the head's names begin with in a foreign file (projection_head.)",
    "head_activation": "relu or gelu, of a foreign head's hidden layers",
}
EXPORT_KEYS = {
    "checkpoint": "a run directory, a checkpoint of any layout, or zoo:<name>",
    "arch": "its architecture, where shapes do not tell",
    "layout": "the only layout to try",
    "prefix": "what the backbone's names begin with, where no layout knows it",
    "weights": "the state dict to take of a file that holds several, as state_dict_ema",
    "allow_partial": "true to take a file that lacks some weights (false)",
    "format": "torchvision, timm, huggingface, detectron2, safetensors or onnx",
    "image_size": "of its images in pixels, in place of what it says or is assumed",
    "mean": "their channel means, as [0.485,0.456,0.406]",
    "std": "their channel deviations",
    "interpolation": "with which they are resized",
    "crop_pct": "the centre's share of the shorter side",
    "output": "the file to write; the folder of huggingface",
    "pickle": "true for detectron2's classic .pkl of arrays (false)",
    "overwrite": "true to replace what is there (false)",
}
# What the commands themselves give to the Trainer.
OWN_TRAINER_KEYS = (
    "max_epochs",
    "logger",
    "callbacks",
    "default_root_dir",
    "enable_progress_bar",
    "enable_checkpointing",
    "enable_model_summary",
    "plugins",
    "profiler",
    "model_registry",
    "sync_batchnorm",
    "num_sanity_val_steps",
)
