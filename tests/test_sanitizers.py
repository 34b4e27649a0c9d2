"""The CPU kernels touch no memory but their own, race with nothing, and are right for every vector width.

tests/native/kernels_check.cpp (forward and backward), variants_check.cpp (those of the cell's variants) and
sweeps_check.cpp (the second order) run them over random shapes, packed and padded, against plain loops in double.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from native.build import AVX2, COMMON, CSRC, CXX, HERE, compile_all, has, run

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the program names x86-64's instruction sets")

CASES, FEW_CASES = 400, 100  # few: under the thread sanitizer, which is slow
# The ways of cores (core.h): on one that asks for weights early small weights and few rows are as if they were many.
EARLY = ["-DGRU_FUSED_CORE=zen5", "-DGRU_FUSED_FAR_WEIGHTS=2048", "-DGRU_FUSED_NEAR_BYTES=2048"]
LATE, ZEN3, GOLDEN_COVE = (f"-DGRU_FUSED_CORE={core}" for core in ("other", "zen3", "golden_cove"))
PROGRAMS = ["kernels_check", "variants_check", "sweeps_check"]


@pytest.mark.parametrize(
    "name, flags",
    [  # not optimised: that takes g++ four to six minutes for each of the files with the kernels
        ("base", ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *EARLY]),
        ("base", ["-O0", "-g", "-fsanitize=thread", LATE]),
        ("avx2", ["-O0", "-fsanitize=address", ZEN3]),
        # 64-byte vectors, in two AVX2 halves: the code of AVX-512 on machines that have none.
        ("avx512", ["-O0", *EARLY]),
        ("avx512_bf16", ["-O0", LATE]),  # pairs of bfloat16, multiplied the long way
        ("amx_bf16", ["-O0", "-fsanitize=address", GOLDEN_COVE, "-DGRU_FUSED_WORTH_MANY_ROWS=0"]),  # and tiles
    ],
    ids=["base-address-undefined-early", "base-thread", "avx2-address", "wide-early", "wide-bf16", "tiles"],
)
def test_kernels_are_right_and_clean(name: str, flags: list[str], tmp_path: Path) -> None:
    if name != "base" and not has("avx2"):
        pytest.skip("this machine has no AVX2")
    cases = FEW_CASES if "-fsanitize=thread" in flags else CASES
    built = {name, "avx512"} if name.endswith("_bf16") else {name}  # which adds to avx512
    others = {"base", "avx2", "avx512", "avx512_bf16", "amx_bf16"} - built
    stubs = tmp_path / "stubs.cpp"  # the program can run any instruction set; this build has one
    stubs.write_text(
        f'#include "{CSRC}/cpu/kernels.h"\n#include <cstdlib>\n'
        + "".join(
            f"const gru_fused::cpu::Kernels& gru_fused::cpu::kernels_{other}() {{ std::abort(); }}\n"
            for other in sorted(others)
        )
    )
    sources = {
        **{CSRC / f"cpu/isa_{one}.cpp": [*flags, *([] if name == "base" else AVX2)] for one in built},
        **{HERE / f"{program}.cpp": flags for program in PROGRAMS},
        CSRC / "cpu/plan.cpp": flags,
        CSRC / "cpu/other_work.cpp": flags,
        stubs: flags,
    }
    compiled = compile_all(sources, tmp_path)
    for program in PROGRAMS:
        others = {f"{HERE.name}_{other}" for other in PROGRAMS if other != program}
        objects = [str(path) for path in compiled if path.stem not in others]
        run([CXX, *COMMON, *flags, *objects, "-o", str(tmp_path / program), "-lpthread"])
        assert f"{name}: {cases} cases, 0 wrong" in run([str(tmp_path / program), name, str(cases)])
