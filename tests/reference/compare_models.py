#!/usr/bin/env python3
"""Any model, random weights: dyt against timm and transformers, logits and every gradient.

    python tests/reference/compare_models.py vit --norm dyt --width 96 --depth 3 --heads 6
    python tests/reference/compare_models.py llama --kv-heads 2 --untied --dtype f64
    python tests/reference/compare_models.py --all
    python tests/reference/compare_models.py --random 20 --seed 7

The model and its options are dyt's own. PyTorch computes in float64 from the same float32 weights and
inputs, which travel as safetensors under timm's or Hugging Face's names. `dyt forward` must give its
logits within 1e-4 and `dyt backward` the loss and every gradient (within 1e-3 of the tensor's largest
value), with BatchNorm in evaluation and in training, and its running statistics afterwards; in f64
within 1e-7 (LLaMA: 1e-5). Then the other way round: weights that dyt made must load there, strictly,
and give the same logits. One line for each case; exit status 1 if any disagrees.

Networks of ReLUs are compared in f64 where dyt can: among millions of activations some lie so close to
0 that rounding to f32 decides their sign, in PyTorch as here, and each moves a few gradients by some
percent. In f32 theirs need only agree within a tenth, as vectors.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import make_gpt
import torch_models
import vit
from make_convnets import randomize_norms

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Gradients that are zero but for rounding (a key's bias does not change a softmax) are compared
# with the scale of the whole gradient instead of with their own.
NEGLIGIBLE = 1e-6

# Name, what to change, samples.
CASES = [
    ("vit", dict(width=96, depth=3, heads=6, patch=8, image_size=40, classes=7), 3),
    ("vit", dict(width=48, depth=2, heads=3, class_token=True, norm="dyt"), 3),
    ("vit", dict(width=64, depth=3, norm_placement="post"), 3),
    ("vit", dict(width=64, depth=3, norm_placement="post", norm="dyt"), 3),
    ("vit_ti4", dict(norm="dyt"), 4),
    ("vit_b16", {}, 1),
    ("vit_b16", dict(norm="dyt"), 1),
    ("convnext", dict(width=24, image_size=48, classes=5), 2),
    ("convnext", dict(width=16, patch=4, image_size=64, norm="dyt"), 2),
    ("convnext_atto", {}, 2),
    ("convnext_atto", dict(norm="dyt"), 2),
    ("convnext_tiny", dict(width=24, image_size=64, classes=11), 2),
    ("resnet", dict(width=8, image_size=24, classes=6), 4),
    ("resnet20", dict(norm="dyt"), 4),
    ("resnet18", {}, 4),
    ("resnet50", dict(image_size=160), 4),
    ("resnet50", dict(image_size=128, norm="dyt"), 2),
    ("resnet50", dict(width=12, image_size=70, classes=9), 4),
    ("vgg", dict(width=8, classes=4), 4),
    ("vgg11_bn", {}, 2),
    ("vgg11_bn", dict(width=16, hidden=64, norm="dyt"), 2),
    ("vgg11_bn", dict(width=16, hidden=64, norm="none"), 2),
    ("gpt", dict(width=96, depth=2, heads=3, vocab=101, context=40), 3),
    ("gpt", dict(norm="dyt", tied=False), 2),
    ("gpt", dict(width=64, heads=2, hidden=100, norm="rmsnorm"), 2),
    ("gpt2_124m", dict(context=64), 1),
    ("llama", dict(width=96, heads=6, kv_heads=2, vocab=91), 3),
    ("llama", dict(norm="dyt", kv_heads=3, tied=False), 2),
    ("llama", dict(norm="layernorm", depth=2, hidden=200), 2),
    ("llama_60m", dict(kv_heads=2, context=64), 1),
]


def random_case(generator):
    """Sizes that nobody chose."""
    pick = generator.choice
    name = pick(["vit", "convnext", "resnet", "resnet18", "resnet50", "vgg", "gpt", "llama"])
    o = {}
    if pick([True, False]):
        o["norm"] = "dyt"
    if name in ("vit", "gpt", "llama"):
        o["heads"] = pick([1, 2, 3, 4, 6])
        o["width"] = o["heads"] * pick([16, 24, 32, 48, 64])
        o["depth"] = generator.randint(1, 4)
    if name in ("gpt", "llama"):
        o["vocab"], o["context"] = generator.randint(2, 600), generator.randint(1, 90)
        o["tied"], o["hidden"] = pick([True, False]), generator.randint(1, 300)
        if name == "llama":
            o["kv_heads"] = pick([n for n in range(1, o["heads"] + 1) if o["heads"] % n == 0])
        return name, o, generator.randint(1, 4)
    o["classes"] = generator.randint(2, 50)
    if name == "vit":
        o["patch"] = generator.randint(1, 7)
        o["image_size"] = o["patch"] * generator.randint(1, 8)
        o["class_token"] = pick([True, False])
        o["norm_placement"] = pick(["pre", "post"])
    elif name == "convnext":
        o["patch"] = pick([1, 2, 3, 4, 5])
        o["width"] = generator.randint(1, 30)
        o["image_size"] = generator.randint(32 if o["patch"] == 2 else 8 * o["patch"], 70)
    else:
        o["width"] = generator.randint(1, 20)
        o["image_size"] = generator.randint(40 if name != "resnet" else 9, 70)
    return name, o, generator.randint(2, 4)


def option_words(options):
    words = []
    for key, value in options.items():
        if key == "tied":
            words.append("--tied" if value else "--untied")
        elif isinstance(value, bool):
            words.append(("--" if value else "--no-") + key.replace("_", "-"))
        else:
            words += ["--" + key.replace("_", "-"), str(value)]
    return words


def parse_options(words):
    """The reverse."""
    options, i = {}, 0
    while i < len(words):
        key = words[i].removeprefix("--")
        if key in ("tied", "untied", "class-token", "no-class-token"):
            options[key.removeprefix("un").removeprefix("no-").replace("-", "_")] = key in (
                "tied",
                "class-token",
            )
            i += 1
            continue
        value = words[i + 1]
        options[key.replace("-", "_")] = int(value) if value.isdigit() else value
        i += 2
    return options


def random_inputs(options, generator, samples):
    if "vocab" in options:
        length = min(options["context"], 64)
        text = torch.randint(options["vocab"], (samples, length + 1), generator=generator)
        return {"tokens": text[:, :-1].clone(), "labels": text[:, 1:].clone()}
    images, labels = vit.random_batch(
        generator, samples, options["image_size"], options["classes"]
    )
    return {"images": images, "labels": labels}


def randomize(model, options, generator):
    if "vocab" in options:
        make_gpt.randomize(model, generator)
    else:
        vit.randomize(model, generator)
        randomize_norms(model, generator)


def logits_of(model, inputs):
    if "tokens" in inputs:
        return torch_models.run_text(model, inputs["tokens"])
    return model(inputs["images"])


def has_batchnorm(model):
    return any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def expected_logits(model, inputs):
    with torch.no_grad():
        return {"logits": logits_of(model.eval(), inputs)}


def expected_gradients(model, inputs, training):
    """In training, a BatchNorm's running statistics have moved on afterwards."""
    model.train(training)
    model.zero_grad()
    logits = logits_of(model, inputs)
    loss = F.cross_entropy(logits.flatten(0, -2), inputs["labels"].flatten())
    loss.backward()
    results = {"logits": logits.detach(), "loss": loss.detach()}
    for name, parameter in model.named_parameters():  # a tied head is listed once
        results["grad." + name] = parameter.grad
    for name, buffer in model.named_buffers():
        if training and ("running" in name or "num_batches" in name):
            results["after." + name] = buffer
    return results


