"""norm_free.safetensors: what takes the place of norms (Fixup, SkipInit, sigmaReparam).

x [rows, Cin], weight [Cout, Cin], gamma [1]; u [Cout] and v [Cin] before the step, new_u and new_v
after its one power iteration; sigma: the largest singular value, by SVD.
"""

import torch
from torch.nn.utils.parametrizations import spectral_norm

from fixture import Fixture


def spectral(f, name, rows, cin, cout):
    """PyTorch's spectral_norm, times gamma.

    PyTorch finds u = W v first, then v = W' u; we the other way round, as the papers have it. With
    dim=1 it works on W', and its v is our u.
    """
    f.seed(name)
    weight, u, v = f.normal(cout, cin), f.normal(cout), f.normal(cin)
    layer = torch.nn.Linear(cin, cout, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    spectral_norm(layer, dim=1)
    state = layer.parametrizations.weight[0]
    state._v.copy_(u / u.norm()), state._u.copy_(v / v.norm())
    layer.train()

    leaves = dict(x=f.normal(rows, cin), gamma=f.full(1.7))
    for leaf in leaves.values():
        leaf.requires_grad_()
    f.store(f"{name}/u", state._v.clone()), f.store(f"{name}/v", state._u.clone())
    y = leaves["x"] @ (leaves["gamma"] * layer.weight).T
    dy = f.normal(*y.shape)
    y.backward(dy)
    leaves["weight"] = layer.parametrizations.weight.original
    assert torch.equal(leaves["weight"].data, weight)
    f.store(f"{name}/y", y), f.store(f"{name}/dy", dy)
    for key, leaf in leaves.items():
        f.store(f"{name}/{key}", leaf), f.store(f"{name}/d{key}", leaf.grad)
    f.store(f"{name}/new_u", state._v), f.store(f"{name}/new_v", state._u)
    f.store(f"{name}/sigma", torch.linalg.svdvals(weight)[:1])


def main():
    f = Fixture()
    spectral(f, "spectral", 7, 5, 6)
    spectral(f, "spectral_wide", 3, 40, 9)

    def affine(x, multiplier=1.0, bias=0.0, residual=0.0):
        return residual + multiplier * x + bias

    f.seed("scalar_affine")
    x, residual = f.normal(5, 21), f.normal(5, 21)
    multiplier, bias = f.full(-0.6), f.full(0.3)
    f.case("scalar_affine", affine, dict(x=x, multiplier=multiplier, bias=bias, residual=residual))
    f.case("scalar_multiplier", affine, dict(x=x, multiplier=multiplier))
    f.case("scalar_bias", affine, dict(x=x, bias=bias))
    f.save("norm_free.safetensors")


if __name__ == "__main__":
    main()
