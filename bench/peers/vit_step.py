"""ViT-Ti/4 for CIFAR in PyTorch eager: 192 wide, 12 deep, 3 heads, 8 x 8 tokens, mean pooling.

Batch 64, f32, AdamW, 10 classes; timm's model, whose attention is F.scaled_dot_product_attention.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

import step

BATCH = 64


def build():
    model = VisionTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=192,
        depth=12,
        num_heads=3,
        num_classes=10,
        class_token=False,
        global_pool="avg",
    )
    return model, torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))


if __name__ == "__main__":
    adamw = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.05)
    step.main("vit_ti4", {"timm": build}, adamw, F.cross_entropy, BATCH)