def weights_of(model):
    """A tied head once, as files have it."""
    weights, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            weights[name] = tensor.float() if tensor.is_floating_point() else tensor.clone()
    return weights


def load_strictly(model, weights):
    wide = {name: t.double() if t.is_floating_point() else t for name, t in weights.items()}
    if "lm_head.weight" in model.state_dict() and "lm_head.weight" not in wide:
        assert model.config.tie_word_embeddings
        wide["lm_head.weight"] = model.get_input_embeddings().weight  # tied: filled by the other
    model.load_state_dict(wide, strict=True)


def difference(theirs, ours, floor=0.0, as_vectors=False):
    """Largest difference, relative to the largest value there should be (at least `floor`)."""
    if ours is None or ours.shape != theirs.shape:
        return float("inf")
    if theirs.numel() == 0:
        return 0.0
    size = torch.linalg.vector_norm if as_vectors else lambda t: t.abs().max()
    worst = size(ours.double() - theirs.double()).item()
    if worst != worst:  # NaN
        return float("inf")
    return worst / max(size(theirs.double()).item(), floor, 1e-300)


class Comparison:
    def __init__(self, arguments, folder, name, changes, samples):
        self.arguments, self.folder = arguments, folder
        self.name, self.changes, self.samples = name, changes, samples
        self.title = " ".join([name, *option_words(changes)])
        self.generator = torch.Generator().manual_seed(arguments.seed)
        self.has_relu = name.startswith(("resnet", "vgg"))
        self.dtype = arguments.dtype
        if self.dtype == "auto":
            self.dtype = "f64" if self.has_relu and arguments.device == "cpu" else "f32"

    def dyt(self, direction, *more):
        output = self.folder / f"{direction}.safetensors"
        command = [self.arguments.dyt, direction, self.name, *option_words(self.changes)]
        command += ["--device", self.arguments.device, "--dtype", self.dtype]
        command += ["--input", self.folder / "inputs.safetensors", "--output", output, *more]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"dyt {direction}: {done.stderr.strip()}")
        return load_file(output)

    def tolerances(self):
        if self.dtype == "f32":
            return 1e-4, 1e-1 if self.has_relu else 1e-3
        # transformers computes RMSNorm and the angles of RoPE in float32, whatever the model's type;
        # dyt keeps an epsilon and BatchNorm's momentum in float32.
        return (1e-5, 1e-5) if self.name.startswith("llama") else (1e-7, 1e-7)

    def compare(self, direction, expected, *more):
        exact, close = self.tolerances()
        ours, rows = self.dyt(direction, *more), []
        largest = max([v.abs().max().item() for k, v in expected.items() if "grad." in k] or [0])
        for name, value in expected.items():
            gradient = name.startswith("grad.")
            floor = NEGLIGIBLE * largest if gradient else 0.0
            as_vectors = gradient and self.has_relu and self.dtype == "f32"
            found = difference(value, ours.get(name), floor, as_vectors)
            rows.append((name, found, close if gradient else exact))
        unexpected = set(ours) - set(expected)
        return rows + [(name + " (unexpected)", float("inf"), 0) for name in unexpected]

    def run(self):
        """(tensor, difference, allowed) for everything that is compared."""
        options = torch_models.options_of(self.name, self.changes)
        model = torch_models.build(self.name, options)
        randomize(model, options, self.generator)
        inputs = random_inputs(options, self.generator, self.samples)
        weights = self.folder / "weights.safetensors"
        save_file(weights_of(model), weights)
        save_file(
            {k: t.float() if t.is_floating_point() else t for k, t in inputs.items()},
            self.folder / "inputs.safetensors",
        )
        rows = self.compare("forward", expected_logits(model, inputs), "--init", weights)
        if has_batchnorm(model):
            still = expected_gradients(model, inputs, training=False)
            rows += self.compare("backward", still, "--init", weights, "--eval")
            moving = expected_gradients(model, inputs, training=True)
            rows += self.compare("backward", moving, "--init", weights)
        else:
            still = expected_gradients(model, inputs, training=False)
            rows += self.compare("backward", still, "--init", weights)

        made = self.folder / "made.safetensors"
        ours = self.dyt("forward", "--save-weights", made, "--seed", 5)
        load_strictly(model, load_file(made))
        found = difference(expected_logits(model, inputs)["logits"], ours["logits"])
        return rows + [("logits of dyt's weights", found, self.tolerances()[0])]

    def report(self):
        """One line, and the worst tensors if they disagree."""
        start = time.time()
        try:
            rows = self.run()
        except RuntimeError as error:
            print(f"DISAGREE  {self.title}: {error}", flush=True)
            return False
        wrong = [row for row in rows if row[1] > row[2]]
        logits = max(found for name, found, _ in rows if "logits" in name)
        gradient = max(((found, name) for name, found, _ in rows if name.startswith("grad.")))
        print(
            f"{'DISAGREE' if wrong else 'agree   '}  {self.title:60} logits {logits:.1e}, "
            f"gradients {gradient[0]:.1e} of {len(rows)} tensors, {self.dtype}, {time.time() - start:.0f} s",
            flush=True,
        )
        wrong.sort(key=lambda row: row[1], reverse=True)
        for name, found, allowed in wrong[: self.arguments.worst]:
            print(f"    {name:60} {found:.2e}, allowed {allowed:.0e}")
        return not wrong


