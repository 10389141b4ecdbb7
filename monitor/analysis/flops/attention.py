"""Attention in its many spellings, and the recurrent forms that replace it.

All count the full score matrix: causal masks, windows and padding switch scores off but are not subtracted, exactly as
the ONNX function body computes them. Building the mask itself (a few operations per query and key, not per head) is
left out. Where past and present share one buffer its length stands for the total length, an upper bound: how much of it
is filled is data.
"""

from __future__ import annotations

from math import prod

from monitor.analysis.flops.call import Call, UncountableError
from monitor.analysis.flops.elementwise import cost

SOFTMAX = 5  # ReduceMax, Sub, Exp, ReduceSum, Div
SOFTCAP = 3  # Div, Tanh, Mul


def attention(call: Call) -> int:
    """ai.onnx Attention by its function body: Q and K scaled, mask added, rows that are all masked cleared."""
    batch, heads, queries, qk = _heads(call, 0, "q_num_heads")
    _, _, keys, _ = _heads(call, 1, "kv_num_heads")
    _, _, _, v = _heads(call, 2, "kv_num_heads")
    keys += call.inputs[4][2] if call.inputs.has(4) else 0
    per_score = 2 * (qk + v) + SOFTMAX + 2 + SOFTCAP * (call.number("softcap", 0.0) != 0.0)
    return batch * heads * (qk * (queries + keys) + queries * keys * per_score)


def _heads(call: Call, position: int, attribute: str) -> tuple[int, int, int, int]:
    """Batch, heads, length and head size of a [B, H, S, d] or [B, S, H * d] input."""
    shape = call.inputs[position]
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    heads = call.integer(attribute)
    batch, length, width = shape
    return batch, heads, length, width // heads


def _scores(call: Call, batch: int, heads: int, pairs: int, sizes: int, biased: bool) -> int:
    """The contrib ops' score matrix over ``pairs`` of query and key: both products, scale, bias, softmax."""
    softcap = SOFTCAP * (call.number("softcap", 0.0) != 0.0)
    return batch * heads * pairs * (2 * sizes + 1 + biased + softcap + SOFTMAX)


def projected_attention(call: Call, past: int = 4, biased: int = 5) -> int:
    """com.microsoft Attention: one merged projection of Q, K and V, then the score matrix."""
    batch, queries, _ = call.inputs[0]
    weights, heads = call.inputs[1], call.integer("num_heads")
    hidden = call.integers("qkv_hidden_sizes") or (weights[1] // 3,) * 3
    keys = queries + (call.inputs[past][3] if call.inputs.has(past) else 0)
    if call.outputs.has(1):
        keys = call.outputs[1][3]
    projection = batch * queries * (2 * prod(weights) + weights[1] * call.inputs.has(2))
    sizes = hidden[0] // heads + hidden[2] // heads
    return projection + _scores(call, batch, heads, queries * keys, sizes, call.inputs.has(biased))


def quantized_attention(call: Call) -> int:
    """QAttention: past at 8, no score bias."""
    return projected_attention(call, past=8, biased=9)


def multi_head_attention(call: Call, bias: int = 3, score_bias: int = 5, past: int = 6) -> int:
    """com.microsoft MultiHeadAttention; Q, K and V may come packed in one or two inputs."""
    heads, query = call.integer("num_heads"), call.inputs[0]
    batch, queries = query[:2]
    qk = v = query[-1] if len(query) == 5 else query[2] // heads
    keys = queries
    if call.inputs.has(1):
        key = call.inputs[1]
        keys = key[2] if len(key) == 4 else key[1]
    if call.inputs.has(2):
        value = call.inputs[2]
        v = value[3] if len(value) == 4 else value[2] // heads
    projected = heads * (queries * qk + keys * (qk + v)) if call.inputs.has(bias) else 0
    total = keys + (call.inputs[past][2] if call.inputs.has(past) else 0)
    if call.outputs.has(1):
        total = call.outputs[1][2]
    scores = _scores(call, batch, heads, queries * total, qk + v, call.inputs.has(score_bias))
    return batch * projected + scores


def decoder_attention(call: Call) -> int:
    """DecoderMaskedMultiHeadAttention: the same with other positions."""
    return multi_head_attention(call, bias=10, score_bias=4, past=5)


def group_query_attention(call: Call) -> int:
    """com.microsoft GroupQueryAttention, packed or not, with its optional rotary embedding (full head size)."""
    heads, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    batch, queries, width = call.inputs[0]
    size = width // heads if call.inputs.has(1) else width // (heads + 2 * groups)
    if call.outputs.has(1):
        keys = call.outputs[1][2]
    else:
        new = call.inputs[1][1] if call.inputs.has(1) else queries
        keys = new + (call.inputs[3][2] if call.inputs.has(3) else 0)
    rotary = 3 * batch * queries * (heads + groups) * size if call.integer("do_rotary", 0) else 0
    return rotary + _scores(call, batch, heads, queries * keys, 2 * size, call.inputs.has(10))


def rotary_embedding(call: Call) -> int:
    """Two multiplications and an addition per rotated element; ``rotary_embedding_dim`` limits them per head."""
    shape, rotated = call.inputs[0], call.integer("rotary_embedding_dim", 0)
    if not rotated:
        return 3 * prod(shape)
    if len(shape) == 4:
        return 3 * prod(shape[:-1]) * rotated
    return 3 * prod(shape[:-1]) * call.integer("num_heads") * rotated


# Operations per element of the state, per value of a head and per gate, of the recurrences in the op's documentation.
_RECURRENCES = {"linear": (3, 0, False), "gated": (4, 0, True), "delta": (5, 2, False), "gated_delta": (6, 2, True)}


def linear_attention(call: Call) -> int:
    """LinearAttention by its function body: the state updated and read once per token."""
    rule = call.text("update_rule", "gated_delta")
    if rule not in _RECURRENCES:
        raise UncountableError(f"update rule {rule!r}")
    per_state, per_value, gated = _RECURRENCES[rule]
    heads, groups = call.integer("q_num_heads"), call.integer("kv_num_heads")
    tokens = prod(call.inputs[0][:2])
    qk, v = call.inputs[0][2] // heads, call.inputs[2][2] // groups
    gates = prod(call.inputs[4]) * cost("Exp") if gated else 0
    update = groups * (per_state * qk * v + per_value * v)
    return gates + tokens * (update + heads * (2 * qk * v + v))
