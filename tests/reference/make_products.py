"""products.safetensors: what stands around the matrix products.

Keys are CASE/TENSOR; README.md lists the cases. Letters: C channels, F hidden width.
"""

import torch
import torch.nn.functional as F

from fixture import Fixture


def mlp(x, w1, b1, w2, b2, approximate, residual=None):
    y = F.linear(F.gelu(F.linear(x, w1, b1), approximate=approximate), w2, b2)
    return y if residual is None else y + residual


def make_mlp(f):
    for name, approximate, rows, channels, hidden, outputs, added in [
        ("mlp", "none", 5, 7, 11, 6, False),
        ("mlp_tanh", "tanh", 5, 7, 11, 6, False),
        ("mlp_residual", "none", 6, 9, 24, 9, True),
        ("mlp_tanh_residual", "tanh", 6, 9, 24, 9, True),
    ]:
        f.seed(name)
        inputs = dict(
            x=f.normal(rows, channels),
            w1=f.normal(hidden, channels, scale=0.3),
            b1=f.normal(hidden, scale=0.5),
            w2=f.normal(outputs, hidden, scale=0.3),
            b2=f.normal(outputs, scale=0.5),
        )
        if added:
            inputs["residual"] = f.normal(rows, outputs)
        f.case(name, lambda approximate=approximate, **t: mlp(approximate=approximate, **t), inputs)


def make_residual_norms(f):
    """y = x + f goes on beside z = norm(y): the result is y + z."""

    def layernorm(x, f, weight, bias, alpha):
        y = x + f
        return y + F.layer_norm(y, y.shape[-1:], weight, bias, 1e-6) + 0 * alpha

    def rmsnorm(x, f, weight, bias, alpha):
        y = x + f
        return y + weight * y / torch.sqrt(y.square().mean(-1, keepdim=True) + 1e-6) + 0 * (
            bias + alpha
        )

    def dyt(x, f, weight, bias, alpha):
        y = x + f
        return y + weight * torch.tanh(alpha * y) + bias

    for function in layernorm, rmsnorm, dyt:
        name = "residual_" + function.__name__
        f.seed(name)
        inputs = dict(
            x=f.normal(5, 33),
            f=f.normal(5, 33),
            weight=f.normal(33, scale=0.3, mean=1),
            bias=f.normal(33, scale=0.3),
            alpha=f.full(0.7),
        )
        f.case(name, function, inputs)


fixture = Fixture()
make_mlp(fixture)
make_residual_norms(fixture)
fixture.save("products.safetensors")
