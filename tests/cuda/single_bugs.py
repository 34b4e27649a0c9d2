"""Planted bugs in the kernels that make all products of a single step."""

from __future__ import annotations

from bugs import Bug

SINGLE_BUGS = [
    Bug(
        "the-shares-of-a-sum-over-the-gates-do-not-wait",
        "single_gradients.cu",
        "+ lane] = sums[i];\n  __syncthreads();",
        "+ lane] = sums[i];",
        "steps",
        "backward",
        "thread",
    ),
    Bug(
        "gates-in-shared-memory-that-are-not-awaited",
        "single_gradients.cu",
        "    __syncthreads();\n    const Value* const mine",
        "    const Value* const mine",
        "steps",
        "backward",
        "thread",
    ),
    Bug(
        "biases-of-gates-that-are-not-there",
        "single_gradients.cu",
        "  if (of_bias && row + column < rows)",
        "  if (of_bias)",
        "steps",
        "backward",
        "address",
    ),
    Bug(
        "rows-of-a-tile-that-are-not-there",
        "single_gradients.cu",
        "of_row < count && from + k < gates;",
        "from + k < gates;",
        "steps",
        "backward",
        "address",
    ),
    Bug(
        "a-single-step-reads-sixteen-bytes-anywhere",
        "single_forward.cu",
        "  return is_aligned(call) ? run<kRows, true>",
        "  return true ? run<kRows, true>",
        "steps",
        "forward",
        "numbers",
    ),
    Bug(
        "rows-of-a-single-step-that-are-not-there",
        "single_forward.cu",
        "first + (row < count ? row : count - 1)",
        "first + row",
        "steps",
        "forward",
        "address",
    ),
    Bug(
        "every-row-of-a-single-step-is-the-first-lanes",
        "single_forward.cu",
        "      if (lane == row) mine[i] = sums[i];",
        "      if (lane == 0) mine[i] = sums[i];",
        "steps",
        "forward",
        "numbers",
    ),
    Bug(
        "a-single-step-makes-units-that-are-not-there",
        "single_forward.cu",
        "  if (unit >= H) return;\n",
        "",
        "steps",
        "forward",
        "address",
    ),
    Bug(
        "a-single-steps-directions-share-their-blocks",
        "single_forward.cu",
        "int64_t(others / unsigned(shape.directions)) * kRows",
        "int64_t(others) * kRows",
        "steps",
        "forward",
        "any",
    ),
]
