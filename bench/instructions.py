#!/usr/bin/env python3
"""How many instructions a kernel executes for an element, counted in what the compiler made of it;
docs/performance.md says what they are counted against.

    python bench/instructions.py               # all kernels of the list below
    python bench/instructions.py gelu dropout  # those with such a word in their name
    python bench/instructions.py --all layers/activation.cu 'relu_forward'

Needs nvcc, make, c++filt, and CUDA's cuobjdump with nvdisasm in PATH (they are in pip's
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm, too), and no GPU.

How it counts. A kernel's instructions (sm_90) are cut into blocks at branches. A kernel that walks
over its data in a loop is counted there, and what stands before and after the loop is left out; one
whose threads do a pack each is counted from end to end. Of all ways through the loop or the kernel
those count on which global memory is read and written as often as the list says: so many loads and
stores of 16 bytes for each pack of 8 bf16. That tells the loop over four rows from the one over the
rest, and dx = ... from dx += .... Where several ways are left, the shortest and the longest are
printed. An instruction that is switched off by its predicate counts, as it takes its time in the
GPU, too; a loop inside counts once; a subroutine (a division's rare case) counts as its call.
"""

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

# An H200: 132 SMs issue 4 instructions for 32 lanes each at 1.755 GHz, while 4.18 TB/s arrive. That
# is time for 7 instructions a byte.
PER_BYTE = 132 * 4 * 32 * 1.755e9 / 4.18e12


# ------------------------------------------------------------------------------ what is counted


@dataclass
class Counted:
    name: str
    source: str
    kernel: str  # how its name begins, with template arguments
    bytes: float  # moved for an element
    loads: int | None  # of a pack; None: as many as there are
    stores: int
    width: int = 8  # elements of a pack
    load: str = r"LDG(STS)?\.E\.(.*\.)?128"
    store: str = r"STG\.E\.128"


def family(name, phi):
    """DyT with the squashing function phi."""
    source, arguments = "layers/dyt.cu", f"<{phi}, false, 8, bf16>"
    return [
        Counted(name, source, f"dyt_forward_kernel{arguments}", 4, 1, 1),
        Counted(f"{name}, backward", source, f"dyt_backward_kernel{arguments}", 6, 2, 1),
    ]


def row_norm(name, source, centered, forward, backward, rows=1):
    """forward, backward: packs that a lane holds of a row; rows: of a warp, forward. gamma and beta
    are 16-byte loads, too, from the cache."""
    return [
        Counted(name, source, f"row_norm_forward_kernel<{centered}, false, {rows}, 8, {forward}, bf16>",
                4, None, 1),
        Counted(f"{name}, backward", source,
                f"row_norm_backward_kernel<{centered}, false, 8, {backward}, bf16>", 6, 2, 1,
                load="LDGSTS"),
    ]


def each(name, source, kernel, bytes, loads, stores=1):
    """One pack of 8 for a thread."""
    return Counted(name, f"layers/{source}.cu", f"{kernel}<8, bf16>", bytes, loads, stores)


def grouped(name, relu):
    source = "layers/batchnorm.cu"
    return [
        Counted(f"{name}, moments", source, "grouped_moments_kernel<8, bf16>", 2, 1, 0),
        Counted(name, source, f"grouped_normalize_kernel<{relu}, 8, bf16>", 4, 1, 1),
        Counted(f"{name}, sums", source, f"grouped_sums_kernel<{relu}, 8, bf16>", 4, 2, 0),
        Counted(f"{name}, backward", source,
                f"grouped_backward_kernel<{relu}, false, 8, bf16>", 6, 2, 1),
    ]


def gelu(kind, number):
    alone, after_product = "layers/gelu.cu", "layers/linear.cu"
    arguments = f"(Gelu){number}, 8, bf16>"
    return [
        Counted(f"GELU ({kind})", alone, f"gelu_forward_kernel<{arguments}", 4, 1, 1),
        Counted(f"GELU ({kind}), backward", alone, f"gelu_backward_kernel<{arguments}", 6, 2, 1),
        Counted(f"bias, GELU ({kind})", after_product, f"bias_gelu_kernel<{arguments}", 6, 1, 2),
        Counted(f"bias, GELU ({kind}), backward", after_product,
                f"bias_backward_kernel<(Gelu){number}, true, 8, bf16>", 6, 2, 1),
    ]


