#!/usr/bin/env python3
"""dyt against PyTorch: the time of a training step on the same machine, by turns in one run.

    python bench/compare.py                               on the CPU: its four models
    python bench/compare.py vit_ti4 --threads 2           one
    python bench/compare.py --device cuda                 on the GPU: its four
    python bench/compare.py gpt2_124m --device cuda --variants eager,compile

Needs ./dyt and a Python with torch and timm (llama_130m: transformers; none is a dependency of
dyt). PyTorch runs in all of its variants (bench/peers/peer.py: eager, torch.compile, CUDA graphs,
memory layouts; its fused AdamW; flash attention through SDPA; on a GPU bf16 autocast), and the
fastest one counts. Every program prepares first (compiles, warms up), several at a time, and is
then asked for its turns, one program at a time: what compiling takes doesn't count. The inputs lie
on the device on both sides. --ours="--norm dyt" is for ours alone.

The ratio printed is ours / PyTorch's: below 1, dyt is faster. Run it on a quiet machine.
With --out FILE: one line of JSON per model, with all times.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
MODELS = {
    "cpu": ["vit_ti4", "convnext_atto", "gpt_6x192", "resnet20"],
    "cuda": ["vit_ti4", "vit_b16", "gpt2_124m", "convnext_base"],
}


class Program:
    """One that measures whenever it gets a line, and answers with one."""

    def __init__(self, name, command, environment):
        self.name, self.ready, self.turns, self.error = name, None, [], None
        self.log = tempfile.TemporaryFile("w+")
        try:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
            )
        except OSError as error:
            self.process, self.error = None, f"cannot run {command[0]}: {error.strerror}"

    def answer(self, limit):
        """The next line as JSON; None, with `error` set, if there is none in time."""
        if self.error:
            return None
        killer = threading.Timer(limit, self.process.kill)
        killer.start()
        line = self.process.stdout.readline()
        in_time = killer.is_alive()
        killer.cancel()
        try:
            return json.loads(line)
        except ValueError:
            self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["no message"])[-1]
            self.error = last if in_time else f"not done in {limit:.0f} s"
            return None

    def prepare(self, limit):
        self.ready = self.answer(limit)
        return self

    def turn(self, limit):
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except OSError:
            pass  # answer() says why
        answer = self.answer(limit)
        if answer:
            self.turns.append(answer)

    def seconds(self):
        return [s for turn in self.turns for s in turn["seconds_per_step"]]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()


def start(name, variant, arguments, batch):
    """Ours if there is no variant."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(arguments.threads),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(arguments.cache),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "4",
    }
    common = ["--device", arguments.device, "--steps", arguments.steps, "--by-turns"]
    if arguments.precision:
        common += ["--precision", arguments.precision]
    if batch:
        common += ["--batch", batch]
    if variant is None:
        command = [arguments.dyt.resolve(), "bench", "train", name, "--json", *common]
        return Program("dyt", [*command, *arguments.ours.split()], environment)
    command = [arguments.python, PEERS / "peer.py", name, *common, "--variant", variant]
    return Program(variant, [*command, "--threads", arguments.threads], environment)


