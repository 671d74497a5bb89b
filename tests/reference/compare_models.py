#!/usr/bin/env python3
"""A ViT of any size, random weights: dyt against timm, logits and every gradient.

    python tests/reference/compare_models.py --norm dyt --width 96 --depth 3 --heads 6
    python tests/reference/compare_models.py --preset vit_b16 --batch 1

Weights and inputs are written as safetensors under timm's names; `dyt forward` must give timm's
logits within 1e-4 and `dyt backward` every gradient within 1e-3 (relative to the largest value of
the tensor; timm computes in float64). The last line is `agree` or `DISAGREE`, exit status 0 or 1.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

from vit import build_vit, loss_and_gradients, random_batch, randomize

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE_OPTIONS = ["width", "depth", "heads", "patch", "image_size", "classes"]
# preset -> sizes in the order of SIZE_OPTIONS
PRESETS = {
    "tiny": (32, 2, 2, 4, 16, 10),
    "vit_ti4": (192, 12, 3, 4, 32, 10),
    "vit_s16": (384, 12, 6, 16, 224, 1000),
    "vit_b16": (768, 12, 12, 16, 224, 1000),
    "vit_l16": (1024, 24, 16, 16, 224, 1000),
}
# Gradients that are zero but for rounding (a key's bias does not change a softmax) are compared
# with the scale of the whole gradient instead of with their own.
NEGLIGIBLE = 1e-6


def parse():
    parser = argparse.ArgumentParser(description="Compare dyt's ViT with timm's.")
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    for name in SIZE_OPTIONS:
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="instead of the preset's")
    parser.add_argument("--norm", choices=["layernorm", "dyt"], default="layernorm")
    parser.add_argument("--class-token", action="store_true", help="head reads a class token")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="dyt's device: cpu, cuda or emulated")
    parser.add_argument("--dyt", default=ROOT / "dyt", help="the binary to test")
    parser.add_argument("--keep", help="write the files into this folder and keep them")
    arguments = parser.parse_args()
    for name, value in zip(SIZE_OPTIONS, PRESETS[arguments.preset]):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def dyt_command(arguments, folder, direction):
    """The interface: weights and inputs in, logits (and loss and gradients) out."""
    command = [
        arguments.dyt,
        direction,
        "vit",
        "--device",
        arguments.device,
        "--norm",
        arguments.norm,
    ]
    for name in SIZE_OPTIONS:
        command += ["--" + name.replace("_", "-"), getattr(arguments, name)]
    if arguments.class_token:
        command += ["--class-token"]
    command += ["--init", folder / "weights.safetensors", "--input", folder / "inputs.safetensors"]
    command += ["--output", folder / f"{direction}.safetensors"]
    return [str(part) for part in command]


def run_dyt(arguments, folder, direction):
    command = dyt_command(arguments, folder, direction)
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit {done.returncode}: {done.stderr.strip()}")
    return load_file(folder / f"{direction}.safetensors")


def difference(theirs, ours, floor=0.0):
    """Largest difference, relative to the largest value there should be (at least `floor`)."""
    if ours is None or ours.shape != theirs.shape:
        return float("inf")
    worst = (ours.double() - theirs).abs().max().item()
    if worst != worst:  # NaN
        return float("inf")
    return worst / max(theirs.abs().max().item(), floor, 1e-300)


def main():
    arguments = parse()
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = build_vit(
        arguments.norm,
        arguments.class_token,
        img_size=arguments.image_size,
        patch_size=arguments.patch,
        embed_dim=arguments.width,
        depth=arguments.depth,
        num_heads=arguments.heads,
        num_classes=arguments.classes,
    )
    randomize(model, generator)
    images, labels = random_batch(
        generator, arguments.batch, arguments.image_size, arguments.classes
    )
    expected = loss_and_gradients(model, images, labels)

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().float().contiguous() for name, p in model.named_parameters()}
        save_file(weights, folder / "weights.safetensors")
        save_file({"images": images.float(), "labels": labels}, folder / "inputs.safetensors")
        forward = run_dyt(arguments, folder, "forward")
        backward = run_dyt(arguments, folder, "backward")

    largest = max(v.abs().max().item() for k, v in expected.items() if k.startswith("grad."))
    rows = [("logits (forward)", difference(expected["logits"], forward.get("logits")), 1e-4)]
    for name, value in expected.items():
        is_gradient = name.startswith("grad.")
        floor = NEGLIGIBLE * largest if is_gradient else 0.0
        rows.append(
            (name, difference(value, backward.get(name), floor), 1e-3 if is_gradient else 1e-4)
        )
    extra = sorted(set(backward) - set(expected))

    rows.sort(key=lambda row: row[1] / row[2], reverse=True)
    wrong = [row for row in rows if row[1] > row[2]]
    print(f"{'tensor':48} {'difference':>11} {'allowed':>9}")
    for name, found, allowed in wrong or rows[:5]:
        print(f"{name:48} {found:11.2e} {allowed:9.0e}")
    if extra:
        print("not expected in the output:", ", ".join(extra[:8]))
    print(f"{len(rows) - len(wrong)} of {len(rows)} tensors agree")
    print("DISAGREE" if wrong else "agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
