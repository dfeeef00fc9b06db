"""Pooling of torch.nn; its AvgPool2d has a flag more, in front of ours."""

from torch import nn
from torch.nn import AdaptiveAvgPool2d, MaxPool2d

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]


def AvgPool2d(kernel_size, stride=None, padding=0, count_include_pad=True):
    return nn.AvgPool2d(kernel_size, stride, padding, count_include_pad=count_include_pad)


AvgPool2d.__name__ = "AvgPool2d"
