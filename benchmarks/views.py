"""How many images a second become views on one core, beside lightly's own transforms?

    python -m benchmarks.views

Sixteen JPEG files of 500 x 375 pixels, cut out of scikit-learn's two sample photographs and saved
at quality 90, become the views of DINO (2 of 224 and 6 of 96 pixels) and BYOL (2 of 224), images
of 32 x 32 in memory those of lightly's CIFAR-10 benchmark; all as batches of normalised floats, as
training takes them. "lightly" is lightly's own transform, "erssl, lightly" and "erssl, fast" are
``data.pipeline``; files also by torchvision's v2 transforms and, where they are installed, by
kornia and albumentations (:mod:`benchmarks._view_peers`). One thread; the contenders by turns, so
that all meet the same load; images a second of CPU time, which tells less of a busy machine. The
floor is decoding alone. Writes ``benchmarks/results/views.json``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from lightly.transforms.byol_transform import BYOLTransform
from lightly.transforms.dino_transform import DINOTransform
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.torchvision_v2_compatibility import functional as TF
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks._runs import RESULTS
from benchmarks._view_peers import peers, versions
from erssl.data import ImageDataset, TransformedDataset, ViewOptions, build_views, load_image
from erssl.data.datasets import ImagesInMemory
from erssl.data.folders import ImageFiles
from erssl.data.views import fast
from erssl.data.views.device import normalize
from erssl.data.views.draws import JITTERS, read_view
from erssl.data.views.pipelines import make_pipeline
from erssl.files import write_json
from erssl.run.directory import environment

BATCH, REPEATS, FILES = 32, 9, 16
WIDTH, HEIGHT, QUALITY = 500, 375, 90
SCALING = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # lightly's default
WARM_UP = 1
FROM_FILES = {"dino": ViewOptions("dino", n_local_views=6), "byol": ViewOptions("byol")}
Contender = Callable[[int], list[Tensor]]
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder))
        floor = decoding(files)
        rows = compare("dino", files, DINOTransform(), FROM_FILES["dino"], 224)
        rows += compare("byol", files, BYOLTransform(), FROM_FILES["byol"], 224)
        cifar = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
        rows += compare("cifar", small_images(files), cifar, ViewOptions("cifar"), 32)
        steps = operations(load_image(files.samples[0][0]))
    report = {
        "command": "python -m benchmarks.views",
        "setting": {"batch": BATCH, "files": FILES, "jpeg_quality": QUALITY, "threads": 1},
        "repeats": REPEATS,
        "floor": floor,
        "rows": rows,
        "operations": steps,
        "operations_alone": {
            recipe: operations_alone(options, steps, floor["opencv_microseconds"])
            for recipe, options in FROM_FILES.items()
        },
        "peers": versions(),
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]
    write_json(RESULTS / "views.json", report)
    print(f"\n{table(rows)}\n\n{floor_text(floor)}\n\n{operations_table(steps)}")


def photographs(folder: Path) -> ImageFiles:
    """JPEG files cut out of the sample photographs, which are of 640 x 427 pixels."""
    generator, samples = np.random.default_rng(0), []
    for i in range(FILES):
        pixels = load_sample_images().images[i % 2]
        top = int(generator.integers(pixels.shape[0] - HEIGHT + 1))
        left = int(generator.integers(pixels.shape[1] - WIDTH + 1))
        path = folder / f"{i}.jpg"
        cut = Image.fromarray(pixels[top : top + HEIGHT, left : left + WIDTH])
        cut.save(path, quality=QUALITY)
        samples.append((str(path), 0))
    return ImageFiles(samples * (BATCH // FILES))


def small_images(files: ImageFiles) -> ImagesInMemory:
    """The same at 32 x 32 pixels, in memory as CIFAR is."""
    pixels = [np.asarray(files[i][0].resize((32, 32))) for i in range(BATCH)]
    return ImagesInMemory(np.stack(pixels), np.zeros(BATCH, dtype=np.int64))


def contenders(
    images: ImageDataset, own: Any, options: ViewOptions, size: int
) -> dict[str, Contender]:
    """What makes a batch of an epoch, as a list of its views (N, 3, H, W)."""
    transform = build_views(options, size, **SCALING)
    reference = make_pipeline("lightly", transform)
    pipeline = make_pipeline("fast", transform)
    slow, quick = (p.images(images, seed=0) for p in (reference, pipeline))
    plain = TransformedDataset(images, own)

    def lightly(epoch: int) -> list[Tensor]:
        return default_collate([plain[i] for i in range(BATCH)])[0]

    def erssl_lightly(epoch: int) -> list[Tensor]:
        return reference.finish(default_collate([slow[epoch, i] for i in range(BATCH)])[0])

    def erssl_fast(epoch: int) -> list[Tensor]:
        items = quick.__getitems__([(epoch, i) for i in range(BATCH)])
        return pipeline.finish(default_collate(items)[0])

    made = {"lightly": lightly, "erssl, lightly": erssl_lightly, "erssl, fast": erssl_fast}
    if isinstance(images, ImageFiles):
        paths = [path for path, _ in images.samples[:BATCH]]
        for name, peer in peers([read_view(view) for view in transform.transforms]).items():
            made[name] = lambda epoch, peer=peer: peer(paths)
    return made


def compare(
    recipe: str, images: ImageDataset, own: Any, options: ViewOptions, size: int
) -> list[dict[str, Any]]:
    """Images a second of each contender, in rounds of one batch each."""
    torch.manual_seed(0)
    np.random.seed(0)
    makers = contenders(images, own, options, size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    for epoch in range(WARM_UP + REPEATS):
        for name, make in makers.items():
            start, cpu = time.perf_counter(), time.process_time()
            views = make(epoch)
            spent = time.perf_counter() - start, time.process_time() - cpu
            if epoch >= WARM_UP:
                times[name].append(spent)
    per_cpu = {name: [BATCH / cpu for _, cpu in spent] for name, spent in times.items()}
    base = median(per_cpu["lightly"])
    rows = [
        {
            "recipe": recipe,
            "contender": name,
            "images_per_cpu_second": per_cpu[name],
            "images_per_second": [BATCH / wall for wall, _ in times[name]],
            "median": median(per_cpu[name]),
            "ratio_to_lightly": median(per_cpu[name]) / base,
            "values_per_image": sum(view[0].numel() for view in views),  # bytes; x 4 as floats
        }
        for name in makers
    ]
    print(table(rows[-len(makers) :]), flush=True)
    return rows


def decoding(files: ImageFiles) -> dict[str, float]:
    """Microseconds to decode a file, by OpenCV and by Pillow, and how many bytes that touches."""
    paths = [path for path, _ in files.samples[:FILES]]
    data = [np.frombuffer(Path(path).read_bytes(), dtype=np.uint8) for path in paths]
    how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    by_opencv = sum(microseconds(lambda d=d: cv2.imdecode(d, how)) for d in data)
    by_pillow = sum(microseconds(lambda p=p: load_image(p)) for p in paths)
    return {
        "opencv_microseconds": by_opencv / FILES,
        "pillow_microseconds": by_pillow / FILES,
        "file_bytes": sum(len(d) for d in data) / FILES,
        "decoded_bytes": 3.0 * WIDTH * HEIGHT,
    }


def microseconds(act: Callable[[], Any], repeats: int = 15) -> float:
    """The median time of an act."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        spent.append(time.perf_counter() - start)
    return 1e6 * median(spent)


