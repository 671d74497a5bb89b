"""timm's VisionTransformer with either norm and random weights: the model we are compared with."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fixture import rounded


class DynamicTanh(nn.Module):
    """weight * tanh(alpha * x) + bias, parameters named as in the authors' code."""

    def __init__(self, channels, alpha0=0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), alpha0))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return self.weight * torch.tanh(self.alpha * x) + self.bias


def replace_layernorm(module, replacement):
    """Every nn.LayerNorm below `module`, the final one included, becomes replacement(channels)."""
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, replacement(child.normalized_shape[0]))
        else:
            replace_layernorm(child, replacement)


def build_vit(norm, class_token=False, pool=None, **options):
    """options: img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, num_classes.

    With a class token the head reads it after `norm`; without, or with pool="avg", it reads the mean
    of all other tokens after `fc_norm`. LayerNorm's eps is 1e-6, GELU is exact, qkv has a bias.
    """
    model = VisionTransformer(
        class_token=class_token,
        global_pool=pool or ("token" if class_token else "avg"),
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        act_layer=nn.GELU,
        **options,
    )
    if norm == "dyt":
        replace_layernorm(model, DynamicTanh)
    return model.double().eval()


def randomize(model, generator):
    """Random values everywhere, so that no mistake hides behind an initial 0 or 1.

    Matrices keep their output's size near their input's, so that deep models stay comparable.
    """

    def normal(shape, scale, mean=0.0):
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale + mean

    norms = {
        name for name, m in model.named_modules() if isinstance(m, (nn.LayerNorm, DynamicTanh))
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner, _, kind = name.rpartition(".")
            if kind == "alpha":
                low_to_high = torch.rand(1, generator=generator, dtype=torch.float64)
                value = 0.3 + 0.6 * low_to_high
            elif owner in norms:
                value = normal(parameter.shape, 0.2, mean=1.0 if kind == "weight" else 0.0)
            elif parameter.dim() >= 2 and kind == "weight":
                value = normal(parameter.shape, 1 / math.sqrt(parameter[0].numel()))
            else:  # biases, class token, position embedding
                value = normal(parameter.shape, 0.2)
            parameter.copy_(rounded(value))


def random_batch(generator, batch, image_size, classes):
    """images [N, 3, H, W] and labels [N]."""
    shape = (batch, 3, image_size, image_size)
    images = rounded(torch.randn(shape, generator=generator, dtype=torch.float64))
    return images, torch.randint(classes, (batch,), generator=generator)


def loss_and_gradients(model, images, labels):
    """Logits, the mean cross-entropy, and grad.<name> of every parameter, computed in float64."""
    model.zero_grad()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    results = {"logits": logits.detach(), "loss": loss.detach()}
    for name, parameter in model.named_parameters():
        results["grad." + name] = parameter.grad
    return results
