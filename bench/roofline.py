#!/usr/bin/env python3
"""The floor under a training step: bytes and operations of every kernel, and the time that the
slower of memory and arithmetic needs for them. docs/performance.md explains the tables.

    python bench/roofline.py gpt2_124m
    python bench/roofline.py vit_b16 --batch 64 --bandwidth 3.0e12 --flops 8.0e14 --norm unfused

Bandwidth and FLOP/s are what `dyt bench kernels` measured in a copy and in a large product. Numbers
are bf16 (2 bytes), gradients of parameters and the optimizer's state f32. Counted is what a kernel
can't do without: each input read once, each output written once. No dependency but Python.
"""

import argparse
from dataclasses import dataclass

E = 2  # bytes of a number


@dataclass
class Model:
    tokens: int  # per sample
    batch: int
    width: int
    depth: int
    heads: int
    vocabulary: int = 0  # of a language model
    patch_inputs: int = 0  # of a ViT: 3 x 16 x 16
    causal: bool = False

    @property
    def rows(self):
        return self.batch * self.tokens

    def parameters(self):
        C = self.width
        block = 12 * C * C + 13 * C
        ends = self.vocabulary * C + self.tokens * C + 2 * C
        if self.patch_inputs:
            ends = self.patch_inputs * C + C + self.tokens * C + C + 2 * C + 1001 * C + 1000 - C
        return self.depth * block + ends


MODELS = {
    "gpt2_124m": Model(1024, 16, 768, 12, 12, vocabulary=50257, causal=True),
    "vit_b16": Model(197, 64, 768, 12, 12, patch_inputs=768),
}


def linear(rows, cin, cout, extra_reads=0, extra_writes=0):
    """bytes, FLOPs of y = x W'; of its backward: dx = dy W and dW = dy' x."""
    x, w, y = rows * cin, cin * cout, rows * cout
    flops = 2 * rows * cin * cout
    forward = (E * (x + w + y + extra_reads + extra_writes), flops)
    backward = (E * (2 * y + x + w + x) + 4 * w, 2 * flops)
    return forward, backward


def kernels(m, norm):
    """(name, how often, bytes, FLOPs) of a training step."""
    R, C, L = m.rows, m.width, m.depth
    rc = R * C * E  # one pass over a tensor of the residual stream
    norms = 2 * L + 1
    scores = m.batch * m.heads * m.tokens**2 * (C // m.heads) * 2 * (0.5 if m.causal else 1)
    qkv, proj = linear(R, C, 3 * C), linear(R, C, C, extra_reads=R * C)
    # GELU in the product's epilogue: what goes in is kept for the way back.
    fc1 = linear(R, C, 4 * C, extra_writes=4 * R * C)
    fc2 = linear(R, 4 * C, C, extra_reads=R * C)
    # Fused, a norm reads x and writes y; back it reads dy, x and the residual's gradient, and
    # writes their sum. Unfused, by the passes of layers/unfused.cu: LayerNorm 52 and 84 bytes a
    # number, as it turns to f32 for its statistics, DyT 16 and 38.
    forward = {"fused": 2 * rc, "unfused": 26 * rc, "unfused-dyt": 8 * rc, "none": 0}[norm]
    backward = {"fused": 4 * rc, "unfused": 42 * rc, "unfused-dyt": 19 * rc, "none": 0}[norm]
    yield "norm", norms, forward, 0
    yield "norm, backward", norms, backward, 0
    yield "qkv", L, *qkv[0]
    yield "qkv, backward", L, *qkv[1]
    yield "attention", L, 4 * rc, 2 * scores
    yield "attention, backward", L, 8 * rc, 5 * scores
    yield "projection + residual", L, *proj[0]
    yield "projection, backward", L, *proj[1]
    yield "fc1 + bias + GELU", L, *fc1[0]
    yield "fc1, backward", L, *fc1[1]
    yield "fc2 + residual", L, *fc2[0]
    yield "fc2, backward + GELU's", L, fc2[1][0] + 4 * R * C * E, fc2[1][1]
    if m.vocabulary:
        logits = R * m.vocabulary * E
        head = 2 * R * C * m.vocabulary
        yield "token + position embedding", 1, 3 * rc, 0
        yield "embedding, backward", 1, rc + 4 * 2 * R * C, 0
        # Written by the product, read and overwritten by softmax, read by the two products back.
        yield "head + cross-entropy, both ways", 1, 5 * logits + 4 * rc, 3 * head
    else:
        patches, back = linear(R, m.patch_inputs, C)
        yield "patch embedding", 1, patches[0] + 2 * R * m.patch_inputs * E, patches[1]
        # images want no gradient: one product of the two
        yield "patch embedding, backward", 1, back[0] - R * m.patch_inputs * E, back[1] / 2
        yield "positions, pool, head, loss", 1, 6 * rc, 6 * m.batch * C * 1000
    P = m.parameters()
    yield "zero gradients", 1, 4 * P, 0
    yield "AdamW", 1, 30 * P, 0


def main():
    parser = argparse.ArgumentParser(description="The floor under a training step.")
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--bandwidth", type=float, default=3.0e12, help="bytes/s of a copy")
    parser.add_argument("--flops", type=float, default=7.9e14, help="FLOP/s of a large product")
    parser.add_argument(
        "--norm", choices=["fused", "unfused", "unfused-dyt", "none"], default="fused"
    )
    arguments = parser.parse_args()
    m = MODELS[arguments.model]
    m.batch = arguments.batch or m.batch
    print("| kernel | times | MB | GFLOP | FLOP/byte | bound by | floor (ms) | measured (ms) |")
    print("|---|---:|---:|---:|---:|---|---:|---:|")
    total_bytes = total_flops = floor = 0
    for name, times, size, flops in kernels(m, arguments.norm):
        memory, arithmetic = size / arguments.bandwidth, flops / arguments.flops
        slower = "memory" if memory >= arithmetic else "products"
        print(
            f"| {name} | {times} | {size / 1e6:.0f} | {flops / 1e9:.0f} | "
            f"{flops / size if size else 0:.0f} | {slower if size else '-'} | "
            f"{1e3 * times * max(memory, arithmetic):.2f} | |"
        )
        total_bytes += times * size
        total_flops += times * flops
        floor += times * max(memory, arithmetic)
    print(
        f"| **step** | | {total_bytes / 1e6:.0f} | {total_flops / 1e9:.0f} | "
        f"{total_flops / total_bytes:.0f} | | **{1e3 * floor:.2f}** | |"
    )
    print(
        f"\n{m.parameters() / 1e6:.1f} M parameters, {m.rows} tokens a step; at the floor "
        f"{m.rows / floor:.0f} tokens/s, {m.batch / floor:.0f} samples/s."
    )


if __name__ == "__main__":
    main()