def operations(photo: Image.Image) -> list[dict[str, Any]]:
    """Microseconds of each operation on one view, ours and that of lightly's transforms."""
    rows = []
    for size in (224, 96, 32):
        for name, (ours, theirs) in _pairs(photo, size).items():
            times = {"fast": microseconds(ours), "lightly": microseconds(theirs)}
            rows.append({"size": size, "operation": name, "microseconds": times})
    return rows


def operations_alone(options: ViewOptions, rows: list[dict[str, Any]], decode: float) -> float:
    """Microseconds of an image: decoding, and each operation as often as its views have it."""
    ours = {(row["size"], row["operation"]): row["microseconds"]["fast"] for row in rows}
    total = decode
    for spec in map(read_view, build_views(options, 224, **SCALING).transforms):
        once = {
            f"crop of 300, {spec.interpolation}": 1.0,
            "flip": spec.flip_prob,
            **dict.fromkeys(JITTERS, spec.jitter_prob),
            "grey": spec.grey_prob,
            "blur, sigma 1": spec.blur_prob / 2,  # its deviation is drawn from 0.1 to 2
            "blur, sigma 2": spec.blur_prob / 2,
            "solarisation": spec.solarize_prob,
            "normalisation": 1.0,
        }
        total += sum(share * ours[spec.size, name] for name, share in once.items())
    return total