def main():
    parser = argparse.ArgumentParser(
        description="Compare dyt's models with timm's and transformers'.",
        epilog="Other options are dyt's: --width, --norm, --untied ...",
    )
    parser.add_argument("model", nargs="?", help="as for dyt forward")
    parser.add_argument("--all", action="store_true", help="the cases in this file")
    parser.add_argument("--random", type=int, default=0, help="so many of random sizes")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="dyt's device: cpu, cuda or emulated")
    parser.add_argument("--dtype", default="auto", choices=["auto", "f32", "f64"])
    parser.add_argument("--dyt", default=ROOT / "dyt", help="the binary to test")
    parser.add_argument("--worst", type=int, default=5, help="tensors to list of a bad case")
    parser.add_argument("--keep", help="leave the files of the last case in this folder")
    arguments, others = parser.parse_known_args()
    torch.set_num_threads(2)
    cases = list(CASES) if arguments.all else []
    generator = random.Random(arguments.seed)
    cases += [random_case(generator) for _ in range(arguments.random)]
    if arguments.model:
        cases.append((arguments.model, parse_options(others), arguments.batch))
    if not cases:
        parser.error("a model, --all or --random N is needed")
    good = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            torch.manual_seed(0)
            good += Comparison(arguments, folder, *case).report()
    print(f"{good} of {len(cases)} agree")
    return good != len(cases)


if __name__ == "__main__":
    sys.exit(main())