def variants_of(models, arguments):
    """What PyTorch is tried in, model by model, and the batch; asked of a Python that has it."""
    code = (
        "import json, sys; from peer import variants_of; from models import PEERS; "
        "d, *names = sys.argv[1:]; "
        "print(json.dumps({n: [PEERS[n].batch[d], variants_of(n, d)] for n in names}))"
    )
    done = subprocess.run(
        [str(arguments.python), "-c", code, arguments.device, *models],
        cwd=PEERS,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if done.returncode != 0:
        sys.exit(f"{arguments.python}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    chosen = json.loads(done.stdout)
    for name in models:
        batch, variants = chosen[name]
        if arguments.variants:
            wanted = arguments.variants.split(",")
            variants = [v for v in variants if v.partition(",")[0] in wanted or v in wanted]
        if not variants:
            sys.exit(f"{name}: no variant {arguments.variants} on {arguments.device}")
        chosen[name] = [arguments.batch or batch, variants]
    return chosen


def summary(name, batch, ours, peers, arguments):
    result = {
        "model": name,
        "device": arguments.device,
        "batch": batch,
        "threads": arguments.threads,
        "load": os.getloadavg()[0],
        "programs": {},
    }
    for program in [ours, *peers]:
        if program.error or not program.turns:
            result["programs"][program.name] = {"error": program.error or "no turn"}
            continue
        last = program.turns[-1]
        result["programs"][program.name] = {
            "median": statistics.median(program.seconds()),
            "fastest": min(program.seconds()),
            "seconds_per_step": program.seconds(),
            **{k: v for k, v in last.items() if k not in ("seconds_per_step", "median")},
            **(program.ready or {}),
        }
    medians = {p.name: result["programs"][p.name].get("median") for p in peers}
    medians = {variant: m for variant, m in medians.items() if m}
    if medians:
        result["best_variant"] = min(medians, key=medians.get)
    if medians and not ours.error and ours.turns:
        mine = result["programs"]["dyt"]["median"]
        result["ratio"] = mine / medians[result["best_variant"]]
        result["ratios"] = {variant: mine / m for variant, m in medians.items()}
    return result


def show(result):
    print(f"{result['model']}, batch {result['batch']}, load {result['load']:.1f}", flush=True)
    for name, p in result["programs"].items():
        if "error" in p:
            print(f"  {name:24} {p['error']}", flush=True)
            continue
        memory = p.get("peak_memory_bytes")
        print(
            f"  {name:24} {1e3 * p['median']:9.2f} ms a step (fastest {1e3 * p['fastest']:.2f})"
            + (f", {memory / 2**30:.1f} GiB" if memory else "")
            + (f", ratio {result['ratios'][name]:.2f}" if name in result.get("ratios", {}) else "")
            + (" <- best of PyTorch" if name == result.get("best_variant") else ""),
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description="Time a training step of dyt and of PyTorch.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: those of the device")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variants", help="of PyTorch: eager,compile,graphs; default: all")
    parser.add_argument("--precision", choices=["f32", "bf16"], help="default: bf16 on a GPU")
    parser.add_argument("--batch", type=int, help="default: each model's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns each")
    parser.add_argument("--steps", type=int, help="steps per turn; default: 10, on a GPU 20")
    parser.add_argument("--jobs", type=int, help="that prepare at a time; default: 1, GPU: all")
    parser.add_argument("--prepare-limit", type=float, default=600, help="seconds for that")
    parser.add_argument("--dyt", type=pathlib.Path, default=ROOT / "dyt", help="our binary")
    parser.add_argument("--ours", default="", help='settings of ours: "--norm dyt --graph off"')
    parser.add_argument("--python", default=sys.executable, help="one that has torch and timm")
    parser.add_argument("--cache", default=None, help="folder for what torch.compile made")
    parser.add_argument("--out", type=pathlib.Path, help="file for one line of JSON per model")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.steps = arguments.steps or (20 if on_gpu else 10)
    arguments.cache = arguments.cache or pathlib.Path(tempfile.gettempdir()) / "dyt_inductor"
    models = arguments.models or MODELS[arguments.device]
    chosen = variants_of(models, arguments)

    begin = time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(arguments.jobs or (32 if on_gpu else 1))
    prepared = {}
    for name in models:
        batch, variants = chosen[name]
        for variant in [None, *variants]:
            prepared[name, variant] = pool.submit(
                lambda n=name, v=variant, b=batch: start(n, v, arguments, b).prepare(
                    arguments.prepare_limit
                )
            )
    programs = {key: future.result() for key, future in prepared.items()}
    print(f"all prepared after {time.monotonic() - begin:.0f} s", flush=True)
    failed = False
    if arguments.out:
        arguments.out.write_text("")
    for name in models:
        batch, variants = chosen[name]
        ours, peers = programs[name, None], [programs[name, v] for v in variants]
        for _ in range(arguments.rounds):
            for program in [ours, *peers]:
                if not program.error:
                    program.turn(arguments.prepare_limit)
        for program in [ours, *peers]:
            program.stop()
        result = summary(name, batch, ours, peers, arguments)
        failed = failed or "ratio" not in result
        show(result)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
    print(f"done after {time.monotonic() - begin:.0f} s", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
