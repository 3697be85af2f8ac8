"""ONNX files: one file, batches of any size, checked by onnxruntime."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erssl.errors import ConfigError

OPSET = 18  # the first of torch's own exporter
INPUT, OUTPUT = "images", "features"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def missing_packages() -> list[str]:
    """Packages of the extra ``onnx`` that are not installed."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def write_onnx(
    backbone: nn.Module, images: Tensor, preprocessing: Mapping[str, Any], path: Path
) -> None:
    """Write a backbone as one ONNX file that takes any number of images.

    Args:
        backbone: On the CPU, in eval mode.
        images: Images (N, 3, H, W) of the size that the file will take, N of at least 2.
        preprocessing: Written into the file's metadata as JSON under ``preprocessing``.
        path: The file.

    Raises:
        ConfigError: If torch's exporter cannot express the network.
    """
    import onnx

    batch = torch.export.Dim("batch")
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                backbone,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter raises nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"torch {torch.__version__} cannot write {type(backbone).__name__} as ONNX ({reason}); "
            "choose another format."
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    entry = model.metadata_props.add()
    entry.key, entry.value = "preprocessing", json.dumps(dict(preprocessing))
    onnx.save_model(model, str(path))  # one file, up to the 2 GiB that the format allows


class OnnxModule(nn.Module):
    """An ONNX file as a module, computed by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Args:
            path: Of :func:`write_onnx`.
        """
        super().__init__()
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, d) of images (N, 3, H, W), one by one and together, which must agree."""
        whole = self._run(images)
        first = self._run(images[:1])
        torch.testing.assert_close(whole[:1], first, rtol=1e-4, atol=1e-4)
        return whole

    def _run(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: images.numpy()})[0])


def usage(path: Path, shape: tuple[int, ...]) -> str:
    """Python that loads such a file."""
    size = ", ".join(map(str, shape[1:]))
    return (
        "import onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        f"features = session.run(['{OUTPUT}'], {{'{INPUT}': images}})[0]"
        f"  # images: float32 (N, {size})"
    )
