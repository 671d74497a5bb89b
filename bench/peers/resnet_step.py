"""ResNet-20 for CIFAR in PyTorch eager: 3 stages of 3 basic blocks, 16, 32 and 64 wide, BatchNorm.

Batch 128, f32, AdamW (the optimizer that dyt has), 10 classes. Where the shape changes the shortcut is a 1 x 1
convolution and a norm. Both memory layouts are tried.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import step

BATCH = 128


def conv_norm(cin, cout, kernel, stride):
    conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.first, self.second = conv_norm(cin, cout, 3, stride), conv_norm(cout, cout, 3, 1)
        same = cin == cout and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(cin, cout, 1, stride)

    def forward(self, x):
        y = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(y + self.shortcut(x), inplace=True)


def resnet20():
    layers = [conv_norm(3, 16, 3, 1), nn.ReLU(inplace=True)]
    width = 16
    for stage in range(3):
        for block in range(3):
            layers.append(Block(width, 16 << stage, 2 if stage > 0 and block == 0 else 1))
            width = 16 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def build(layout):
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=layout)
    return resnet20().to(memory_format=layout), images, torch.randint(10, (BATCH,))


VARIANTS = {
    "NHWC": partial(build, torch.channels_last),
    "NCHW": partial(build, torch.contiguous_format),
}

if __name__ == "__main__":
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05)
    step.main("resnet20", VARIANTS, adamw, F.cross_entropy, BATCH)
