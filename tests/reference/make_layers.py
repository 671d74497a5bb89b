"""layers.safetensors: forward and gradients of the ops a ViT is made of, and the optimizer.

Keys are CASE/TENSOR; README.md lists the cases, the shapes are in the functions below.
Letters: B batch, T tokens, C channels, D width, H heads, p patch size.
"""

import math

import torch
import torch.nn.functional as F

from fixture import Fixture


def make_norms(f):
    def layernorm(x, weight, bias, eps):
        return F.layer_norm(x, weight.shape, weight, bias, eps)

    # The third case has a variance near eps, the fourth a mean far above the deviation, which a
    # variance computed as E[x^2] - E[x]^2 does not survive.
    for name, rows, channels, scale, mean, eps in [
        ("layernorm", 5, 33, 1.0, 0.5, 1e-6),
        ("layernorm_wide", 3, 192, 2.0, 0.0, 1e-6),
        ("layernorm_eps1e-5", 4, 24, 3e-3, 0.0, 1e-5),
        ("layernorm_offset", 3, 40, 1.0, 100.0, 1e-6),
        ("layernorm_one_row", 1, 7, 1.0, 0.0, 1e-5),
    ]:
        f.seed(name)
        inputs = dict(
            x=f.normal(rows, channels, scale=scale, mean=mean),
            weight=f.normal(channels, scale=0.3, mean=1.0),
            bias=f.normal(channels, scale=0.3),
        )
        f.case(name, layernorm, inputs, dict(eps=eps))


def make_dyt_family(f):
    """y = weight * squash(alpha * x [+ shift]) + bias; alpha and shift have shape [1]."""
    squash = {
        "dyt": torch.tanh,
        "derf": torch.erf,
        "hardtanh": F.hardtanh,
        "sigmoid": torch.sigmoid,
        "isru": lambda z: z / torch.sqrt(1 + z * z),
        "identity": lambda z: z,
        "shifted_tanh": lambda z: 1 + torch.tanh(z),
        "arcsinh": torch.asinh,
        "deadzone": lambda z: torch.tanh(F.softshrink(z, 0.5)),
        "bump": lambda z: z * torch.exp(-z * z / 2),
    }

    def apply(kind):
        def function(x, alpha, weight, bias=None, shift=0.0):
            y = weight * squash[kind](alpha * x + shift)
            return y if bias is None else y + bias

        return function

    def inputs(rows, channels, alpha):
        return dict(
            x=f.normal(rows, channels, scale=3.0),
            alpha=f.full(alpha),
            weight=f.normal(channels, scale=0.3, mean=1.0),
            bias=f.normal(channels, scale=0.3),
        )

    for kind in squash:
        f.seed(kind)
        case = inputs(5, 33, alpha=0.4)
        if kind == "derf":
            case["shift"] = f.full(-0.15)
        f.case(kind, apply(kind), case)

    f.seed("dyt_wide")
    f.case("dyt_wide", apply("dyt"), inputs(3, 192, alpha=0.8))
    f.seed("dyt_no_bias")
    case = inputs(7, 20, alpha=0.5)
    del case["bias"]
    f.case("dyt_no_bias", apply("dyt"), case)


def make_linear(f):
    """x [rows, Cin], weight [Cout, Cin], bias [Cout], residual and y [rows, Cout]."""

    def linear(x, weight, bias=None):
        return F.linear(x, weight, bias)

    def linear_gelu(x, weight, bias):
        return F.gelu(F.linear(x, weight, bias))

    def linear_gelu_tanh(x, weight, bias):
        return F.gelu(F.linear(x, weight, bias), approximate="tanh")

    def linear_residual(x, weight, bias, residual):
        return residual + F.linear(x, weight, bias)

    for name, function, rows, cin, cout in [
        ("linear", linear, 5, 7, 9),
        ("linear_big", linear, 33, 24, 40),
        ("linear_no_bias", linear, 4, 16, 6),
        ("linear_gelu", linear_gelu, 7, 12, 17),
        ("linear_gelu_tanh", linear_gelu_tanh, 7, 12, 17),
        ("linear_residual", linear_residual, 6, 10, 13),
    ]:
        f.seed(name)
        inputs = dict(x=f.normal(rows, cin), weight=f.normal(cout, cin, scale=0.5))
        if name != "linear_no_bias":
            inputs["bias"] = f.normal(cout)
        if name == "linear_residual":
            inputs["residual"] = f.normal(rows, cout)
        f.case(name, function, inputs)

    for name, approximate in [("gelu", "none"), ("gelu_tanh", "tanh")]:
        f.seed(name)
        f.case(name, lambda x: F.gelu(x, approximate=approximate), dict(x=f.normal(5, 21, scale=3)))