KERNELS = [
    *row_norm("LayerNorm, 4096 channels", "layers/layernorm.cu", "true", 4, 2),
    *row_norm("LayerNorm, 768 channels", "layers/layernorm.cu", "true", 3, 1, rows=2),
    *row_norm("RMSNorm, 4096 channels", "layers/rmsnorm.cu", "false", 4, 2),
    *row_norm("RMSNorm, 768 channels", "layers/rmsnorm.cu", "false", 3, 1),
    *gelu("tanh", 1),
    *gelu("erf", 0),
    *family("DyT (tanh)", "Tanh"),
    *family("Derf (erf)", "Erf"),
    *family("hardtanh", "Hardtanh"),
    *family("sigmoid", "Sigmoid"),
    *family("isru", "Isru"),
    *family("identity", "Identity"),
    *family("shifted tanh", "ShiftedTanh"),
    *family("arcsinh", "Arcsinh"),
    *family("deadzone", "Deadzone"),
    *family("bump", "Bump"),
    *grouped("BatchNorm", "false"),
    *grouped("BatchNorm + ReLU", "true"),
    each("ReLU", "activation", "relu_forward_kernel", 4, 1),
    each("ReLU, backward", "activation", "relu_backward_kernel", 6, 2),
    each("x + f, ReLU", "activation", "relu_forward_kernel", 6, 2),
    each("SiLU", "activation", "silu_forward_kernel", 4, 1),
    each("SiLU, backward", "activation", "silu_backward_kernel", 6, 2),
    each("SwiGLU", "swiglu", "swiglu_forward_kernel", 6, 2),
    each("SwiGLU, backward", "swiglu", "swiglu_backward_kernel", 10, 3, 2),
    each("x + f", "residual", "residual_kernel", 6, 2),
    each("layer scale", "layer_scale", "layer_scale_forward_kernel", 4, 1),
    each("layer scale + residual", "layer_scale", "layer_scale_forward_kernel", 6, 2),
    Counted("layer scale, backward", "layers/layer_scale.cu",
            "layer_scale_backward_kernel<false, 8, bf16>", 6, 2, 1),
    Counted("dropout", "layers/dropout.cu", "dropout_kernel<false, 8, bf16>", 4, 1, 1),
    Counted("dropout, added", "layers/dropout.cu", "dropout_kernel<true, 8, bf16>", 6, 2, 1),
    # a pair of packs for a thread, and four loads for cosines and sines
    Counted("rope", "layers/rope.cu", "rope_kernel<false, 8, bf16>", 4, 6, 2, width=16),
    Counted("rope, added", "layers/rope.cu", "rope_kernel<true, 8, bf16>", 6, 8, 2, width=16),
    each("token embedding", "token_embedding", "token_embedding_forward_kernel", 6, 2),
    # eight rows with eight tokens: each is added to a row of dweight, in f32
    each("token embedding, backward", "token_embedding", "add_runs_kernel", 10, 3, 2),
    each("position, backward", "token_embedding", "position_backward_kernel", 2, 1, 0),
    each("cross-entropy", "cross_entropy", "cross_entropy_forward_kernel", 2, 1, 0),
    each("cross-entropy, backward", "cross_entropy", "cross_entropy_backward_kernel", 4, 1, 1),
    Counted("head's loss", "layers/tied_head.cu", "row_losses_kernel<true, 8, bf16>", 2, 1, 0),
    Counted("head's gradient", "layers/tied_head.cu", "row_losses_kernel<true, 8, bf16>", 2, 1, 1),
    Counted("AdamW", "training/adamw.cu", "adamw_kernel(", 30, 4, 3, width=4),
    Counted("gradient's norm", "training/adamw.cu", "sum_of_squares_kernel(", 4, 1, 0, width=4),
]


# ------------------------------------------------------------------------------ the disassembly


@dataclass
class Block:
    instructions: list = field(default_factory=list)  # (predicated, text)
    followers: list = field(default_factory=list)


