"""The counting rules of ai.onnx, up to opset 28, of the layout variants that ORT makes of it, and of ai.onnx.ml."""

from __future__ import annotations

from math import prod

from monitor.analysis.flops import attention as at
from monitor.analysis.flops import elementwise as ew
from monitor.analysis.flops import linear as li
from monitor.analysis.flops import reductions as red
from monitor.analysis.flops import sampling as sa
from monitor.analysis.flops.call import Call
from monitor.analysis.flops.rule import Rule, arithmetic, control, each, movement, per_element, unknown

STANDARD: dict[str, Rule] = {
    # -- one primitive, or a spelled function, per element
    **{name: per_element(name, "primitive") for name in sorted(ew.PRIMITIVES)},
    **{name: per_element(steps, "function body") for name, steps in ew.BODIES.items()},
    **{name: per_element(steps, "documented formula") for name, steps in ew.FORMULAS.items()},
    "Clip": arithmetic(ew.clip, "2 per output element and given bound: Less Where", "function body"),
    "Gelu": arithmetic(ew.gelu, "5 per output element, 8 if approximate=tanh", "function body"),
    **each("Sum Max Min", arithmetic(ew.fold, "operands - 1 per output element", "documented formula")),
    "Mean": arithmetic(ew.mean, "operands per output element: n - 1 Add, Div", "documented formula"),
    # -- multiply-accumulates
    "Conv": arithmetic(li.conv, "2 x output x (Cin / group) x kernel; bias 1 per output element", "documented formula"),
    "ConvInteger": arithmetic(li.integer_conv, "as Conv; zero points 0", "as the float op"),
    "QLinearConv": arithmetic(li.quantized_conv, "as Conv; scales and zero points 0", "as the float op"),
    "ConvTranspose": arithmetic(
        li.conv_transpose, "2 x input x (Cout / group) x kernel; bias 1 per output element", "documented formula"
    ),
    "DeformConv": arithmetic(
        li.deform_conv, "as Conv; 2^(d+1) - 1 per interpolated tap, 1 more with a mask", "documented formula"
    ),
    "CausalConvWithState": arithmetic(li.causal_conv, "as Conv, depthwise; activation", "documented formula"),
    "MatMul": arithmetic(li.matmul, "2 x output x K", "documented formula"),
    "MatMulInteger": arithmetic(li.matmul, "as MatMul; zero points 0", "as the float op"),
    "QLinearMatMul": arithmetic(li.matmul, "as MatMul; scales and zero points 0", "as the float op"),
    "Gemm": arithmetic(
        li.gemm, "2 x M x N x K; C 1 per output element; alpha, beta 1 per element if not 1", "documented formula"
    ),
    "Einsum": arithmetic(
        li.einsum, "left to right: 1 multiplication per point, 1 addition if an index is summed", "convention"
    ),
    **each(
        "RNN GRU LSTM",
        arithmetic(
            li.recurrent,
            "2 x (W + R) per step and batch; gates, biases, peepholes, activations per hidden unit; full length",
            "documented formula",
        ),
    ),
    "Attention": arithmetic(
        at.attention,
        "per score: 2 x (dqk + dv), mask 1, Softmax 5, Where 1, softcap 3; dqk per Q and K row; no mask discount",
        "function body",
    ),
    "LinearAttention": arithmetic(
        at.linear_attention, "per token: 3-6 x dk x dv per KV head, 2 x dk x dv + dv per query head", "function body"
    ),
    "RotaryEmbedding": arithmetic(at.rotary_embedding, "3 per rotated element: Mul Mul Add", "documented formula"),
    # -- reductions and pooling
    **each(
        "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ArgMax ArgMin CumSum CumProd Hardmax GlobalAveragePool "
        "GlobalMaxPool Col2Im",
        arithmetic(red.per_input, "1 per input element", "convention"),
    ),
    **each("ReduceL1 ReduceSumSquare", arithmetic(red.reduce_pre, "2 per input element", "function body")),
    "ReduceLogSum": arithmetic(red.reduce_post, "1 per input, 1 per output element", "function body"),
    **each(
        "ReduceL2 ReduceLogSumExp", arithmetic(red.reduce_both, "2 per input, 1 per output element", "function body")
    ),
    **each("MaxPool AveragePool", arithmetic(red.pool, "kernel per output element", "convention")),
    "LpPool": arithmetic(red.lp_pool, "3 x kernel + 1 per output element", "documented formula"),
    "GlobalLpPool": arithmetic(red.global_lp_pool, "3 per input, 1 per output element", "documented formula"),
    # -- normalizations, softmax, losses
    "Softmax": arithmetic(red.softmax, "5 per element: ReduceMax Sub Exp ReduceSum Div", "function body"),
    "LogSoftmax": arithmetic(red.log_softmax, "5 per element, 1 per row", "function body"),
    "LayerNormalization": arithmetic(red.layer_normalization, "6 per element, 7 with bias; 5 per row", "function body"),
    "RMSNormalization": arithmetic(red.rms_normalization, "4 per element, 2 per row", "function body"),
    "SimplifiedLayerNormalization": arithmetic(red.rms_normalization, "as RMSNormalization", "convention"),
    "GroupNormalization": arithmetic(red.group_normalization, "7 per element, 4 per group", "function body"),
    "InstanceNormalization": arithmetic(
        red.instance_normalization, "as GroupNormalization, a channel a group", "documented formula"
    ),
    "BatchNormalization": arithmetic(
        red.batch_normalization, "inference: 4 per element, 2 per channel", "documented formula"
    ),
    "MeanVarianceNormalization": arithmetic(
        red.mean_variance_normalization, "5 per element, 4 per group", "function body"
    ),
    "LpNormalization": arithmetic(red.lp_normalization, "3 per element; p = 2: 1 per row", "documented formula"),
    "LRN": arithmetic(red.lrn, "size + 5 per element", "documented formula"),
    "NegativeLogLikelihoodLoss": arithmetic(
        red.negative_log_likelihood, "1-4 per target (weights, reduction)", "function body"
    ),
    "SoftmaxCrossEntropyLoss": arithmetic(
        red.cross_entropy, "LogSoftmax and NegativeLogLikelihoodLoss", "function body"
    ),
    # -- resampling, transforms, selection
    "Resize": arithmetic(sa.resize, "2 x taps - 1 per output element; nearest 0", "convention"),
    "Upsample": arithmetic(sa.resize, "as Resize", "convention"),
    "GridSample": arithmetic(sa.grid_sample, "2 x taps - 1 per output element; nearest 0", "convention"),
    "AffineGrid": arithmetic(sa.affine_grid, "24 per point and batch, 4 per point", "function body"),
    "RoiAlign": arithmetic(
        sa.roi_align, "8 per sample; sampling_ratio 0: unknown, the number of samples is data", "convention"
    ),
    "DFT": arithmetic(sa.dft, "5 n log2 n per transform, half if one side is real", "convention"),
    "STFT": arithmetic(sa.stft, "as DFT per frame; window 1 per sample", "convention"),
    "Det": arithmetic(sa.determinant, "2/3 n^3 per matrix", "convention"),
    "TopK": arithmetic(sa.top_k, "log2 k (at least 1) per input element", "convention"),
    "Unique": arithmetic(sa.unique, "log2 n per element", "convention"),
    "Multinomial": arithmetic(sa.multinomial, "4 per class, log2(classes) per sample", "convention"),
    **each(
        "ScatterElements ScatterND",
        arithmetic(sa.scatter, "1 per update if it reduces (add, mul, max, min), else 0", "convention"),
    ),
    # -- no arithmetic
    **control("If Loop Scan SequenceMap"),
    **movement(
        "BitCast Cast CastLike CenterCropPad Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace "
        "Expand EyeLike Flatten Gather GatherElements GatherND Identity MaxUnpool MemcpyFromHost MemcpyToHost NonZero "
        "OneHot Pad Reshape ReverseSequence Scatter Shape Size Slice SpaceToDepth Split Squeeze TensorScatter Tile "
        "Transpose Trilu Unsqueeze",
        "0; moves, selects or reinterprets values",
    ),
    **movement(
        "Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty SequenceErase "
        "SequenceInsert SequenceLength SplitToSequence",
        "0; handles containers",
    ),
    **movement("QuantizeLinear DequantizeLinear DynamicQuantizeLinear", "0; (de)quantizes, its range search included"),
    **movement("Dropout", "0; passes its input on at inference"),
    **movement("RandomNormal RandomNormalLike RandomUniform RandomUniformLike", "0; generates values"),
    **movement("RegexFullMatch StringConcat StringNormalizer StringSplit", "0; handles strings"),
}

