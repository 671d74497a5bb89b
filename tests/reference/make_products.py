"""products.safetensors: what stands around the matrix products.

Keys are CASE/TENSOR; README.md lists the cases. Letters: C channels, F hidden width.
"""

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


fixture = Fixture()
make_mlp(fixture)
fixture.save("products.safetensors")
