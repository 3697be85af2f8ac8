"""Does a run of MEC stand below the radius at which its series is a log-determinant?

    python -m benchmarks.mec_series <directory of a run of method=mec>

The matrix of its loss, from the predictions of 256 training images in one view and the targets of
the other: its spectral radius, the angles of its largest eigenvalues, the four terms of the series
and the log-determinant that they approximate below a radius of 1. With batch statistics, as in
training.
Writes ``benchmarks/results/mec_series.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks._timing import result_file
from erssl.data import SSLDataModule
from erssl.files import write_json
from erssl.protocols.build import trained_method
from erssl.run.directory import LAST_CHECKPOINT, environment
from erssl.settings.pretrain import run_settings

IMAGES, LARGEST = 256, 4


def main(run: Path) -> None:
    settings = run_settings(run, [])
    data = SSLDataModule(settings.data, IMAGES, settings.seed)
    method = trained_method(run / LAST_CHECKPOINT, settings).train()
    views = data.spread_views(data.datasets.train, IMAGES)
    with torch.no_grad():
        online = method.prediction_head(method.projection_head(method(views[0])))
        target = method.target_branch(list(views))[1]
    z, t = (F.normalize(rows.double(), dim=1) for rows in (online, target))
    order = settings.method["order"]
    # d / (N ε²) with ε² = d times the distortion of a dimension
    matrix = z.T @ t / (IMAGES * settings.method["distortion_per_dim"])
    eigenvalues = torch.linalg.eigvals(matrix)
    eigenvalues = eigenvalues[eigenvalues.abs().argsort(descending=True)]
    powers = [(eigenvalues**k).sum().real.item() for k in range(1, order + 1)]
    report = {
        "command": "python -m benchmarks.mec_series <run>",
        "images": IMAGES,
        "method": settings.method,
        "spectral_radius": eigenvalues[0].abs().item(),
        "angles_of_the_largest": torch.rad2deg(eigenvalues[:LARGEST].angle()).tolist(),
        "sizes_of_the_largest": eigenvalues[:LARGEST].abs().tolist(),
        "terms": [(-1) ** (k + 1) / k * power for k, power in enumerate(powers, 1)],
        "log_determinant": (1 + eigenvalues).log().sum().real.item(),
    }
    report["environment"] = {**environment(), "command": report["command"]}
    write_json(result_file("mec_series"), report)
    for name in ("spectral_radius", "angles_of_the_largest", "terms", "log_determinant"):
        print(name, report[name])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a run")
    main(parser.parse_args().run)
