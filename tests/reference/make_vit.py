"""vit_layernorm, vit_dyt, vit_class_token, vit_class_token_mean, vit_post .safetensors: a tiny ViT,
all of it.

Each file holds every parameter under timm's name, `images` [N, 3, H, W], `labels` [N] int64,
`logits` [N, classes], `loss` (mean over N) and grad.<parameter>; the sizes are in the metadata
entry `config`.
"""

import json

import torch

from fixture import Fixture
from torch_models import put_norms_after
from vit import build_vit, loss_and_gradients, random_batch, randomize

SIZES = dict(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=10)


def make(name, norm, class_token, pool=None, post=False):
    f = Fixture()
    f.seed(name)
    model = build_vit(norm, class_token, pool, **SIZES)
    if post:
        put_norms_after(model)
    randomize(model, f.generator)
    images, labels = random_batch(f.generator, 3, SIZES["img_size"], SIZES["num_classes"])
    for key, parameter in model.named_parameters():
        f.store(key, parameter)
    f.store("images", images)
    f.store("labels", labels)
    for key, value in loss_and_gradients(model, images, labels).items():
        f.store(key, value)
    config = {**SIZES, "norm": norm, "class_token": class_token}
    f.save(f"{name}.safetensors", metadata={"config": json.dumps(config)})


def main():
    torch.manual_seed(0)
    make("vit_layernorm", "layernorm", class_token=False)
    make("vit_dyt", "dyt", class_token=False)
    make("vit_class_token", "layernorm", class_token=True)
    make("vit_class_token_mean", "layernorm", class_token=True, pool="avg")
    make("vit_post", "layernorm", class_token=False, post=True)


if __name__ == "__main__":
    main()
