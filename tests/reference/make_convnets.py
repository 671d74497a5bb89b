"""convnext_*, resnet_*, vgg_* .safetensors: tiny ConvNets, all of them.

As the ViT files: each parameter under timm's name, `images` [N, 3, H, W], `labels` [N], `logits`, `loss`
and grad.<parameter>, with batch normalization in training mode. Where there are running statistics,
they lie under timm's names as they were before; after.<name> is what they were afterwards, and
`eval_logits` are the logits that evaluation gives with those from before.
"""

import copy

import torch
from timm.layers import ClassifierHead, LayerNorm2d
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG, ConvMlp
from torch import nn

from fixture import Fixture, rounded
from vit import DynamicTanh, loss_and_gradients, random_batch, randomize


class DynamicTanh2d(DynamicTanh):
    """The same on [N, C, H, W]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def replace_layernorm(module):
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            kind = DynamicTanh2d if isinstance(child, LayerNorm2d) else DynamicTanh
            setattr(module, name, kind(child.normalized_shape[0]))
        else:
            replace_layernorm(child)


class SmallStemResNet(nn.Module):
    """ResNet for CIFAR: a 3 x 3 stem, timm's basic blocks, a 1 x 1 convolution where shapes change."""

    def __init__(self, depths, widths, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        width = widths[0]
        for stage, (depth, planes) in enumerate(zip(depths, widths)):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                downsample = None
                if stride != 1 or width != planes:
                    downsample = nn.Sequential(
                        nn.Conv2d(width, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
                    )
                blocks.append(BasicBlock(width, planes, stride, downsample))
                width = planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean(dim=(2, 3)))


def small_vgg(features, hidden, classes):
    """timm's VGG with fewer and narrower layers; hidden = 0: a linear head."""
    model = VGG(features, num_classes=classes, norm_layer=nn.BatchNorm2d, mlp_ratio=1 / 4096)
    last = [width for width in features if width != "M"][-1]
    model.pre_logits = ConvMlp(last, hidden, 7, drop_rate=0.0) if hidden else nn.Identity()
    model.head = ClassifierHead(hidden or last, classes)
    return model


def randomize_norms(model, generator):
    """What vit.randomize leaves plain: BatchNorm's weights and running statistics."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, scale, mean in [
                    (module.weight, 0.2, 1.0),
                    (module.bias, 0.2, 0.0),
                    (module.running_mean, 0.2, 0.0),
                ]:
                    value = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                    tensor.copy_(rounded(value * scale + mean))
                uniform = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                module.running_var.copy_(rounded(0.5 + uniform))


def make(name, model, image_size, batch=4):
    f = Fixture()
    f.seed(name)
    model.double().train()
    randomize(model, f.generator)
    randomize_norms(model, f.generator)
    images, labels = random_batch(f.generator, batch, image_size, 10)
    for key, value in model.state_dict().items():
        f.store(key, value)
    f.store("images", images)
    f.store("labels", labels)
    has_buffers = len(list(model.buffers())) > 0
    if has_buffers:
        f.store("eval_logits", copy.deepcopy(model).eval()(images))
    for key, value in loss_and_gradients(model, images, labels).items():
        f.store(key, value)
    for key, value in model.named_buffers():
        f.store("after." + key, value)
    f.save(f"{name}.safetensors")


def main():
    torch.manual_seed(0)
    small = dict(depths=(1, 1, 2, 1), dims=(8, 10, 12, 16), num_classes=10, conv_mlp=False)
    make("convnext_layernorm", ConvNeXt(patch_size=4, **small), 32, batch=3)
    dyt = ConvNeXt(patch_size=2, **small)
    replace_layernorm(dyt)
    make("convnext_dyt", dyt, 32, batch=3)
    make("resnet_cifar", SmallStemResNet((1, 2, 1), (6, 8, 12), 10), 13)
    bottleneck = ResNet(Bottleneck, (1, 1, 2, 1), num_classes=10, channels=(4, 5, 6, 7))
    make("resnet_bottleneck", bottleneck, 37)
    make("vgg", small_vgg([4, "M", 6, 5, "M"], 24, 10), 28)
    make("vgg_cifar", small_vgg([6, "M", 8, 8, "M", 12, "M"], 0, 10), 17)


if __name__ == "__main__":
    main()