def _pairs(photo: Image.Image, size: int) -> dict[str, Pair]:
    square = photo.resize((size, size))
    whole, pixels = np.array(photo), np.array(square)
    batch = fast.planes(pixels, 3)[None]
    pairs: dict[str, Pair] = {}
    for name in ("bilinear", "bicubic"):
        way = Image.Resampling[name.upper()]
        pairs[f"crop of 300, {name}"] = (
            lambda name=name: fast.resize(whole[30:330, 40:340], size, name),
            lambda way=way: photo.crop((40, 30, 340, 330)).resize((size, size), way),
        )
    pairs["flip"] = lambda: fast.flip(pixels, True, False), lambda: TF.hflip(square)
    pairs["rotation"] = lambda: fast.rotate(pixels, 9.0), lambda: TF.rotate(square, 9.0)
    for name, factor in (
        ("brightness", 1.2),
        ("contrast", 0.7),
        ("saturation", 1.1),
        ("hue", 0.07),
    ):
        pairs[name] = (
            lambda name=name, factor=factor: getattr(fast, name)(pixels, factor),
            lambda name=name, factor=factor: getattr(TF, f"adjust_{name}")(square, factor),
        )
    pairs["grey"] = lambda: fast.grey(pixels), lambda: TF.to_grayscale(square, 3)
    for sigma in (1.0, 2.0):
        pairs[f"blur, sigma {sigma:.0f}"] = (
            lambda sigma=sigma: fast.blur(pixels, sigma),
            lambda sigma=sigma: square.filter(ImageFilter.GaussianBlur(sigma)),
        )
    pairs["solarisation"] = lambda: fast.solarize(pixels), lambda: ImageOps.solarize(square, 128)
    pairs["normalisation"] = (
        lambda: normalize(batch, _SPEC),
        lambda: TF.normalize(T.ToTensor()(square), **SCALING),
    )
    return pairs


_SPEC = fast.ViewSpec(224, (0.08, 1.0), (3 / 4, 4 / 3), "bilinear", **SCALING)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of rates."""
    lines = [
        "| views | contender | images a CPU second | times lightly's |",
        "|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['recipe']} | {row['contender']} | {row['median']:.0f} "
            f"({min(row['images_per_cpu_second']):.0f} to "
            f"{max(row['images_per_cpu_second']):.0f}) | {row['ratio_to_lightly']:.2f} |"
        )
    return "\n".join(lines)


def floor_text(floor: dict[str, float]) -> str:
    """The floor in words."""
    return (
        f"floor: decoding alone takes {floor['opencv_microseconds']:.0f} us "
        f"({1e6 / floor['opencv_microseconds']:.0f} images a second; Pillow "
        f"{floor['pillow_microseconds']:.0f} us) of {floor['file_bytes'] / 1e3:.0f} kB to "
        f"{floor['decoded_bytes'] / 1e3:.0f} kB"
    )


def operations_table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of microseconds, ours / lightly's, one column a size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = [
        f"| microseconds, fast / lightly's | {' | '.join(map(str, sizes))} |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name in dict.fromkeys(row["operation"] for row in rows):
        times = [row["microseconds"] for row in rows if row["operation"] == name]
        cells = " | ".join(f"{us['fast']:.0f} / {us['lightly']:.0f}" for us in times)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
