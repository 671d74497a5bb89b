"""A PyTorch eager training step, timed: what all *_step.py peers share.

A fair peer is a good one: each script offers the ways in which its model can be run (memory
layouts, say), and every optimizer is tried in all implementations PyTorch has; the fastest are
measured.
"""

import argparse
import json
import statistics
import time

import torch

OPTIMIZER_KINDS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def training_step(model, optimizer, inputs, labels, loss):
    optimizer.zero_grad(set_to_none=True)
    value = loss(model(inputs), labels)
    value.backward()
    optimizer.step()
    return value


def seconds(function, repeat):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def fastest_optimizer(model, make_optimizer):
    """The kind whose step() alone is fastest; gradients must be there already."""
    best = {}
    for kind, options in OPTIMIZER_KINDS.items():
        optimizer = make_optimizer(model.parameters(), **options)
        optimizer.step()  # allocates its state
        best[kind] = min(seconds(optimizer.step, 5))
    kind = min(best, key=best.get)
    return kind, make_optimizer(model.parameters(), **OPTIMIZER_KINDS[kind])


def main(name, variants, make_optimizer, loss, batch):
    """variants: name -> function() giving (model, inputs, labels). Prints the time of a step."""
    parser = argparse.ArgumentParser(description=f"Time a PyTorch eager training step of {name}.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="steps to measure")
    parser.add_argument("--warmup", type=int, default=3, help="steps before that")
    parser.add_argument("--variant", choices=list(variants), help="default: the fastest")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tried, prepared = {}, {}
    for variant in [arguments.variant] if arguments.variant else variants:
        torch.manual_seed(0)
        model, inputs, labels = variants[variant]()
        model.train()
        loss(model(inputs), labels).backward()  # the optimizers need gradients to be timed
        kind, optimizer = fastest_optimizer(model, make_optimizer)
        prepared[variant] = (model, optimizer, inputs, labels, loss, kind)
        step = lambda: training_step(model, optimizer, inputs, labels, loss)
        tried[variant] = min(seconds(step, 2 if len(variants) == 1 else 4))
    variant = min(tried, key=tried.get)
    *parts, kind = prepared.pop(variant)
    prepared.clear()

    step = lambda: training_step(*parts)
    seconds(step, arguments.warmup)
    times = seconds(step, arguments.steps)
    result = {
        "model": name,
        "step_seconds": [round(t, 6) for t in times],
        "median_seconds": statistics.median(times),
        "batch": batch,
        "parameters": sum(p.numel() for p in parts[0].parameters()),
        "variant": variant,
        "tried_seconds": {key: round(value, 6) for key, value in tried.items()},
        "optimizer": kind,
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"{name}: {result['median_seconds']:.4f} s per step (median of {arguments.steps}, "
            f"fastest {min(times):.4f}), {batch / result['median_seconds']:.0f} samples/s; "
            f"{variant}, {kind} optimizer, {arguments.threads} threads, torch {torch.__version__}"
        )
