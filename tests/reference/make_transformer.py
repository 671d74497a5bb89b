"""transformer.safetensors: tiny encoder-decoder Transformers made of PyTorch's layers.

    python tests/reference/make_transformer.py

Under post/, pre/ and dyt/ each: every parameter under our name, `source` and `lengths` (padding is
what follows a length), `target`, `labels` (-1 in the padding), `logits`, `loss` (label smoothing
0.1, mean over the labels that count) and grad.<parameter>. The layers are PyTorch's own
nn.TransformerEncoderLayer and nn.TransformerDecoderLayer; DyT takes the place of their LayerNorms.

  post   as published: Post-LN, ReLU, sinusoidal positions, one embedding; two layers
  pre    Pre-LN, GELU, learned positions, a vocabulary and an embedding for each side
  dyt    Pre-LN with DyT, otherwise as post, one layer
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from fixture import Fixture, rounded
from make_attention import sinusoids

WIDTH, HEADS, HIDDEN, VOCABULARY, SOURCE_VOCABULARY, CONTEXT = 32, 2, 40, 31, 23, 12


class DynamicTanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return self.weight * torch.tanh(self.alpha * x) + self.bias


class Transformer(nn.Module):
    def __init__(self, pre, depth, dyt=False, gelu=False, learned=False, two=False):
        super().__init__()
        options = dict(
            dropout=0.0,
            activation="gelu" if gelu else "relu",
            batch_first=True,
            norm_first=pre,
        )

        def layers(kind):
            return nn.ModuleList(kind(WIDTH, HEADS, HIDDEN, **options) for _ in range(depth))

        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.layers = layers(nn.TransformerEncoderLayer)
        self.decoder.layers = layers(nn.TransformerDecoderLayer)
        norm = DynamicTanh if dyt else lambda: nn.LayerNorm(WIDTH)
        if dyt:
            for layer in [*self.encoder.layers, *self.decoder.layers]:
                for name in ("norm1", "norm2", "norm3"):
                    if hasattr(layer, name):
                        setattr(layer, name, norm())
        if pre:
            self.encoder.norm, self.decoder.norm = norm(), norm()
        self.target_embedding = nn.Embedding(VOCABULARY, WIDTH)
        if two:
            self.source_embedding = nn.Embedding(SOURCE_VOCABULARY, WIDTH)
        if learned:
            self.source_position = nn.Embedding(CONTEXT, WIDTH)
            self.target_position = nn.Embedding(CONTEXT, WIDTH)
        self.pre, self.learned, self.two = pre, learned, two

    def embed(self, tokens, table, side):
        x = table(tokens)
        if self.learned:
            return x + getattr(self, side + "_position").weight[: tokens.shape[1]]
        return sinusoids(x, math.sqrt(WIDTH), 0)

    def forward(self, source, lengths, target):
        padding = torch.arange(source.shape[1]) >= lengths[:, None]
        table = self.source_embedding if self.two else self.target_embedding
        x = self.embed(source, table, "source")
        for layer in self.encoder.layers:
            x = layer(x, src_key_padding_mask=padding)
        memory = self.encoder.norm(x) if self.pre else x
        y = self.embed(target, self.target_embedding, "target")
        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        for layer in self.decoder.layers:
            y = layer(y, memory, tgt_mask=future, memory_key_padding_mask=padding)
        y = self.decoder.norm(y) if self.pre else y
        return y @ self.target_embedding.weight.T


def randomize(model, f):
    """Random values everywhere, so that no mistake hides behind an initial 0 or 1."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("alpha"):
                value = f.normal(*p.shape, scale=0.1, mean=0.6)
            elif "norm" in name and name.endswith("weight"):
                value = f.normal(*p.shape, scale=0.2, mean=1.0)
            elif p.dim() == 1:
                value = f.normal(*p.shape, scale=0.2)
            else:
                value = f.normal(*p.shape, scale=1 / math.sqrt(WIDTH))
            p.copy_(rounded(value))


def store(f, key, name, tensor):
    """PyTorch's packed queries, keys and values of the cross-attention are two tensors of ours."""
    if "multihead_attn.in_proj_" in name:
        for part, rows in (("q_proj.", slice(0, WIDTH)), ("kv_proj.", slice(WIDTH, None))):
            f.store(key + name.replace("in_proj_", part), tensor[rows])
    else:
        f.store(key + name, tensor)


def make(f, name, model):
    f.seed("transformer " + name)
    randomize(model, f)
    lengths = torch.tensor([9, 4, 1])
    source = f.integers(3, 9, below=SOURCE_VOCABULARY)
    text = f.integers(3, 8, below=VOCABULARY)
    target, labels = text[:, :-1].contiguous(), text[:, 1:].clone()
    labels[1, 5:], labels[2, 2:] = -1, -1
    logits = model(source, lengths, target)
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1, label_smoothing=0.1
    )
    loss.backward()
    for key, value in dict(
        source=source, lengths=lengths, target=target, labels=labels, logits=logits, loss=loss
    ).items():
        f.store(f"{name}/{key}", value)
    for key, p in model.named_parameters():
        store(f, f"{name}/", key, p)
        store(f, f"{name}/grad.", key, p.grad)


def main():
    torch.manual_seed(0)
    f = Fixture()
    make(f, "post", Transformer(pre=False, depth=2).double())
    make(f, "pre", Transformer(pre=True, depth=1, gelu=True, learned=True, two=True).double())
    make(f, "dyt", Transformer(pre=True, depth=1, dyt=True).double())
    f.save("transformer.safetensors")


if __name__ == "__main__":
    main()
