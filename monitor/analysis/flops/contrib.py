"""The counting rules of com.microsoft: what ORT's optimizers make of a graph, and what quantized models carry."""

from __future__ import annotations

from functools import partial

from monitor.analysis.flops import attention as at
from monitor.analysis.flops import elementwise as ew
from monitor.analysis.flops import linear as li
from monitor.analysis.flops import reductions as red
from monitor.analysis.flops import sampling as sa
from monitor.analysis.flops.rule import Rule, arithmetic, movement, per_element, unknown
from monitor.analysis.flops.standard import LAYOUT, STANDARD

_SHARED = """
    CausalConvWithState DequantizeLinear GatherND GridSample LinearAttention Pad QLinearConv QuantizeLinear Range Trilu
    Unique
"""
CONTRIB: dict[str, Rule] = {
    # -- the same op as in ai.onnx
    **{name: STANDARD[name] for name in _SHARED.split()},
    "TransposeMatMul": arithmetic(li.fused_matmul, "as FusedMatMul", "documented formula"),
    # -- fusions
    "FusedConv": arithmetic(li.conv, "Conv, the addition of Z, the activation", "documented formula"),
    "NhwcConv": arithmetic(li.conv, "as Conv", "documented formula"),
    "NhwcFusedConv": arithmetic(li.conv, "as FusedConv", "documented formula"),
    "NhwcMaxPool": arithmetic(red.pool, "as MaxPool", "as the float op"),
    "MaxpoolWithMask": arithmetic(red.pool, "as MaxPool", "convention"),
    "ConvTransposeWithDynamicPads": arithmetic(li.dynamic_conv_transpose, "as ConvTranspose", "documented formula"),
    "FusedGemm": arithmetic(li.gemm, "Gemm and the activation", "documented formula"),
    "FusedMatMul": arithmetic(li.fused_matmul, "MatMul; alpha 1 per output element if not 1", "documented formula"),
    "FusedMatMulActivation": arithmetic(li.fused_matmul, "FusedMatMul and the activation", "documented formula"),
    "GemmFastGelu": arithmetic(
        lambda call: li.matmul(call, bias=2) + call.elements * ew.cost("FastGelu"),
        "MatMul, bias, FastGelu",
        "documented formula",
    ),
    "Gelu": per_element("Gelu", "function body"),
    "QuickGelu": per_element("Mul Sigmoid Mul", "documented formula"),
    "FastGelu": arithmetic(partial(red.biased_gelu, steps="FastGelu"), "bias 1, then 8 per element", "function body"),
    "BiasGelu": arithmetic(partial(red.biased_gelu, steps="Gelu"), "bias 1, then 5 per element", "function body"),
    "BiasSplitGelu": arithmetic(red.bias_split_gelu, "1 per input, 6 per output element", "documented formula"),
    "BiasAdd": per_element("Add Add", "documented formula"),
    "BiasSoftmax": arithmetic(red.bias_softmax, "6 per element: Add and Softmax", "documented formula"),
    "BiasDropout": arithmetic(
        lambda call: call.elements * (1 + call.inputs.has(2)),
        "inference: 1 per element for the bias, 1 for the residual",
        "documented formula",
    ),
    "ScaledSiLU": per_element("Mul Sigmoid Mul", "documented formula"),
    "SkipLayerNormalization": arithmetic(
        red.skip_layer_normalization, "1 per element each for skip and bias, LayerNormalization", "documented formula"
    ),
    "SkipSimplifiedLayerNormalization": arithmetic(
        red.skip_rms_normalization, "1 per element each for skip and bias, RMSNormalization", "documented formula"
    ),
    "EmbedLayerNormalization": arithmetic(
        red.embed_layer_normalization, "1 or 2 additions per element, LayerNormalization", "documented formula"
    ),
    "QEmbedLayerNormalization": arithmetic(
        red.embed_layer_normalization, "as EmbedLayerNormalization", "as the float op"
    ),
    "GroupNorm": arithmetic(red.channel_last_group_norm, "GroupNormalization, SiLU if asked for", "documented formula"),
    "SkipGroupNorm": arithmetic(
        red.skip_group_norm, "1 per element each for skip and bias, GroupNorm", "documented formula"
    ),
    # -- attention
    "Attention": arithmetic(
        at.projected_attention,
        "projection 2 x B x S x weights, bias; per score 2 x (dqk + dv), scale 1, Softmax 5, bias 1; no mask discount",
        "documented formula",
    ),
    "QAttention": arithmetic(at.quantized_attention, "as Attention", "as the float op"),
    "MultiHeadAttention": arithmetic(
        at.multi_head_attention, "as Attention without the projection; bias 1 per element", "documented formula"
    ),
    "DecoderMaskedMultiHeadAttention": arithmetic(at.decoder_attention, "as MultiHeadAttention", "documented formula"),
    "GroupQueryAttention": arithmetic(
        at.group_query_attention, "as MultiHeadAttention; softcap 3; rotary 3 per element", "documented formula"
    ),
    "RotaryEmbedding": arithmetic(at.rotary_embedding, "3 per rotated element", "documented formula"),
    "MRotaryEmbedding": arithmetic(at.rotary_embedding, "as RotaryEmbedding", "documented formula"),
    # -- quantized forms: as the float op, scales and zero points 0
    "QGemm": arithmetic(li.quantized_gemm, "2 x M x N x K; C 1 per output element", "as the float op"),
    "MatMulIntegerToFloat": arithmetic(
        partial(li.matmul, bias=6), "MatMul; bias 1 per output element", "as the float op"
    ),
    "DynamicQuantizeMatMul": arithmetic(
        partial(li.matmul, bias=4), "MatMul; bias 1 per output element", "as the float op"
    ),
    "MatMulInteger16": arithmetic(li.matmul, "MatMul", "as the float op"),
    "MatMulNBits": arithmetic(partial(li.matmul, bias=5), "MatMul; bias 1 per output element", "as the float op"),
    "MatMulBnb4": arithmetic(li.matmul, "MatMul", "as the float op"),
    "MatMulFpQ4": arithmetic(li.matmul, "MatMul", "as the float op"),
    "DynamicQuantizeLSTM": arithmetic(li.quantized_lstm, "LSTM", "as the float op"),
    "QLinearAdd": per_element("Add", "as the float op"),
    "QLinearMul": per_element("Mul", "as the float op"),
    "MulInteger": per_element("Mul", "as the float op"),
    "QLinearWhere": per_element("Where", "as the float op"),
    "QLinearSigmoid": per_element("Sigmoid", "as the float op"),
    "QLinearLeakyRelu": per_element("LeakyRelu", "as the float op"),
    "QOrderedGelu": per_element("Gelu", "as the float op"),
    "QLinearSoftmax": arithmetic(red.softmax, "Softmax", "as the float op"),
    "QLinearAveragePool": LAYOUT["QLinearAveragePool"],
    "QLinearGlobalAveragePool": arithmetic(red.per_input, "1 per input element", "as the float op"),
    "QLinearReduceMean": arithmetic(red.per_input, "1 per input element", "as the float op"),
    "ReduceSumInteger": arithmetic(red.per_input, "1 per input element", "as the float op"),
    # -- the rest
    "ComplexMul": per_element("Mul Mul Add", "documented formula"),
    "ComplexMulConj": per_element("Mul Mul Add", "documented formula"),
    "IsAllFinite": arithmetic(red.per_input, "1 per input element", "convention"),
    "Inverse": arithmetic(sa.inverse, "2 n^3 per matrix", "convention"),
    "CDist": arithmetic(sa.pairwise_distance, "3 per feature and pair; euclidean: 1 per pair", "convention"),
    "Rfft": arithmetic(sa.real_transform, "as DFT", "convention"),
    "Irfft": arithmetic(sa.real_transform, "as DFT", "convention"),
    "CropAndResize": arithmetic(sa.crop_and_resize, "7 per output element; nearest 0", "convention"),
    **movement(
        "ExpandDims GatherPacked QLinearConcat RemovePadding RestorePadding TorchEmbedding UnfoldTensor",
        "0; moves, selects or reinterprets values",
    ),
    **movement(
        "DequantizeBFP DequantizeWithOrder GatherBlockQuantized QuantizeBFP QuantizeWithOrder", "0; (de)quantizes"
    ),
    **movement("BitmaskDropout", "0; passes its input on at inference"),
    **movement("MurmurHash3 Tokenizer", "0; handles strings and hashes"),
}