# What cannot be told from shapes and attributes.
UNKNOWN = {
    "NonMaxSuppression": "compares until it has enough boxes: data",
    "MaxRoiPool": "the size of each pooled region is data",
    "ImageDecoder": "the cost of decoding is up to format and data",
    "TfIdfVectorizer": "searches n-grams in a pool that is an attribute",
}

# Ops that only exist in the layouts ORT rewrites a model into; the others keep their names and are counted alike.
LAYOUT: dict[str, Rule] = {
    "QLinearConvTranspose": arithmetic(
        li.quantized_conv_transpose, "as ConvTranspose; scales and zero points 0", "as the float op"
    ),
    "QLinearAveragePool": arithmetic(red.pool, "as AveragePool", "as the float op"),
    **movement("ReorderInput ReorderOutput", "0; changes the layout"),
}


def _linear_scores(call: Call) -> int:
    """Scores of N targets from C features: N x C MACs and the intercept."""
    scores = call.outputs[1 if call.node.op_type == "LinearClassifier" else 0]
    return prod(scores) * (2 * call.inputs[0][-1] + 1)


ML: dict[str, Rule] = {
    "Binarizer": per_element("Greater", "documented formula"),
    "Imputer": per_element("Equal Where", "documented formula"),
    "Normalizer": per_element("Abs Add Div", "documented formula"),
    "Scaler": per_element("Sub Mul", "documented formula"),
    "LinearClassifier": arithmetic(_linear_scores, "2 x features + 1 per score", "documented formula"),
    "LinearRegressor": arithmetic(_linear_scores, "2 x features + 1 per output", "documented formula"),
    **movement(
        "ArrayFeatureExtractor CastMap CategoryMapper DictVectorizer FeatureVectorizer LabelEncoder OneHotEncoder "
        "ZipMap",
        "0; moves, looks up or casts",
    ),
}

ML_UNKNOWN = {
    **unknown("SVMClassifier SVMRegressor", "the support vectors are attributes that records do not carry"),
    **unknown("TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor", "the path through each tree is data"),
}
