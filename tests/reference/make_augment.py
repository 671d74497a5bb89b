"""augment.safetensors: RandAugment's operations and bicubic scaling, done by timm and Pillow.

image [H, W, 3] and grey [H, W] are the originals. For each of RandAugment's fifteen operations OP,
numbered in timm's order: OP/levels [n] (0 .. 10), OP/negate [n] and OP/images [n, H, W, 3].
resize/{name}/box [4] (top, left, height, width), /size [2] (height, width), /image.
view/{name}/image: what evaluation shows of view/{name}/original, at view/{name}/size [1].
jitter/{brightness, contrast, color}/factors [n], /images [n, H, W, 3].
"""

import pathlib

import numpy as np
import torch
from PIL import Image, ImageEnhance
from safetensors.torch import save_file
from timm.data import auto_augment
from timm.data.transforms_factory import transforms_imagenet_eval

HERE = pathlib.Path(__file__).resolve().parent
MEAN = (124, 116, 104)  # what is filled in: ImageNet's mean colour
NAMES = auto_augment._RAND_INCREASING_TRANSFORMS


def picture(height, width, seed):
    """Smooth colours, an edge, a flat patch, a few specks: something of everything."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3.0 + c) + c) * np.cos(y / (4.0 + 2 * c)) for c in range(3)]
    rgb = np.stack([120 + 90 * w for w in waves], axis=-1)
    rgb[: height // 3, width // 2 :] = (250, 20, 60)
    rgb[height // 2 :, : width // 4] *= 0.3
    rgb += random.normal(0, 6, rgb.shape) * (x % 3 == 0)[..., None]
    return np.clip(rgb, 3, 251).astype(np.uint8)


def operation(name, image, level, negate):
    """AugmentOp without its dice: the level is given, and so is the sign."""
    keep = auto_augment._randomly_negate
    auto_augment._randomly_negate = lambda v: -v if negate else v
    hparams = dict(img_mean=MEAN, interpolation=Image.Resampling.BICUBIC, translate_const=100)
    op = auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    result = op(image)
    auto_augment._randomly_negate = keep
    return np.asarray(result)


def main():
    tensors = {}
    store = lambda key, value: tensors.__setitem__(key, torch.from_numpy(np.array(value)))  # noqa: E731
    rgb = picture(15, 20, 1)
    store("image", rgb)
    image = Image.fromarray(rgb)
    for n, name in enumerate(NAMES):
        has_sign = name in ("Rotate",) or name.startswith(("Shear", "Translate")) or (
            name.endswith("Increasing") and name[:5] not in ("Poste", "Solar")
        )
        levels = [0.0, 8.7, 9.9] if n >= 3 else [9.0]
        if name == "PosterizeIncreasing":
            levels = [0.0, 2.6, 7.4, 9.0]  # Pillow no longer keeps 0 bits, which is level 10
        cases = [(level, negate) for level in levels for negate in ([False, True] if has_sign else [False])]
        store(f"{n}/levels", np.array([level for level, _ in cases], dtype=np.float64))
        store(f"{n}/negate", np.array([int(negate) for _, negate in cases], dtype=np.int64))
        store(f"{n}/images", np.stack([operation(name, image, *case) for case in cases]))
    for name, enhance in [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("color", ImageEnhance.Color),
    ]:
        factors = [0.6, 0.93, 1.37]
        store(f"jitter/{name}/factors", np.array(factors, dtype=np.float64))
        store(f"jitter/{name}/images", np.stack([np.asarray(enhance(image).enhance(f)) for f in factors]))

    # Pillow 13 scales columns first where that is less work, which shows in the rounding; all others,
    # and we, scale rows first. These are cases of the latter.
    for name, box, size in [
        ("down", (0, 0, 15, 20), (7, 9)),
        ("up", (2, 5, 7, 6), (16, 19)),
        ("mixed", (1, 3, 13, 9), (12, 4)),
        ("same", (3, 4, 9, 9), (9, 9)),
    ]:
        top, left, height, width = box
        part = image.crop((left, top, left + width, top + height))
        part = part.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        store(f"resize/{name}/box", np.array(box))
        store(f"resize/{name}/size", np.array(size))
        store(f"resize/{name}/image", np.asarray(part))
    for name, height, width, size in [("wide", 21, 34, 14), ("tall", 40, 23, 10), ("small", 9, 11, 16)]:
        original = picture(height, width, 2)
        transform = transforms_imagenet_eval(size, interpolation="bicubic", normalize=False)
        store(f"view/{name}/original", original)
        store(f"view/{name}/size", np.array([size]))
        store(f"view/{name}/image", transform(Image.fromarray(original)).permute(1, 2, 0).contiguous().numpy())

    path = HERE / "augment.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
