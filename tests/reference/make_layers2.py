"""layers2.safetensors: the ops of ConvNets and language models.

Keys are CASE/TENSOR; README.md lists the cases, the shapes are in the functions below. Images are
NHWC, weights of convolutions [Cout, Cin / groups, kh, kw] as in PyTorch.
Letters: B batch, T tokens, H W image, C channels, V vocabulary, hd head width.
"""

import torch
import torch.nn.functional as F

from fixture import Fixture, rounded


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def make_norms(f):
    def rmsnorm(x, weight, eps):
        return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)

    for name, rows, channels, scale, eps in [
        ("rmsnorm", 5, 33, 1.0, 1e-6),
        ("rmsnorm_eps1e-5", 4, 24, 3e-3, 1e-5),
    ]:
        f.seed(name)
        inputs = dict(
            x=f.normal(rows, channels, scale=scale), weight=f.normal(channels, scale=0.3, mean=1)
        )
        f.case(name, rmsnorm, inputs, dict(eps=eps))

    def groupnorm(x, weight, bias, groups, eps):
        return nhwc(F.group_norm(nchw(x), groups, weight, bias, eps))

    for name, groups in [("groupnorm", 3), ("groupnorm_one_group", 1)]:
        f.seed(name)
        inputs = dict(
            x=f.normal(2, 3, 5, 12, mean=0.5),
            weight=f.normal(12, scale=0.3, mean=1),
            bias=f.normal(12, scale=0.3),
        )
        f.case(name, groupnorm, inputs, dict(groups=groups, eps=1e-5))


def make_batchnorm(f):
    """x [B, H, W, C]; running_* before the step, new_running_* after it (training only).

    The running variance takes in the unbiased variance, as in PyTorch; momentum is the new share.
    """
    for name, training in [("batchnorm_train", True), ("batchnorm_eval", False)]:
        f.seed(name)
        mean, variance = f.normal(7), f.uniform(7, low=0.5, high=2.0)
        new_mean, new_variance = mean.clone(), variance.clone()

        def batchnorm(x, weight, bias, eps, momentum):
            y = F.batch_norm(nchw(x), new_mean, new_variance, weight, bias, training, momentum, eps)
            return nhwc(y)

        inputs = dict(
            x=f.normal(2, 3, 5, 7, scale=1.5, mean=0.5),
            weight=f.normal(7, scale=0.3, mean=1),
            bias=f.normal(7, scale=0.3),
        )
        f.case(name, batchnorm, inputs, dict(eps=1e-5, momentum=0.1))
        f.store(f"{name}/running_mean", mean)
        f.store(f"{name}/running_var", variance)
        if training:
            f.store(f"{name}/new_running_mean", new_mean)
            f.store(f"{name}/new_running_var", new_variance)


def make_convolutions(f):
    def depthwise(x, weight, bias):
        channels = x.shape[-1]
        return nhwc(F.conv2d(nchw(x), weight, bias, padding=3, groups=channels))

    # weight [C, 1, 7, 7]; the second image is smaller than the kernel.
    for name, batch, height, width, channels in [
        ("depthwise7", 2, 9, 8, 5),
        ("depthwise7_small", 1, 3, 4, 6),
    ]:
        f.seed(name)
        inputs = dict(
            x=f.normal(batch, height, width, channels),
            weight=f.normal(channels, 1, 7, 7, scale=0.2),
            bias=f.normal(channels),
        )
        f.case(name, depthwise, inputs)

    def conv(x, weight, bias=None, stride=1, padding=0):
        return nhwc(F.conv2d(nchw(x), weight, bias, stride=stride, padding=padding))

    for kernel, stride, padding, height, width, cin, cout, with_bias in [
        (1, 1, 0, 3, 4, 6, 5, False),
        (1, 2, 0, 5, 6, 4, 3, False),
        (2, 2, 0, 6, 4, 3, 5, True),
        (3, 1, 1, 5, 6, 4, 7, False),
        (3, 1, 1, 4, 5, 3, 2, True),
        (3, 2, 1, 7, 8, 5, 6, False),
        (4, 4, 0, 8, 12, 3, 4, True),
        (7, 2, 3, 11, 10, 3, 4, False),
    ]:
        name = f"conv{kernel}x{kernel}_s{stride}_p{padding}" + ("_bias" if with_bias else "")
        f.seed(name)
        inputs = dict(
            x=f.normal(2, height, width, cin),
            weight=f.normal(cout, cin, kernel, kernel, scale=0.3),
        )
        if with_bias:
            inputs["bias"] = f.normal(cout)
        f.case(name, conv, inputs, dict(stride=stride, padding=padding))


