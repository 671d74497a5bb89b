"""What the make_*.py scripts share: seeded inputs, an op run in float64, its gradients, one file.

Inputs are rounded to float32 before anything is computed and results are rounded to float32 at the
end, so that a stored result is the exact answer to a stored question up to half a unit in its last
place, and a test can use the tolerance its own arithmetic deserves.
"""

import pathlib
import zlib

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent


def rounded(tensor):
    """A float64 tensor whose values are float32 numbers."""
    return tensor.float().double()


class Fixture:
    def __init__(self):
        self.tensors = {}
        self.seed("")

    def seed(self, name):
        """Each case has random numbers of its own: adding one changes no other."""
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape, scale=1.0, mean=0.0):
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return rounded(values * scale + mean)

    def uniform(self, *shape, low=0.0, high=1.0):
        values = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return rounded(values * (high - low) + low)

    def full(self, value):
        """A learnable scalar: shape [1]."""
        return rounded(torch.tensor([value], dtype=torch.float64))

    def integers(self, *shape, below):
        return torch.randint(below, shape, generator=self.generator)

    def store(self, key, value):
        """Tensors as float32 or int64; a plain number as a scalar, float64 or int64."""
        if isinstance(value, float):
            value = torch.tensor(value, dtype=torch.float64)
        elif isinstance(value, int):
            value = torch.tensor(value)
        elif value.is_floating_point():
            value = value.detach().float()
        assert key not in self.tensors, key
        assert torch.isfinite(value.double()).all(), key
        self.tensors[key] = value.contiguous().clone()

    def case(self, name, function, inputs, options=None, output="y", constants=()):
        """Stores inputs, options, the output and the gradient of every floating-point input.

        `d` before a name means the gradient with respect to it: of sum(y * dy) with a random dy, or
        of the output itself if it is a scalar (a loss). No gradient is stored for `constants`.
        """
        options = options or {}
        leaves = {key: value.clone() for key, value in inputs.items()}
        for key, value in leaves.items():
            if value.is_floating_point() and key not in constants:
                value.requires_grad_()
        result = function(**leaves, **options)
        if result.dim() == 0:
            result.backward()
        else:
            upstream = self.normal(*result.shape)
            result.backward(upstream)
            self.store(f"{name}/d{output}", upstream)
        self.store(f"{name}/{output}", result)
        for key, value in leaves.items():
            self.store(f"{name}/{key}", value)
            if value.requires_grad:
                self.store(f"{name}/d{key}", value.grad)
        for key, value in options.items():
            self.store(f"{name}/{key}", value)

    def save(self, filename, metadata=None):
        path = HERE / filename
        save_file(self.tensors, path, metadata=metadata)
        path.chmod(0o644)
        print(f"{filename}: {len(self.tensors)} tensors, {path.stat().st_size / 1e3:.0f} kB")
