"""attention.safetensors: attention over padded texts, and of one text to another, and sinusoidal
positions, by PyTorch.

    python tests/reference/make_attention.py

q, y (B, T_q, heads, hd); k, v (B, T_k, kv heads, hd); lengths (B): sample b has so many keys.
Queries in the padding get a dy, too: what they give is finite, and any dy must come back.
"""

import math

import torch
import torch.nn.functional as F

from fixture import Fixture


def attend(q, k, v, lengths, causal=0):
    """Which keys a query may see is said by a mask: PyTorch's way, ours takes the lengths."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    mask = (torch.arange(k.shape[2]) < lengths[:, None])[:, None, None, :]
    if causal:
        mask = mask & torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return y.transpose(1, 2)


def sinusoids(x, factor, first):
    """x (B, T, C): the formula of arXiv 1706.03762, section 3.5, as it stands there."""
    waves = torch.zeros_like(x[0])
    for t in range(x.shape[1]):
        for i in range(x.shape[2] // 2):
            angle = (first + t) / 10000 ** (2 * i / x.shape[2])
            waves[t, 2 * i], waves[t, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return factor * x + waves


def main():
    f = Fixture()
    f.seed("sinusoids")
    f.case("sinusoids", sinusoids, dict(x=f.normal(2, 7, 12)), dict(factor=1.5, first=3))
    for name, T_q, T_k, heads, kv_heads, width, lengths, causal in [
        ("padded", 9, 9, 2, 2, 16, [4, 9, 1], 0),
        ("padded_causal", 9, 9, 4, 2, 24, [4, 9, 1], 1),
        ("cross", 7, 5, 2, 2, 16, [5, 5, 5], 0),
        ("cross_padded", 5, 11, 4, 2, 20, [3, 11, 8], 0),
    ]:
        f.seed(name)
        inputs = dict(
            q=f.normal(3, T_q, heads, width),
            k=f.normal(3, T_k, kv_heads, width),
            v=f.normal(3, T_k, kv_heads, width),
            lengths=torch.tensor(lengths),
        )
        f.case(name, attend, inputs, dict(causal=causal))
    f.save("attention.safetensors")


if __name__ == "__main__":
    main()
