"""The models of dyt, by the same names and options, as timm and transformers build them."""

import math

import torch
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import make_gpt
from make_convnets import DynamicTanh2d, LayerNorm2d, small_vgg
from vit import DynamicTanh

# What models/*.cpp say of each preset.
AT_224 = dict(image_size=224, classes=1000)
AT_32 = dict(image_size=32, classes=10)
VIT_16 = dict(**AT_224, patch=16, class_token=True, pool="avg")
BYTES = dict(vocab=256, context=128, width=192, depth=6, heads=6)
GPT2 = dict(vocab=50257, context=1024)
LLAMA = dict(vocab=32000, context=1024, tied=False)
PRESETS = {
    "vit_micro": dict(**AT_32, patch=4, width=128, depth=5, heads=4),
    "vit_ti4": dict(**AT_32, patch=4, width=192, depth=12, heads=3),
    "vit_ti16": dict(**VIT_16, width=192, depth=12, heads=3),
    "vit_s16": dict(**VIT_16, width=384, depth=12, heads=6),
    "vit_b16": dict(**VIT_16, width=768, depth=12, heads=12),
    "vit_l16": dict(**VIT_16, width=1024, depth=24, heads=16),
    "convnext_atto_cifar": dict(**AT_32, patch=2, width=40, depths=(2, 2, 6, 2), conv_mlp=True),
    "convnext_atto": dict(**AT_224, patch=4, width=40, depths=(2, 2, 6, 2), conv_mlp=True),
    "convnext_nano": dict(**AT_224, patch=4, width=80, depths=(2, 2, 8, 2), conv_mlp=True),
    "convnext_tiny": dict(**AT_224, patch=4, width=96, depths=(3, 3, 9, 3), conv_mlp=False),
    "resnet20": dict(**AT_32, width=16, depths=(3, 3, 3), block=BasicBlock),
    "resnet56": dict(**AT_32, width=16, depths=(9, 9, 9), block=BasicBlock),
    "resnet18": dict(**AT_224, width=64, depths=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": dict(**AT_224, width=64, depths=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": dict(**AT_224, width=64, depths=(3, 4, 6, 3), block=Bottleneck),
    "vgg11_bn": dict(**AT_224, width=64, convs=(1, 1, 2, 2, 2), hidden=4096),
    "vgg16_bn": dict(**AT_224, width=64, convs=(2, 2, 3, 3, 3), hidden=4096),
    "vgg11_bn_cifar": dict(**AT_32, width=64, convs=(1, 1, 2, 2, 2), hidden=0),
    "gpt_char": dict(**BYTES),
    "gpt2_124m": dict(**GPT2, width=768, depth=12, heads=12),
    "llama_char": dict(**BYTES, hidden=512),
    "llama_60m": dict(**LLAMA, width=512, depth=8, heads=8, hidden=1376),
}
FAMILIES = {
    "vit": "vit_micro",
    "convnext": "convnext_atto_cifar",
    "resnet": "resnet20",
    "vgg": "vgg11_bn_cifar",
    "gpt": "gpt_char",
    "llama": "llama_char",
}


def replace(module, kinds, replacement):
    """Every module of these classes below `module` becomes replacement(it)."""
    for name, child in module.named_children():
        if isinstance(child, kinds):
            setattr(module, name, replacement(child))
        else:
            replace(child, kinds, replacement)


def dynamic_tanh(norm):
    if isinstance(norm, (nn.BatchNorm2d, LayerNorm2d)):
        return DynamicTanh2d(norm.weight.shape[0])
    if isinstance(norm, LlamaRMSNorm):
        return make_gpt.DynamicTanh(norm.weight.shape[0])
    return DynamicTanh(norm.weight.shape[0])


def change_norms(model, options):
    """layernorm in a LLaMA has no bias, nor has DyT; rmsnorm keeps a GPT-2's epsilon."""
    kinds = (nn.LayerNorm, nn.BatchNorm2d, LlamaRMSNorm)
    norm = options.get("norm")
    if norm == "dyt":
        replace(model, kinds, dynamic_tanh)
    elif norm == "rmsnorm":
        replace(model, nn.LayerNorm, lambda n: LlamaRMSNorm(n.weight.shape[0], eps=n.eps))
    elif norm == "layernorm":
        replace(
            model,
            LlamaRMSNorm,
            lambda n: nn.LayerNorm(n.weight.shape[0], eps=n.variance_epsilon, bias=False),
        )
    elif norm not in (None, "none"):
        raise ValueError(f"no {norm} here")
    return model


class PostBlock(nn.Module):
    """norm(x + f(x)) of a timm block, whose parameter names stay."""

    def __init__(self, block):
        super().__init__()
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp

    def forward(self, x, *_, **__):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


def put_norms_after(model):
    """Of a timm ViT: norms behind the residual sums, and none at the end."""
    model.blocks = nn.Sequential(*[PostBlock(block) for block in model.blocks])
    model.norm, model.fc_norm = nn.Identity(), nn.Identity()


def vit(o):
    has_token = o.get("class_token", False)
    model = VisionTransformer(
        img_size=o["image_size"],
        patch_size=o["patch"],
        embed_dim=o["width"],
        depth=o["depth"],
        num_heads=o["heads"],
        num_classes=o["classes"],
        class_token=has_token,
        global_pool=o.get("pool", "token" if has_token else "avg"),
    )
    if o.get("norm_placement") == "post":
        put_norms_after(model)
    return change_norms(model, o)


def convnext(o):
    model = ConvNeXt(
        depths=o["depths"],
        dims=[o["width"] << i for i in range(4)],
        patch_size=o["patch"],
        conv_mlp=o["conv_mlp"],
        num_classes=o["classes"],
    )
    return change_norms(model, o)


class ResNet(nn.Module):
    """timm's ResNet with a stem as wide as the first stage; of three stages: with CIFAR's stem."""

    def __init__(self, o):
        super().__init__()
        block, width = o["block"], o["width"]
        self.large_stem = len(o["depths"]) == 4
        kernel, stride = (7, 2) if self.large_stem else (3, 1)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, depth in enumerate(o["depths"]):
            planes, blocks = o["width"] << stage, []
            for i in range(depth):
                step = 2 if stage > 0 and i == 0 else 1
                out, downsample = planes * block.expansion, None
                if step != 1 or width != out:
                    downsample = nn.Sequential(
                        nn.Conv2d(width, out, 1, step, bias=False), nn.BatchNorm2d(out)
                    )
                blocks.append(block(width, planes, step, downsample))
                width = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(o["depths"])
        self.fc = nn.Linear(width, o["classes"])

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        if self.large_stem:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean(dim=(2, 3)))


