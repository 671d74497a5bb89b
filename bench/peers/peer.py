"""A PyTorch training step, timed, for bench/compare.py.

    python bench/peers/peer.py vit_ti4 --device cuda --variant "compile, NHWC" --steps 20

A variant is "eager", "compile" (torch.compile) or "graphs" (torch.compile with CUDA graphs), for
ConvNets with ", NHWC" or ", NCHW" behind it, and then how it is built if there is a choice. On a GPU everything runs in bf16 autocast, with f32
weights and PyTorch's fused AdamW; on the CPU in f32 (--precision bf16: autocast), with whichever
of PyTorch's AdamWs is fastest.

Prepares (compiles, warms up), prints a line of JSON {"ready": true, ...}, and then for each line on
stdin measures once and prints {"seconds_per_step": [...], ...}; with --steps, without waiting.
"""

import argparse
import json
import statistics
import sys
import time

import torch

from models import PEERS

MODES = {"eager": None, "compile": "default", "graphs": "reduce-overhead"}
ADAMW = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}


def variants_of(model, device):
    """All that are compared on this device."""
    if not PEERS[model].layouts:
        return list(MODES) if device == "cuda" else ["eager"]
    forms = [f", {form}" if form else "" for form in PEERS[model].build]
    if device == "cuda":
        ways = ["eager, NHWC", "eager, NCHW", "compile, NHWC", "graphs, NHWC"]
    else:
        ways = ["eager, NHWC", "eager, NCHW"]
    return [way + form for form in forms for way in ways]


class Step:
    """A training step of one model in one variant."""

    def __init__(self, name, device, variant, batch, precision):
        peer = PEERS[name]
        self.device = device
        mode, layout, form = (variant.split(", ") + ["", ""])[:3]
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        self.loss = peer.loss
        model = peer.build[form]().to(device)
        self.inputs, self.labels = (t.to(device) for t in peer.data(batch))
        if layout:
            order = torch.channels_last if layout == "NHWC" else torch.contiguous_format
            model, self.inputs = model.to(memory_format=order), self.inputs.to(memory_format=order)
        model.train()
        self.model = model
        self.parameters = sum(p.numel() for p in model.parameters())
        self.bf16 = precision == "bf16"
        self.forward = self.model_and_loss
        if MODES[mode]:
            self.forward = torch.compile(self.model_and_loss, mode=MODES[mode])
        self.backward()  # the optimizers need gradients to be timed
        self.optimizer_kind, self.optimizer = self.fastest_adamw(peer.adamw)

    def model_and_loss(self):
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            return self.loss(self.model(self.inputs), self.labels)

    def backward(self):
        torch.compiler.cudagraph_mark_step_begin()
        self.forward().backward()

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.backward()
        self.optimizer.step()

    def fastest_adamw(self, settings):
        kinds = ["fused"] if self.device == "cuda" else list(ADAMW)
        best = {}
        for kind in kinds:
            optimizer = torch.optim.AdamW(self.model.parameters(), **settings, **ADAMW[kind])
            optimizer.step()  # allocates its state
            best[kind] = min(self.time(optimizer.step, 1) for _ in range(5))
        kind = min(best, key=best.get)
        return kind, torch.optim.AdamW(self.model.parameters(), **settings, **ADAMW[kind])

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, function, repeat):
        """Seconds of each of `repeat` calls, measured together: the host may run ahead."""
        self.synchronize()
        begin = time.perf_counter()
        for _ in range(repeat):
            function()
        self.synchronize()
        return (time.perf_counter() - begin) / repeat

    def measure(self, steps, together):
        return [self.time(self, together) for _ in range(max(1, steps // together))]

    def rest(self):
        """Leaves the memory to others until the next turn."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.device == "cuda":
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description="Time a PyTorch training step.")
    parser.add_argument("model", choices=list(PEERS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variant", default=None, help='"eager", "compile, NHWC", ...')
    parser.add_argument("--precision", choices=["f32", "bf16"], help="default: bf16 on a GPU")
    parser.add_argument("--batch", type=int, help="default: the one that is compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=3, help="steps before anything is timed")
    parser.add_argument("--together", type=int, help="steps per measurement; default: 5 on a GPU")
    parser.add_argument("--steps", type=int, default=20, help="steps per turn")
    parser.add_argument("--by-turns", action="store_true", help="wait for a line on stdin each turn")
    arguments = parser.parse_args()
    device = arguments.device
    variant = arguments.variant or variants_of(arguments.model, device)[0]
    if variant not in variants_of(arguments.model, device) and variant not in MODES:
        parser.error(f"unknown variant {variant!r}")
    batch = arguments.batch or PEERS[arguments.model].batch[device]
    together = arguments.together or (5 if device == "cuda" else 1)
    if device == "cpu":
        torch.set_num_threads(arguments.threads)

    begin = time.perf_counter()
    step = Step(
        arguments.model,
        device,
        variant,
        batch,
        arguments.precision or ("bf16" if device == "cuda" else "f32"),
    )
    for _ in range(arguments.warmup):
        step()
    step.synchronize()
    ready = {
        "ready": True,
        "model": arguments.model,
        "variant": variant,
        "batch": batch,
        "parameters": step.parameters,
        "optimizer": step.optimizer_kind,
        "torch": torch.__version__,
        "seconds_to_prepare": round(time.perf_counter() - begin, 1),
    }
    step.rest()
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin if arguments.by_turns else ["go"]:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):  # memory given back is asked for again
            step()
        times = step.measure(arguments.steps, together)
        answer = {"seconds_per_step": times, "median": statistics.median(times)}
        if device == "cuda":
            answer["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        step.rest()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
