"""ConvNeXt-Atto for CIFAR in PyTorch eager: depths 2 2 6 2, widths 40 80 160 320.

The CIFAR stem is a 2 x 2 convolution of stride 2 and a norm (timm: patch_size=2). Behind it every
stage starts by halving the image, so the stages work at 8, 4, 2 and 1 pixels. Batch 64, f32, AdamW, 10 classes. The two pointwise layers of a block
can be 1 x 1 convolutions (timm's choice for Atto) or linear layers on NHWC; both are tried, in both
layouts.
"""

from functools import partial

import timm
import torch
import torch.nn.functional as F

import step

BATCH = 64


def build(conv_mlp, layout):
    model = timm.create_model("convnext_atto", num_classes=10, patch_size=2, conv_mlp=conv_mlp)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=layout)
    return model.to(memory_format=layout), images, torch.randint(10, (BATCH,))


VARIANTS = {
    f"{mlp}, {name}": partial(build, mlp == "conv", layout)
    for mlp in ["conv", "linear"]
    for name, layout in [("NHWC", torch.channels_last), ("NCHW", torch.contiguous_format)]
}

if __name__ == "__main__":
    adamw = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.05)
    step.main("convnext_atto", VARIANTS, adamw, F.cross_entropy, BATCH)