def resnet(o):
    return change_norms(ResNet(o), o)


def vgg(o):
    features = []
    for stage, convs in enumerate(o["convs"]):
        features += [o["width"] << min(stage, 3)] * convs + ["M"]
    model = small_vgg(features, o["hidden"], o["classes"])
    if o.get("norm") == "none":  # timm numbers the others as if they had never been
        kept = [m for m in model.features if not isinstance(m, nn.BatchNorm2d)]
        model.features = nn.Sequential(*kept)
    return change_norms(model, o)


def gpt(o):
    config = GPT2Config(
        vocab_size=o["vocab"],
        n_positions=o["context"],
        n_embd=o["width"],
        n_layer=o["depth"],
        n_head=o["heads"],
        n_inner=o.get("hidden"),
        tie_word_embeddings=o.get("tied", True),
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return change_norms(GPT2LMHeadModel(config), o)


def llama(o):
    config = LlamaConfig(
        vocab_size=o["vocab"],
        max_position_embeddings=o["context"],
        hidden_size=o["width"],
        intermediate_size=o.get("hidden") or (8 * o["width"] // 3 + 31) // 32 * 32,
        num_hidden_layers=o["depth"],
        num_attention_heads=o["heads"],
        num_key_value_heads=o.get("kv_heads") or o["heads"],
        rms_norm_eps=1e-6,
        tie_word_embeddings=o.get("tied", True),
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = change_norms(LlamaForCausalLM(config), o)
    if o.get("norm") == "dyt":
        model.model.embed_scale = nn.Parameter(torch.full((1,), math.sqrt(o["width"])))
    return model


def run_text(model, tokens):
    """Logits; a LLaMA with DyT reads scale * embedding."""
    scale = getattr(getattr(model, "model", None), "embed_scale", None)
    if scale is None:
        return model(tokens).logits
    return model(inputs_embeds=scale * model.model.embed_tokens(tokens)).logits


def options_of(name, changes):
    """A preset's options with these changes; `hidden` follows the width."""
    options = dict(PRESETS[FAMILIES.get(name, name)])
    if "width" in changes and "vocab" in options:
        options.pop("hidden", None)
    if "class_token" in changes:
        options.pop("pool", None)
    return options | changes


def build(name, options):
    builders = dict(vit=vit, convnext=convnext, resnet=resnet, vgg=vgg, gpt=gpt, llama=llama)
    family = next(f for f in ("convnext", "resnet", "vit", "vgg", "llama", "gpt") if name.startswith(f))
    return builders[family](options).double()