def make_pooling(f):
    def max_pool(x, kernel, stride, padding):
        return nhwc(F.max_pool2d(nchw(x), kernel, stride, padding))

    def average_pool(x, kernel, stride):
        return nhwc(F.avg_pool2d(nchw(x), kernel, stride))

    f.seed("max_pool")
    x = f.normal(2, 7, 8, 3)
    f.case("max_pool_3x3_s2_p1", max_pool, dict(x=x), dict(kernel=3, stride=2, padding=1))
    x = f.normal(2, 6, 8, 3)
    f.case("max_pool_2x2_s2", max_pool, dict(x=x), dict(kernel=2, stride=2, padding=0))
    f.seed("average_pool")
    f.case("average_pool_2x2_s2", average_pool, dict(x=x), dict(kernel=2, stride=2))
    f.case("global_average_pool", lambda x: x.mean(dim=(1, 2)), dict(x=f.normal(3, 5, 3, 7)))


def make_pointwise(f):
    f.seed("pointwise")
    x, up = f.normal(5, 21, scale=3), f.normal(5, 21)
    f.case("relu", lambda x: F.relu(x), dict(x=x))
    f.case("silu", lambda x: F.silu(x), dict(x=x))
    f.case("swiglu", lambda gate, up: F.silu(gate) * up, dict(gate=x, up=up))
    gamma = f.normal(21, scale=0.1)
    f.case("layer_scale", lambda x, gamma: x * gamma, dict(x=x, gamma=gamma))


def make_embeddings(f):
    """tokens [B, T] int64 (some more than once), weight [V, C], y [B, T, C]."""
    f.seed("token_embedding")
    tokens = torch.tensor([[3, 0, 3, 10, 5], [3, 7, 7, 1, 0]])
    weight, position = f.normal(11, 6), f.normal(8, 6)  # more positions than tokens: unused rows

    f.case(
        "token_embedding", lambda tokens, weight: weight[tokens], dict(tokens=tokens, weight=weight)
    )
    f.case(
        "token_position_embedding",
        lambda tokens, weight, position: weight[tokens] + position[: tokens.shape[1]],
        dict(tokens=tokens, weight=weight, position=position),
    )
    f.case(  # LLaMA with DyT: one learnable factor, initialised to sqrt(width)
        "scaled_token_embedding",
        lambda tokens, weight, scale: scale * weight[tokens],
        dict(tokens=tokens, weight=weight, scale=f.full(2.4)),
    )


def rope(x, theta):
    """x [B, T, heads, hd]: pairs (i, i + hd/2) rotated by t * theta^(-2i/hd), as Hugging Face."""
    tokens, half = x.shape[1], x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]  # [T, 1, hd/2]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def check_rope_against_transformers():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=64)
    x = torch.randn(1, 2, 9, 16)  # [B, heads, T, hd]
    cos, sin = LlamaRotaryEmbedding(config)(x, torch.arange(9)[None])
    theirs, _ = apply_rotary_pos_emb(x, x, cos, sin)
    ours = rope(x.transpose(1, 2).double(), 10000.0).transpose(1, 2)
    assert torch.allclose(ours.float(), theirs, atol=1e-5)


def make_attention(f):
    check_rope_against_transformers()
    f.seed("rope")
    f.case("rope", rope, dict(x=f.normal(2, 9, 3, 16)), dict(theta=10000.0))

    def grouped_query(q, k, v):
        """q, y [B, T, H, hd], k, v [B, T, KV, hd]; head h reads key/value head h / (H / KV)."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return y.transpose(1, 2)

    for name, tokens, heads, kv_heads, width in [
        ("grouped_query_attention", 9, 4, 2, 16),
        ("multi_query_attention", 5, 3, 1, 24),
    ]:
        f.seed(name)
        inputs = dict(
            q=f.normal(2, tokens, heads, width),
            k=f.normal(2, tokens, kv_heads, width),
            v=f.normal(2, tokens, kv_heads, width),
        )
        f.case(name, grouped_query, inputs)


def make_losses(f):
    """x [rows, C], weight [V, C] (the token embedding), labels [rows]; loss: mean over rows."""

    def tied_head(x, weight, labels):
        return F.cross_entropy(x @ weight.T, labels)

    f.seed("tied_head")
    inputs = dict(x=f.normal(6, 9), weight=f.normal(67, 9), labels=f.integers(6, below=67))
    f.case("tied_head", tied_head, inputs, output="loss")

    def soft_targets(logits, targets):
        return F.cross_entropy(logits, targets)

    f.seed("cross_entropy_soft")
    targets = f.uniform(5, 10)
    inputs = dict(logits=f.normal(5, 10, scale=2), targets=rounded(targets / targets.sum(1, True)))
    f.case("cross_entropy_soft", soft_targets, inputs, output="loss", constants=("targets",))


def main():
    f = Fixture()
    make_norms(f)
    make_batchnorm(f)
    make_convolutions(f)
    make_pooling(f)
    make_pointwise(f)
    make_embeddings(f)
    make_attention(f)
    make_losses(f)
    f.save("layers2.safetensors")


if __name__ == "__main__":
    main()
