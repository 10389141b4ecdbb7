"""Modules of torch, counted by torch itself, and exported and counted by us. Importing this imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.counters.tally import Line, tally

HEADING = "## torch.utils.flop_counter"
_HEAD = f"""\
{HEADING}

Modules are exported (`torch.onnx.export`, opset 17) and studied; torch {torch.__version__.partition("+")[0]} counts the
same forward pass, with the kernels that its counter does not know (fused attention, oneDNN's recurrent cells) switched
off. torch counts products alone: no bias, no factor, no gate. *Products* are ours without these, and equal torch's.

| module | npumon, FLOPs | products | torch, FLOPs | difference | explained by |
|---|---:|---:|---:|---:|---|
"""


class Attention(nn.Module):
    """Self-attention through torch's own function."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] to the same."""
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """One layer of a transformer: attention and two linear layers, normalized and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] to the same."""
        x = x + self.attention(self.before(x))
        return x + self.linear(self.between(x))


class Products(nn.Module):
    """Products without weights: a stack of matrices with itself, and an Einsum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, n, k] to [batch, n, n]."""
        return torch.bmm(x, x.transpose(1, 2)) + torch.einsum("bik,bjk->bij", x, x)


def _cnn() -> nn.Module:
    first = [nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 100))


def _mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(16, 96, 1), nn.Hardswish(), nn.Conv2d(96, 96, 3, 1, 1, groups=96), nn.GELU(), nn.Conv2d(96, 16, 1)
    )


def _audio() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 32, 9, dilation=2, bias=False), nn.Tanh(), nn.ConvTranspose1d(32, 4, 8, 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (_cnn, (1, 3, 64, 64)),
    "depthwise convolutions": (_mobile, (1, 16, 28, 28)),
    "1-d convolutions": (_audio, (1, 4, 400)),
    "3-d convolution": (lambda: nn.Conv3d(2, 8, 3, bias=False), (1, 2, 8, 16, 16)),
    "transposed grouped convolution": (lambda: nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=2), (1, 12, 9, 9)),
    "linear layers": (lambda: nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64)), (4, 256)),
    "matrix products": (Products, (3, 20, 32)),
    "attention": (lambda: Attention(128, 4), (1, 50, 128)),
    "transformer layer": (lambda: Block(128, 4), (1, 50, 128)),
    "LSTM, both directions": (lambda: nn.LSTM(64, 96, bidirectional=True), (20, 2, 64)),
    "GRU": (lambda: nn.GRU(64, 96), (20, 2, 64)),
    "RNN": (lambda: nn.RNN(64, 96), (20, 2, 64)),
}


class Compared(NamedTuple):
    """FLOPs of one module's multiply-accumulate nodes; ``products`` are ours by torch's convention."""

    name: str
    ours: int
    products: int
    theirs: int


def compare(name: str, folder: Path) -> Compared:
    """Count the module ``name`` with both; its export goes into ``folder``."""
    build, shape = MODELS[name]
    torch.manual_seed(0)
    module, example, path = build().eval(), torch.ones(shape), folder / f"{name}.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package
        torch.onnx.export(module, (example,), str(path), dynamo=False, opset_version=17)
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            counter = FlopCounterMode(display=False)
            with counter:
                module(example)
    counted = tally(name, path).mac_lines
    ours = sum(line.ours * line.executions for line in counted)
    products = sum(_products(line) * line.executions for line in counted)
    return Compared(name, ours, products, counter.get_total_flops())


def _products(line: Line) -> int:
    """Ours, less what is no product."""
    op = line.node.op_type
    if op in ("LSTM", "GRU", "RNN"):
        return 2 * prod(line.inputs[0][:2]) * (prod(line.inputs[1]) + prod(line.inputs[2]))
    biased = op in ("Conv", "ConvTranspose", "Gemm") and 2 in line.inputs
    return line.ours - prod(line.output) * biased


def part(rows: list[Compared]) -> str:
    """The part of docs/counters.md on torch."""
    return _HEAD + "".join(f"{_row(row)}\n" for row in rows)


def _row(row: Compared) -> str:
    difference = f"{row.ours / row.theirs - 1:+.2%}" if row.ours != row.theirs else "0"
    why = "" if row.ours == row.theirs else explanation(row)
    return f"| {row.name} | {row.ours:,} | {row.products:,} | {row.theirs:,} | {difference} | {why} |"


def explanation(row: Compared) -> str:
    """What torch leaves out; empty if that does not account for the difference."""
    if row.products != row.theirs:
        return ""
    return "bias and gates" if row.name.startswith(("LSTM", "GRU", "RNN")) else "bias"


def exports(folder: Path) -> list[Compared]:
    """Every module."""
    return [compare(name, folder) for name in MODELS]
