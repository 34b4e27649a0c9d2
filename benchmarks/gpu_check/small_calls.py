"""A few small calls, forward and backward, for compute-sanitizer to watch: every dtype, sizes that fill no tile, and
variants of the cell.

The results are checked only for being finite. Sizes are small, as an instrumented kernel takes 10 to 100 times as
long; the larger H is there for the kernels that share a layer between several SMs. Prints what it did, so that a
log with nothing in it shows.
"""

from __future__ import annotations

import sys
from time import monotonic

SECONDS = 25.0  # no further call is started after this long
SIZES = ((3, 4, 7), (2, 3, 130), (3, 17, 33), (2, 2, 500), (2, 1, 1024))  # T, B, H
DTYPES = ("float32", "bfloat16", "float16")
VARIANTS = (  # all with lengths and resets
    {"recurrent_dropout": 0.3, "zoneout": 0.2},
    {"reset_after": False},
    {"layer_norm": "projections"},
    {"layer_norm": "sum"},
)


def main() -> int:
    import torch

    import gru_fused

    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    torch.manual_seed(0)
    end = monotonic() + SECONDS
    cases = [(size, name, {}) for size in SIZES for name in DTYPES]
    cases[3:3] = [(SIZES[i % 3], DTYPES[i % 3], options) for i, options in enumerate(VARIANTS)]  # before time is up
    calls = 0
    for (T, B, H), name, options in cases:
        if monotonic() > end:
            break
        dtype = getattr(torch, name)
        gru = gru_fused.GRU(5, H, bidirectional=H < 100, **options).to(device, dtype)
        x = torch.randn(T, B, 5).to(device, dtype).requires_grad_()
        marks = {}
        if options:
            marks = {"lengths": 1 + torch.arange(B, device=device) % T, "reset": torch.rand(T, B).to(device) < 0.3}
        with torch.no_grad():
            assert gru(x, **marks)[0].isfinite().all()
        output, h_n = gru(x, **marks)
        gradients = torch.autograd.grad((output, h_n), (x, *gru.parameters()), (output.detach(), h_n.detach()))
        assert all(gradient.isfinite().all() for gradient in gradients)
        calls += 1
        print(f"T{T} B{B} H{H} {name} {options or ''}: forward, backward", flush=True)
    print(f"{calls} of {len(cases)} cases")
    return 0 if calls else 1


if __name__ == "__main__":
    sys.exit(main())