def make_attention(f):
    """qkv [B, T, 3 * H * hd], its last axis being (3, H, hd) as in timm; y [B, T, H * hd].

    Case attention_T<T>_hd<hd> holds qkv, dy and heads, shared by both kinds; the results y and dqkv
    lie under full/ (every token sees every token) and causal/.
    """
    for tokens, head_width, batch, heads in [
        (1, 16, 3, 2), (1, 24, 2, 2), (1, 64, 2, 1),
        (7, 16, 2, 3), (7, 24, 2, 2), (7, 64, 1, 2),
        (33, 16, 1, 2), (33, 24, 1, 2), (33, 64, 1, 1),
    ]:  # fmt: skip
        name = f"attention_T{tokens}_hd{head_width}"
        f.seed(name)
        qkv = f.normal(batch, tokens, 3 * heads * head_width)
        dy = f.normal(batch, tokens, heads * head_width)
        f.store(f"{name}/qkv", qkv)
        f.store(f"{name}/dy", dy)
        f.store(f"{name}/heads", heads)
        for kind in ["full", "causal"]:
            leaf = qkv.clone().requires_grad_()
            split = leaf.reshape(batch, tokens, 3, heads, head_width)
            q, k, v = split.permute(2, 0, 3, 1, 4)  # each [B, H, T, hd]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=kind == "causal")
            y = y.transpose(1, 2).reshape(batch, tokens, heads * head_width)
            y.backward(dy)
            f.store(f"{name}/{kind}/y", y)
            f.store(f"{name}/{kind}/dqkv", leaf.grad)


def make_embeddings(f):
    def patch_embedding(x, weight, bias):
        """x [B, height, width, 3] (NHWC), weight [D, 3, p, p] as in timm, y [B, T, D]."""
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=weight.shape[-1])
        return y.flatten(2).transpose(1, 2)

    for name, height, width, patch in [
        ("patch_embedding", 8, 12, 4),
        ("patch_embedding_p3", 6, 3, 3),
    ]:
        f.seed(name)
        inputs = dict(
            x=f.normal(2, height, width, 3),
            weight=f.normal(10, 3, patch, patch, scale=0.3),
            bias=f.normal(10),
        )
        f.case(name, patch_embedding, inputs)

    def class_token(x, class_token, pos_embed):
        """x [B, T, D], class_token [1, 1, D], pos_embed [1, 1 + T, D], y [B, 1 + T, D]."""
        return torch.cat([class_token.expand(x.shape[0], -1, -1), x], dim=1) + pos_embed

    f.seed("class_token")
    inputs = dict(x=f.normal(3, 5, 9), class_token=f.normal(1, 1, 9), pos_embed=f.normal(1, 6, 9))
    f.case("class_token", class_token, inputs)

    f.seed("pos_embed")
    inputs = dict(x=f.normal(3, 5, 9), pos_embed=f.normal(1, 5, 9))
    f.case("pos_embed", lambda x, pos_embed: x + pos_embed, inputs)

    def mean_pool(x, skip):
        """x [B, T, D], y [B, D]: the mean over the tokens after the first `skip`."""
        return x[:, skip:].mean(dim=1)

    for name, skip in [("mean_pool", 0), ("mean_pool_skip1", 1)]:
        f.seed(name)
        f.case(name, mean_pool, dict(x=f.normal(3, 7, 11)), dict(skip=skip))


