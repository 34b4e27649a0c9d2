"""How the CPU kernels cut a call into shares, tiles and chunks: a pure function, so each choice can be pinned."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.mark.parametrize(
    "shape, expected",
    [
        (dict(steps=1, batch=1, hidden=256), dict(shares=1, tile_rows=1, chunk_steps=1, packed=False, parallel=False)),
        (dict(steps=100, batch=1, hidden=256, threads=2), dict(shares=1, team=2, chunk_steps=100, packed=True)),
        (dict(steps=1, batch=48, hidden=480), dict(shares=1, tile_rows=48, packed=True, once=True)),
        (dict(steps=1, batch=48, hidden=480, threads=2), dict(shares=1, team=2, packed=True, once=True)),
        (dict(steps=2, batch=48, hidden=480), dict(packed=True, chunk_steps=2, once=True)),
        (dict(steps=6, batch=48, hidden=480), dict(packed=True, chunk_steps=5, once=False)),
        (dict(steps=1, batch=300, hidden=64), dict(packed=True, once=False)),
        (dict(steps=1, batch=16, hidden=480), dict(packed=False, once=False)),
        # wide: a row for every 24 KiB of a weight, 256 at most
        (dict(steps=1, batch=112, inputs=480, hidden=480, wide=True), dict(packed=False, shares=1, tile_rows=56)),
        (dict(steps=1, batch=113, inputs=480, hidden=480, wide=True), dict(packed=True)),
        (dict(steps=8, batch=14, inputs=480, hidden=480, wide=True), dict(packed=False)),
        (dict(steps=8, batch=15, inputs=480, hidden=480, wide=True), dict(packed=True)),
        (dict(steps=1, batch=256, inputs=2048, hidden=2048, wide=True), dict(packed=False)),
        (dict(steps=1, batch=257, inputs=2048, hidden=2048, wide=True), dict(packed=True)),
        (dict(steps=1, batch=16, inputs=4, hidden=8, wide=True), dict(packed=False)),
        (dict(steps=1, batch=17, inputs=128, hidden=128, wide=True), dict(packed=True)),
        (dict(steps=9, batch=3, inputs=480, hidden=480, wide=True), dict(packed=True)),  # three go together
        (dict(steps=8, batch=7, inputs=480, hidden=480, threads=2, wide=True), dict(packed=True)),  # three or four
        (dict(steps=8, batch=8, inputs=480, hidden=480, threads=2, wide=True), dict(packed=False, shares=2)),
        (dict(steps=1, batch=60, inputs=480, hidden=480, wide=True, backward=True), dict(packed=True)),
        (dict(steps=100, batch=1, hidden=64, threads=2), dict(team=1, parallel=False)),  # a step is too short to meet
        (dict(steps=300, batch=3, hidden=512, threads=8), dict(shares=3, team=2, parallel=True)),
        (dict(steps=100, batch=1, hidden=256, directions=2, threads=4), dict(shares=1, team=2)),
        (dict(steps=16, batch=1, hidden=512, threads=2), dict(team=2, packed=False, parallel=True, brief=False)),
        (dict(steps=16, batch=1, hidden=512, threads=2, backward=True), dict(team=1, packed=False)),
        (dict(steps=1, batch=1, hidden=256, inputs=256, threads=2), dict(team=2, packed=False, brief=True)),
        (dict(steps=8, batch=1, hidden=384, inputs=256, threads=2), dict(team=2, packed=False, brief=False)),
        (dict(steps=1, batch=1, hidden=128, inputs=128, threads=2), dict(team=1, parallel=False)),  # too short to share
        (dict(steps=100, batch=1, hidden=64), dict(chunk_steps=100)),  # no chunk is longer than the sequence
        (dict(steps=300, batch=1, hidden=64), dict(chunk_steps=256)),
        (dict(steps=300, batch=1, hidden=2048), dict(chunk_steps=128)),  # 4 MiB of gates
        (dict(steps=100, batch=32, hidden=512, threads=2), dict(shares=2, share_rows=16, tile_rows=16, chunk_steps=16)),
        (dict(steps=50, batch=64, inputs=64, hidden=256), dict(whole=True, chunk_steps=1)),  # both panels stay near
        (dict(steps=50, batch=64, inputs=256, hidden=256), dict(whole=False, chunk_steps=4)),
        (dict(steps=50, batch=15, inputs=64, hidden=256), dict(whole=False, chunk_steps=17)),  # too few rows
        (dict(steps=50, batch=64, inputs=512, hidden=512, tiles=True), dict(whole=True)),  # W_ih costs less than sums
        (dict(steps=50, batch=64, inputs=520, hidden=512, tiles=True), dict(whole=False, chunk_steps=4)),
        (dict(steps=50, batch=16, inputs=256, hidden=256, tiles=True), dict(whole=True)),  # both weights stay near
        (dict(steps=50, batch=16, inputs=512, hidden=512, tiles=True), dict(whole=False, chunk_steps=16)),
        (dict(steps=1, batch=15, inputs=64, hidden=256), dict(whole=False, packed=False)),
        (dict(steps=1, batch=17, inputs=64, hidden=256), dict(whole=True, packed=True, once=True)),
        (dict(steps=50, batch=64, inputs=64, hidden=256, backward=True), dict(whole=False, chunk_steps=4)),
        (dict(steps=4, batch=32, inputs=64, hidden=128, threads=2), dict(team=2, whole=False, chunk_steps=4)),
        (dict(steps=1, batch=32, inputs=64, hidden=128, threads=2), dict(team=2, whole=True)),
        (dict(steps=50, batch=64, hidden=512), dict(shares=1, tile_rows=64, chunk_steps=4)),
        (dict(steps=100, batch=1, hidden=256, directions=2, threads=2), dict(shares=1, parallel=True)),
        (dict(steps=10, batch=1920, hidden=64, threads=2), dict(shares=2, share_rows=960, tile_rows=64, parallel=True)),
        (dict(steps=10, batch=65, hidden=64), dict(share_rows=65, tile_rows=33)),  # even tiles
        (dict(steps=1, batch=240, hidden=128), dict(tile_rows=240)),  # a single step is one tile
        (dict(steps=1, batch=240, hidden=512), dict(tile_rows=60)),  # or leaves room for the weights beside it
        (dict(steps=1, batch=240, hidden=512, backward=True), dict(tile_rows=240)),  # not where gradients pass by
        # few rows in all: the weights' gradients would cost more than the rows
        (dict(steps=1, batch=240, hidden=512, threads=2), dict(shares=1, team=2, parallel=True)),
        (dict(steps=1, batch=1024, hidden=256, threads=2), dict(shares=2, team=1, tile_rows=128)),
        (dict(steps=5, batch=3, hidden=4, threads=16), dict(shares=1, parallel=False)),  # too little work to share
        (dict(steps=5, batch=0, hidden=4, threads=2), dict(shares=0, tile_rows=0)),
    ],
    ids=lambda value: "-".join(f"{key}{number}" for key, number in value.items()),
)
def test_plan(native: ModuleType, shape: dict[str, int], expected: dict[str, int]) -> None:
    plan = native.plan(**shape)
    assert {key: plan[key] for key in expected} == expected


def test_steps_of_a_packed_batch_are_whole_if_most_have_many_rows(native: ModuleType) -> None:
    def whole(*batch_sizes: int) -> bool:
        sizes = list(batch_sizes)
        shape = dict(steps=len(sizes), batch=sizes[0], inputs=8, hidden=32)
        return native.plan(**shape, batch_sizes=sizes)["whole"]

    assert whole(*[32] * 10) and whole(*[32] * 10, 1, 1)
    assert not whole(*[32] * 10, *[1] * 100)  # W_ih would be read for each of the last steps
    assert whole(*[80] * 10) and not whole(*[80] * 10, *[8] * 30)  # 26 rows on average, of two tiles


def test_shares_cover_every_row_once_and_none_is_empty(native: ModuleType) -> None:
    for batch in range(1, 300):
        for threads in (1, 2, 3, 16):
            plan = native.plan(steps=50, batch=batch, hidden=128, threads=threads)
            assert (plan["shares"] - 1) * plan["share_rows"] < batch <= plan["shares"] * plan["share_rows"]
            assert 1 <= plan["tile_rows"] <= min(64, plan["share_rows"])
