"""losses.safetensors: losses that leave rows out (a masked language model's, padded texts').

logits [rows, K] or x [rows, C] and weight [V, C]; labels [rows], -1 where a row is left out.
"""

import torch
import torch.nn.functional as F

from fixture import Fixture


def some_labels(f, rows, below):
    """The second row and about half of the others are left out."""
    labels = f.integers(rows, below=below)
    labels[f.uniform(rows) < 0.5] = -1
    labels[0], labels[1] = below - 1, -1
    return labels


def main():
    f = Fixture()

    def loss(logits, labels, smoothing):
        return F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing)

    def head_loss(x, weight, labels, smoothing):
        return loss(x @ weight.T, labels, smoothing)

    for name, smoothing in [("left_out", 0.0), ("left_out_smooth", 0.1)]:
        f.seed(name)
        inputs = dict(logits=f.normal(9, 13, scale=2), labels=some_labels(f, 9, 13))
        f.case(name, loss, inputs, dict(smoothing=smoothing), output="loss")
        name = "tied_head_" + name
        f.seed(name)
        inputs = dict(x=f.normal(9, 6), weight=f.normal(13, 6), labels=some_labels(f, 9, 13))
        f.case(name, head_loss, inputs, dict(smoothing=smoothing), output="loss")
    f.seed("tied_head_smooth")
    inputs = dict(x=f.normal(5, 6), weight=f.normal(13, 6), labels=f.integers(5, below=13))
    f.case("tied_head_smooth", head_loss, inputs, dict(smoothing=0.2), output="loss")
    assert all((labels >= 0).sum() > 1 for k, labels in f.tensors.items() if k.endswith("labels"))
    f.save("losses.safetensors")


if __name__ == "__main__":
    main()
