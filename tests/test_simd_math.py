"""sigmoid and tanh of the CPU kernels stay within a few units in the last place over all of their range."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from native.build import build_bindings, has


@pytest.fixture(scope="module", params=[("avx2", 32), ("avx512bw", 64)], ids=["avx2", "avx512"])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The vector arithmetic of each instruction set, which has its own text here and there."""
    instructions, vector_bytes = request.param
    if not has(instructions):
        pytest.skip(f"this machine has no {instructions}")
    return build_bindings(tmp_path_factory.mktemp("native"), vector_bytes)


def every_float(step: int) -> np.ndarray:
    """Every `step`-th of all finite float32 numbers, both signs."""
    bits = np.arange(0, 0x7F800000, step, dtype=np.uint32)
    return np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units in the last place of the exact result, in got's precision."""
    spacing = np.spacing(np.abs(exact).astype(got.dtype)).astype(exact.dtype)
    return np.abs(got.astype(exact.dtype) - exact) / spacing


def exact_sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return 1 / (1 + np.exp(-x))


def test_tanh_float32_has_under_3_ulps_error_everywhere(native: ModuleType) -> None:
    x = every_float(step=331)
    assert ulps(native.tanh_f32(x), np.tanh(x.astype(np.float64))).max() < 3


def test_sigmoid_float32_has_under_3_ulps_error_where_it_is_normal(native: ModuleType) -> None:
    x = every_float(step=331)
    x = x[x > -87]  # below, the result is under 2^-125
    assert ulps(native.sigmoid_f32(x), exact_sigmoid(x.astype(np.float64))).max() < 3
    assert (native.sigmoid_f32(np.array([-88, -200, -3e38], np.float32)) < 1e-38).all()


@pytest.mark.parametrize("name, exact, bound", [("tanh", np.tanh, 3.3), ("sigmoid", exact_sigmoid, 3)])
def test_float64_has_few_ulps_error(native: ModuleType, name: str, exact: object, bound: float) -> None:
    if np.finfo(np.longdouble).precision <= np.finfo(np.float64).precision:
        pytest.skip("this platform's long double is no wider than double")
    generator = np.random.default_rng(0)
    x = np.concatenate(
        [
            *(generator.uniform(-700, 40, 200_000), generator.normal(size=200_000) * 3, 10.0 ** -np.arange(300)),
            generator.uniform(-0.4, 0.4, 2_000_000),  # where tanh's error is largest
        ]
    )
    got = getattr(native, f"{name}_f64")(x)
    assert ulps(got, exact(x.astype(np.longdouble))).max() < bound


@pytest.mark.parametrize("bits", ["f32", "f64"])
def test_special_values(native: ModuleType, bits: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], {"f32": np.float32, "f64": np.float64}[bits])
    tanh, sigmoid = getattr(native, f"tanh_{bits}")(x), getattr(native, f"sigmoid_{bits}")(x)
    assert tanh[:4].tolist() == [0, 0, 1, -1] and np.isnan(tanh[4])
    assert sigmoid[:3].tolist() == [0.5, 0.5, 1] and sigmoid[3] < 1e-38 and np.isnan(sigmoid[4])


def test_every_half_is_decoded_exactly(native: ModuleType) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(native.decode_f16(bits), bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(native.decode_bf16(bits), (bits.astype(np.uint32) << 16).view(np.float32))


def test_float_is_rounded_to_half_as_ieee_says(native: ModuleType) -> None:
    x = np.concatenate([every_float(step=4999), np.array([np.inf, -np.inf, np.nan], np.float32)])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(native.encode_f16(x).view(np.float16), x.astype(np.float16))


def test_float_is_rounded_to_bfloat16_as_torch_does(native: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([every_float(step=4999), np.array([np.inf, -np.inf], np.float32)])
    expected = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(native.encode_bf16(x), expected)
    assert np.isnan(native.decode_bf16(native.encode_bf16(np.array([np.nan], np.float32)))).all()