UNKNOWN = {
    **unknown("EPContext Snpe", "a compiled graph; its source model tells"),
    **unknown("BeamSearch GreedySearch Sampling WhisperBeamSearch", "how often the decoder it contains runs is data"),
    **unknown("MoE MoEPacked QMoE", "the weights may be packed, and with them their shapes"),
    "SparseToDenseMatMul": "the number of non-zeros is data",
    "SampleOp": "an example without a purpose",
    **unknown(
        "AttnLSTM BifurcationDetector BitmaskBiasDropout BranchwiseRMSNorm ConvStateReplay DecoderAttention "
        "DecoderMaskedSelfAttention DynamicSparseAttention DynamicTimeWarping EngramGate GatedAdd GatedDeltaNet "
        "GatedDeltaNetStateReplay GatedRMSNorm GatedRelativePositionBias GemmFloat8 GemmaRotaryEmbedding "
        "HyperConnectionLowRankMix HyperConnectionPostMix HyperConnectionPreMix LinearAttentionGate "
        "LongformerAttention Mamba2Verify MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight "
        "MatMulNBitsMlp MatMulNBitsQLoRA MatMulNBitsQkv MatMulPacked MoEGroupRouter NGramHashMapping "
        "NGramRepeatBlock PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer "
        "PackedSparseAttentionIndexerMerge PagedAttention QOrderedAttention QOrderedLayerNormalization "
        "QOrderedLongformerAttention QOrderedMatMul RMSNormRotary RelativePositionBias RouterGateUpProj "
        "SparseAttention SparseAttentionIndexer SparsePagedAttention SpeculativePrefixCommit SwiGLU "
        "VarlenCausalConvWithState VarlenNGramHashMapping WordConvEmbedding",
        "no rule yet: not met in any board's model",
    ),
}