def disassemble(source):
    """{name of a kernel: its lines} of a source file, as `make resources` compiles it."""
    target = f"build/resources/90a/{source.removesuffix('.cu')}"
    subprocess.run(["make", "-s", target + ".txt"], check=True)
    text = subprocess.run(["cuobjdump", "-sass", target + ".cubin"], check=True,
                          capture_output=True, text=True).stdout
    parts = re.split(r"\n\s*Function : (\S+)\n", text)[1:]
    names = subprocess.run(["c++filt"], input="\n".join(parts[::2]), check=True,
                           capture_output=True, text=True).stdout.split("\n")
    short = [re.sub(r"^void |dyt::|\(anonymous namespace\)::", "", n) for n in names]
    return dict(zip(short, parts[1::2]))


LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?\s*([^;]*?)\s*;", re.M)


def cut_into_blocks(text):
    """{address of its first instruction: Block}"""
    lines = [(int(a, 16), (p or "").strip(), i) for a, p, i in LINE.findall(text)]
    step = lines[1][0] - lines[0][0]
    jumps, waits = {}, {}  # address: where it leads
    for address, _, instruction in lines:
        name, *operands = re.split(r"[ ,]+", instruction)
        target = int(operands[-1], 16) if re.search(r"0x[0-9a-f]+$", instruction) else None
        if name.startswith("BRA"):
            jumps[address] = target
        elif name.startswith("BSSY"):
            waits[operands[0]] = target
        elif name.startswith("BSYNC"):
            jumps[address] = waits[operands[0]]
        elif name.startswith(("EXIT", "RET", "BRX")):
            jumps[address] = None
    begins = {lines[0][0]} | {a + step for a in jumps} | set(jumps.values()) - {None}
    blocks, block = {}, None
    for address, predicate, instruction in lines:
        if address in begins:
            if block and address - step not in jumps:
                block.followers.append(address)
            block = blocks[address] = Block()
        block.instructions.append((predicate, instruction))
        if address in jumps:
            if jumps[address] is not None:
                block.followers.append(jumps[address])
            # a branch on a second condition (BRA.DIV, or "BRA P0, 0x...") may also go on
            second = "DIV" in instruction or re.search(r"BRA\S* !?U?P\d", instruction)
            if (predicate or second) and address + step not in block.followers:
                block.followers.append(address + step)
    for b in blocks.values():
        b.followers = [f for f in b.followers if f in blocks]
    return blocks


def find_loops(blocks):
    """[(header, addresses of its blocks)], and all edges that lead back to a header."""
    back, state = set(), {}
    stack = [(min(blocks), iter(blocks[min(blocks)].followers))]
    state[min(blocks)] = "open"
    while stack:
        address, followers = stack[-1]
        for f in followers:
            if state.get(f) == "open":
                back.add((address, f))
            elif f not in state:
                state[f] = "open"
                stack.append((f, iter(blocks[f].followers)))
                break
        else:
            state[address] = "done"
            stack.pop()
    leading_to = {a: [] for a in blocks}
    for a, b in blocks.items():
        for f in b.followers:
            leading_to[f].append(a)
    loops = {}
    for end, header in back:
        body, todo = {header}, [end]
        while todo:
            a = todo.pop()
            if a not in body:
                body.add(a)
                todo += leading_to[a]
        loops.setdefault(header, set()).update(body)
    return list(loops.items()), back


def ways_through(blocks, region, begin, ends, back, load, store):
    """{(loads, stores): (fewest, most) instructions} of the ways from `begin` to a block that
    `ends` says is the last one, without leaving the region or going back."""

    def of_block(address):  # the same of one block
        counts = {(0, 0): 0}
        for predicate, instruction in blocks[address].instructions:
            step = (int(bool(re.match(load, instruction))), int(bool(re.match(store, instruction))))
            moved = {(l + step[0], s + step[1]) for l, s in counts}
            counts = dict.fromkeys(set(counts) | moved if predicate else moved, 0)
        return set(counts), len(blocks[address].instructions)

    order, seen = [], set()

    def visit(address):
        stack = [(address, iter(blocks[address].followers))]
        seen.add(address)
        while stack:
            a, followers = stack[-1]
            for f in followers:
                if f in region and f not in seen and (a, f) not in back:
                    seen.add(f)
                    stack.append((f, iter(blocks[f].followers)))
                    break
            else:
                order.append(a)
                stack.pop()

    visit(begin)
    ways, result = {begin: {(0, 0): (0, 0)}}, {}

    def merge(into, key, fewest, most):
        have = into.get(key, (fewest, most))
        into[key] = (min(have[0], fewest), max(have[1], most))

    for address in reversed(order):
        accesses, length = of_block(address)
        after = {}
        for (l, s), (fewest, most) in ways.pop(address, {}).items():
            for dl, ds in accesses:
                merge(after, (l + dl, s + ds), fewest + length, most + length)
        if ends(address):
            for key, (fewest, most) in after.items():
                merge(result, key, fewest, most)
        for f in blocks[address].followers:
            if f in region and (address, f) not in back:
                for key, (fewest, most) in after.items():
                    merge(ways.setdefault(f, {}), key, fewest, most)
    return result


