"""Modules whose doctests can be collected: those that import Detectron2 only where it is."""

from importlib.util import find_spec

_NEED_DETECTRON2 = ("c4", "detectron2_data", "detectron2_evaluation", "detectron2_trainer")
collect_ignore = (
    []
    if find_spec("detectron2")
    else [f"downstream/detection/{name}.py" for name in _NEED_DETECTRON2]
)
