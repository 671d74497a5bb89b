"""The models that bench/compare.py compares, in PyTorch: the same shapes, the same data, the same
optimizer settings as `dyt bench train` has.

Attention is F.scaled_dot_product_attention (flash attention, where there is one) in all of them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Callable

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Peer:
    build: dict  # name of a way to build it -> () -> model
    data: Callable  # (batch) -> (inputs, labels), on the CPU
    loss: Callable
    adamw: dict
    batch: dict  # device -> samples per step
    layouts: bool = False  # a ConvNet, whose images can lie NHWC or NCHW


# --- images


def image_data(size, classes):
    return lambda batch: (torch.randn(batch, 3, size, size), torch.randint(classes, (batch,)))


def vit(size, patch, width, depth, heads, classes, class_token):
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=classes,
        class_token=class_token,
        global_pool="avg",
    )


def convnext(name, **changes):
    import timm

    return timm.create_model(name, pretrained=False, **changes)


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.first, self.second = conv_norm(cin, cout, 3, stride), conv_norm(cout, cout, 3, 1)
        same = cin == cout and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(cin, cout, 1, stride)

    def forward(self, x):
        y = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(y + self.shortcut(x), inplace=True)


def conv_norm(cin, cout, kernel, stride):
    conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


def resnet20():
    """3 stages of 3 basic blocks, 16, 32 and 64 wide."""
    layers = [conv_norm(3, 16, 3, 1), nn.ReLU(inplace=True)]
    width = 16
    for stage in range(3):
        for block in range(3):
            layers.append(BasicBlock(width, 16 << stage, 2 if stage > 0 and block == 0 else 1))
            width = 16 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


# --- texts


class Block(nn.Module):
    """Of GPT-2."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.ln_1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, vocabulary, context, width, depth, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.ln_f = nn.LayerNorm(width)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return F.linear(self.ln_f(self.blocks(x)), self.wte.weight)


def llama(width, depth, heads, hidden, vocabulary, context):
    from transformers import LlamaConfig, LlamaForCausalLM

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.llama = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=width,
                    num_hidden_layers=depth,
                    num_attention_heads=heads,
                    intermediate_size=hidden,
                    vocab_size=vocabulary,
                    max_position_embeddings=context,
                    attn_implementation="sdpa",
                    use_cache=False,
                )
            )

        def forward(self, tokens):
            return self.llama(input_ids=tokens).logits

    return Logits()


def text_data(vocabulary, tokens):
    def draw(batch):
        text = torch.randint(vocabulary, (batch, tokens + 1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    return draw


def text_loss(logits, labels):
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


IMAGES = {"loss": F.cross_entropy, "adamw": {"lr": 1e-4, "weight_decay": 0.05}}
CONVNETS = IMAGES | {"layouts": True}
TEXTS = {
    "loss": text_loss,
    "adamw": {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.1},
}
cifar_convnext = partial(convnext, "convnext_atto", num_classes=10, patch_size=2)

PEERS = {
    "vit_ti4": Peer(
        {"": partial(vit, 32, 4, 192, 12, 3, 10, False)},
        image_data(32, 10),
        batch={"cpu": 64, "cuda": 256},
        **IMAGES,
    ),
    "vit_b16": Peer(
        {"": partial(vit, 224, 16, 768, 12, 12, 1000, True)},
        image_data(224, 1000),
        batch={"cpu": 4, "cuda": 64},
        **IMAGES,
    ),
    # timm's blocks can have 1 x 1 convolutions (its choice for Atto) or linear layers on NHWC (for
    # Base).
    "convnext_atto": Peer(
        {"conv": partial(cifar_convnext, conv_mlp=True), "linear": partial(cifar_convnext, conv_mlp=False)},
        image_data(32, 10),
        batch={"cpu": 64, "cuda": 256},
        **CONVNETS,
    ),
    "convnext_base": Peer(
        {"": partial(convnext, "convnext_base")},
        image_data(224, 1000),
        batch={"cpu": 2, "cuda": 64},
        **CONVNETS,
    ),
    "resnet20": Peer(
        {"": resnet20},
        image_data(32, 10),
        batch={"cpu": 128, "cuda": 512},
        **CONVNETS,
    ),
    "gpt_6x192": Peer(
        {"": partial(GPT2, 256, 128, 192, 6, 6)},
        text_data(256, 128),
        batch={"cpu": 32, "cuda": 128},
        **TEXTS,
    ),
    # 50,304 words instead of 50,257: PyTorch is faster with a multiple of 64.
    "gpt2_124m": Peer(
        {"": partial(GPT2, 50304, 1024, 768, 12, 12)},
        text_data(50257, 1024),
        batch={"cpu": 1, "cuda": 16},
        **TEXTS,
    ),
    "llama_130m": Peer(
        {"": partial(llama, 768, 12, 12, 2048, 32000, 1024)},
        text_data(32000, 1024),
        batch={"cpu": 1, "cuda": 16},
        **TEXTS,
    ),
}
