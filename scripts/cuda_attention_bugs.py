# scripts/cuda_attention_bugs.py: bugs of fused attention on CUDA, for inject_cuda_bugs.py: name, file, the right text and the wrong one.
FORWARD, SCORES, ITEM, WALK, PRODUCT, CAREFUL, RESULTS, JOIN = (
    f"src/cuda/kernels/attention/{name}.cuh"
    for name in ("forward", "scores", "item", "walk", "product", "careful_product", "results", "join")
)

FORWARD_BUGS = [
    (
        "attention: the wait for copies dropped",
        FORWARD,
        "wait_copies<1>();\n      sync_threads();\n      if (!groups",
        "sync_threads();\n      if (!groups",
    ),
    (
        "attention: no barrier before the scores",
        FORWARD,
        "wait_copies<1>();\n      sync_threads();\n      if (!groups",
        "wait_copies<1>();\n      if (!groups",
    ),
    ("attention: no barrier behind a tile", FORWARD, "kBytesColumns, groups);\n      sync_threads();", "kBytesColumns, groups);"),
    ("attention: no change of stages", FORWARD, "if constexpr (kStages == 2) stage ^= 1;", ""),
    ("attention: earlier sums not rescaled", FORWARD, "    scale_rows(sums, rescale);\n", ""),
    ("attention: the maximum of a lane alone", FORWARD, "      highest[h] = of_four(highest[h], false);\n", ""),
    ("attention: an earlier total not rescaled", FORWARD, "fused_multiply_add(total[h], rescale[h], sum)", "total[h] + sum"),
    (
        "attention: -inf subtracted from -inf",
        FORWARD,
        "highest[h] == minus_infinity<Sum>() ? Sum{0} : highest[h] * factor",
        "highest[h] * factor",
    ),
    ("attention: keys of the wrong head", FORWARD, "item.head / launch.group", "item.head"),
    ("attention: weights of zero counted", CAREFUL, "if (weight[h] != 0) two", "two"),
    ("attention: a key too many on the left", SCORES, "column < low ||", "column + 1 < low ||"),
    ("attention: a key too many on the right", SCORES, "|| column >= high", "|| column > high"),
    ("attention: the band's edge not masked", SCORES, "begin_of(first_row + kWarpRows - 1) > 0 ||", ""),
    (
        "attention: the last group of keys left out",
        SCORES,
        "((end < columns ? end : columns) + 15) / 16",
        "(end < columns ? end : columns) / 16",
    ),
    ("attention: a bias of -inf added", SCORES, "bias == minus_infinity<Sum>() ? bias : fused", "fused"),
    ("attention: the cap before the scale", SCORES, "static_cast<Sum>(scale / softcap)", "static_cast<Sum>(1 / softcap)"),
    ("attention: four keys' words for others", SCORES, "ByKeys || e == 0 || key >> 2 != drawn", "ByKeys || e == 0"),
    ("attention: dropout of another sequence", SCORES, "sequence, head, query, key)", "sequence + 1, head, query, key)"),
    (
        "attention: a global key in the window counts twice",
        SCORES,
        " || in_window(item.band, launch.dilation, query, key)) score",
        ") score",
    ),
    (
        "attention: a later global key is seen",
        SCORES,
        "(item.band.right > 0 || key <= query + item.band.shift)",
        "(query < item.band.rows)",
    ),
    ("attention: blocks of another sequence", ITEM, "/ span + middle <= *block", "/ span + middle < *block"),
    ("attention: the length of an entry not read", ITEM, "number_at(launch.key_lengths, number, 0, launch.band.cols)", "launch.band.cols"),
    ("attention: a last key left out", WALK, "tile.first + Columns < columns.end", "tile.first + Columns + 1 < columns.end"),
    ("attention: the sink has no share", RESULTS, "own = sink == top ? Sum{1} : power_of_two(sink - top)", "own = 0"),
    (
        "attention: parts joined without their maxima",
        JOIN,
        "launch.value_dim) - top)",
        "launch.value_dim) - number(results, row, split, launch.value_dim))",
    ),
    (
        "attention: weights in another order",
        PRODUCT,
        "pack<E>(s[2], s[3]), pack<E>(next[0], next[1])",
        "pack<E>(next[0], next[1]), pack<E>(s[2], s[3])",
    ),
    ("tf32 attention: weights in another order", PRODUCT, "std::bit_cast<std::uint32_t>(s[2])", "std::bit_cast<std::uint32_t>(s[1])"),
]
