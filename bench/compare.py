#!/usr/bin/env python3
"""dyt against PyTorch eager: the time of a training step on the same cores, by turns.

    python bench/compare.py                       all models
    python bench/compare.py vit_ti4 --threads 2   one

Needs ./dyt and a Python with torch and timm (CPU wheels do; neither is a dependency of dyt). Run it
on a quiet machine: two programs of two threads on two cores slow each other down several times.
The ratio printed is ours / PyTorch's: below 1, dyt is faster. With --json: one line per model.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"

# model -> (arguments of ./dyt, script in bench/peers)
MODELS = {
    "vit_ti4": (["bench", "train", "vit_ti4"], "vit_step.py"),
    "convnext_atto": (["bench", "train", "convnext_atto"], "convnext_step.py"),
    "gpt_6x192": (["bench", "train", "gpt_6x192"], "gpt_step.py"),
    "resnet20": (["bench", "train", "resnet20"], "resnet_step.py"),
}


def run(command, threads):
    """The last line the command prints, as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")
    shown = " ".join(str(part) for part in command)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"{shown}: exit {done.returncode}: {reason[-1]}")
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        sys.exit(f"{shown}: its last line is not JSON")


def compare(model, arguments):
    ours_arguments, script = MODELS[model]
    steps = ["--steps", arguments.steps, "--json"]
    ours_command = [arguments.dyt, *ours_arguments, *steps]
    peer_command = [arguments.python, PEERS / script, "--threads", arguments.threads, *steps]
    ours, peer = [], []
    for round in range(arguments.rounds):
        # Our command counts its first steps too; the peer has warmed up before it counts.
        ours += run(ours_command, arguments.threads)["step_seconds"][arguments.skip :]
        answer = run(peer_command, arguments.threads)
        peer += answer["step_seconds"]
        if round == 0:  # the peer has found its best variant; keep to it
            peer_command += ["--variant", answer["variant"]]
    return {
        "model": model,
        "dyt_median": statistics.median(ours),
        "dyt_fastest": min(ours),
        "pytorch_median": statistics.median(peer),
        "pytorch_fastest": min(peer),
        "ratio": statistics.median(ours) / statistics.median(peer),
        "pytorch": f"{answer['torch']}, {answer['variant']}, {answer['optimizer']} optimizer",
        "threads": arguments.threads,
        "steps": len(ours),
        "load": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description="Time a training step of dyt and of PyTorch.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of: {' '.join(MODELS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns each")
    parser.add_argument("--steps", type=int, default=10, help="steps measured per turn")
    parser.add_argument("--skip", type=int, default=2, help="our first steps not counted")
    parser.add_argument("--dyt", default=ROOT / "dyt", help="our binary")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch and timm")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for model in arguments.models:
        if model not in MODELS:
            parser.error(f"unknown model {model!r}; known are {', '.join(MODELS)}")
    if arguments.steps <= arguments.skip:
        parser.error(f"--steps {arguments.steps} leaves nothing after --skip {arguments.skip}")

    for model in arguments.models or MODELS:
        result = compare(model, arguments)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            print(
                f"{model:14} dyt {result['dyt_median']:.4f} s (fastest {result['dyt_fastest']:.4f})"
                f"   PyTorch {result['pytorch_median']:.4f} s (fastest "
                f"{result['pytorch_fastest']:.4f})   ratio {result['ratio']:.2f}   "
                f"[{result['pytorch']}; {result['threads']} threads, load {result['load']:.1f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
