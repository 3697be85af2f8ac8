"""Images in VOC's segmentation layout whose classes are colours."""

import numpy as np
from PIL import Image

NAMES = ("background", "red", "green", "blue")
COLOURS = ((20, 20, 20), (220, 30, 30), (30, 220, 30), (30, 30, 220))
_SIZES = ((64, 64), (64, 32), (32, 96))  # width and height


def write_voc(root, train=6, val=4):
    """Write ``VOCdevkit/VOC2012`` of patches of one colour and give ``root``.

    An eighth of each side is a patch, so that patches stay whole when images become squares.
    """
    folder = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        names = [f"{split}{i}" for i in range(count)]
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for i, name in enumerate(names):
            width, height = _SIZES[i % len(_SIZES)]
            grid = np.zeros((4, 4), np.uint8)
            grid[:2, :2], grid[:2, 2:] = generator.permutation([1, 2, 3])[:2]
            mask = grid.repeat(height // 4, axis=0).repeat(width // 4, axis=1)
            pixels = np.array(COLOURS, np.uint8)[mask]
            noise = generator.integers(-9, 10, pixels.shape)
            image = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
            image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
            mask[-1, -3:] = 255
            palette = Image.fromarray(mask, "P")
            # all 256 colours, or Pillow writes two bits a pixel, and 255 becomes 3
            palette.putpalette(np.resize(COLOURS, (256, 3)).ravel().tolist())
            palette.save(folder / "SegmentationClass" / f"{name}.png")
    return root