# ------------------------------------------------------------------------------ counting


def regions(text, load, store):
    """[(what, ways through it)] for each loop, and for the whole kernel."""
    blocks = cut_into_blocks(text)
    loops, back = find_loops(blocks)
    for header, body in sorted(loops):
        last = {a for a, h in back if h == header}
        yield (f"loop at {header:#x}",
               ways_through(blocks, body, header, lambda a: a in last, back, load, store))
    exits = {a for a, b in blocks.items() if any(i.startswith("EXIT") for _, i in b.instructions)}
    yield ("kernel",
           ways_through(blocks, set(blocks), min(blocks), lambda a: a in exits, back, load, store))


def count(spec, text):
    """(fewest, most) instructions for an element, or None if no way moves what the list says."""
    best = None
    for what, ways in regions(text, spec.load, spec.store):
        if what == "kernel" and best:
            break  # it is counted in its loop
        for (loads, stores), (fewest, most) in ways.items():
            packs = stores // spec.stores if spec.stores else loads // spec.loads
            if packs == 0 or stores != packs * spec.stores:
                continue
            if spec.loads is not None and loads != packs * spec.loads:
                continue
            found = (fewest / (packs * spec.width), most / (packs * spec.width))
            if spec.loads is None and best and best[0] == packs:
                found = (min(found[0], best[1][0]), max(found[1], best[1][1]))
                best = (packs, found)
            elif not best or packs > best[0]:
                best = (packs, found)
    return best and best[1]


def between(fewest, most):
    return fewest if fewest == most else f"{fewest} to {most}"


def row(spec, found):
    time = PER_BYTE * spec.bytes
    if not found:
        return f"| {spec.name} | {time:.0f} | not found | |"
    shares = [f"{min(100, 100 * time / f):.0f}" for f in reversed(found)]
    counted = between(*(f"{f:.0f}" for f in found))
    return f"| {spec.name} | {time:.0f} | {counted} | {between(*shares)} % |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of the kernels' names; with --all, of the code's")
    parser.add_argument("--all", metavar="SOURCE", help="all ways through all kernels of a file")
    options = parser.parse_args()
    missing = [t for t in ("make", "cuobjdump", "nvdisasm", "c++filt") if not shutil.which(t)]
    if missing:
        sys.exit(f"not found in PATH: {', '.join(missing)} (--help says where they are)")
    if options.all:
        for name, text in disassemble(options.all).items():
            if all(w in name for w in options.words):
                print(name)
                for what, ways in regions(text, Counted.load, Counted.store):
                    for (loads, stores), (fewest, most) in sorted(ways.items()):
                        print(f"  {what}: {loads} loads, {stores} stores: {fewest} to {most}")
        return
    chosen = [k for k in KERNELS if not options.words or any(w in k.name for w in options.words)]
    if not chosen:
        sys.exit(f"no kernel's name has any of {options.words} in it")
    code = {source: disassemble(source) for source in dict.fromkeys(k.source for k in chosen)}
    print("| kernel, bf16 | there is time for | instructions | so at best, of a copy |")
    print("|---|---:|---:|---:|")
    for spec in chosen:
        texts = [t for name, t in code[spec.source].items() if name.startswith(spec.kernel)]
        print(row(spec, count(spec, texts[0]) if texts else None))


if __name__ == "__main__":
    main()
