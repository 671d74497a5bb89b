"""A small GPT-2 in PyTorch eager: 6 layers of 192, 6 heads, 128 tokens, bytes (256 tokens).

Batch 32, f32, AdamW, head tied to the token embedding, no dropout, GELU by its tanh approximation
as in GPT-2; attention is F.scaled_dot_product_attention.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import step

BATCH, TOKENS, VOCABULARY, WIDTH, DEPTH, HEADS = 32, 128, 256, 192, 6, 6


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.attn_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc, self.mlp_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.ln_1(x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.ln_f = nn.LayerNorm(WIDTH)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return F.linear(self.ln_f(self.blocks(x)), self.wte.weight)


def build():
    text = torch.randint(VOCABULARY, (BATCH, TOKENS + 1))
    return GPT(), text[:, :-1].contiguous(), text[:, 1:].contiguous()


def loss(logits, labels):
    return F.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1))


if __name__ == "__main__":
    adamw = partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    step.main("gpt_6x192", {"sdpa": build}, adamw, loss, BATCH)