def make_loss(f):
    """logits [rows, classes], labels [rows] int64, loss a scalar: the mean over rows."""

    def cross_entropy(logits, labels, smoothing):
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    for name, rows, classes, scale, smoothing in [
        ("cross_entropy", 6, 10, 2.0, 0.0),
        ("cross_entropy_smooth", 6, 10, 2.0, 0.1),
        ("cross_entropy_wide", 3, 257, 2.0, 0.1),
        ("cross_entropy_huge", 4, 5, 200.0, 0.0),  # exp(logit) overflows unless the maximum is out
    ]:
        f.seed(name)
        inputs = dict(
            logits=f.normal(rows, classes, scale=scale), labels=f.integers(rows, below=classes)
        )
        f.case(name, cross_entropy, inputs, dict(smoothing=smoothing), output="loss")


def make_optimizer(f):
    """Five AdamW steps with a learning rate of their own each.

    PARAMETER.start [...], PARAMETER.grad [5, ...], PARAMETER.after [5, ...] for the parameters
    `weight`, which decays, and `bias` and `alpha`, which do not.
    """
    for name, beta2, decay in [("adamw", 0.999, 0.05), ("adamw_beta2_0.95", 0.95, 0.3)]:
        f.seed(name)
        steps = 5
        start = dict(weight=f.normal(4, 7), bias=f.normal(7), alpha=f.normal(1, mean=0.5))
        grads = {key: f.normal(steps, *value.shape, scale=0.1) for key, value in start.items()}
        rates = [0.001, 0.02, 0.01, 0.005, 0.0001]
        parameters = {key: torch.nn.Parameter(value.clone()) for key, value in start.items()}
        optimizer = torch.optim.AdamW(
            [
                {"params": [parameters["weight"]], "weight_decay": decay},
                {"params": [parameters["bias"], parameters["alpha"]], "weight_decay": 0.0},
            ],
            betas=(0.9, beta2),
            eps=1e-8,
        )
        after = {key: [] for key in start}
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            for key, parameter in parameters.items():
                parameter.grad = grads[key][step].clone()
            optimizer.step()
            for key, parameter in parameters.items():
                after[key].append(parameter.detach().clone())
        for key in start:
            f.store(f"{name}/{key}.start", start[key])
            f.store(f"{name}/{key}.grad", grads[key])
            f.store(f"{name}/{key}.after", torch.stack(after[key]))
        f.tensors[f"{name}/lr"] = torch.tensor(rates, dtype=torch.float64)
        for key, value in dict(beta1=0.9, beta2=beta2, eps=1e-8, weight_decay=decay).items():
            f.store(f"{name}/{key}", value)

    # Global norm over all tensors; gradients longer than max_norm are scaled down to it.
    for name, max_norm in [("clip", 1.0), ("clip_not_needed", 100.0)]:
        f.seed(name)
        grads = [f.normal(4, 7), f.normal(7), f.normal(1)]
        parameters = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
        for parameter, grad in zip(parameters, grads):
            parameter.grad = grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        f.store(f"{name}/max_norm", max_norm)
        f.store(f"{name}/norm", norm)
        for index, (parameter, grad) in enumerate(zip(parameters, grads)):
            f.store(f"{name}/grad{index}", grad)
            f.store(f"{name}/clipped{index}", parameter.grad)


def make_schedule(f):
    """Learning rate at steps 0 .. S-1: up to lr in W steps, then half a cosine down to lr_min."""
    for name, lr, lr_min, warmup, steps in [
        ("schedule", 4e-3, 1e-6, 5, 23),
        ("schedule_no_warmup", 1e-3, 0.0, 0, 7),
    ]:
        values = [
            (
                lr * (s + 1) / warmup
                if s < warmup
                else lr_min
                + (lr - lr_min) / 2 * (1 + math.cos(math.pi * (s - warmup) / (steps - warmup)))
            )
            for s in range(steps)
        ]
        f.tensors[f"{name}/values"] = torch.tensor(values, dtype=torch.float64)
        for key, value in dict(lr=lr, lr_min=lr_min, warmup=warmup, steps=steps).items():
            f.store(f"{name}/{key}", value)


def main():
    f = Fixture()
    make_norms(f)
    make_dyt_family(f)
    make_linear(f)
    make_attention(f)
    make_embeddings(f)
    make_loss(f)
    make_optimizer(f)
    make_schedule(f)
    f.save("layers.safetensors")


if __name__ == "__main__":
    main()
