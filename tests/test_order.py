"""Orders, group sizes, schedules and attention layouts against slow loops (docs/vgt.md 2.4, 2.11, 2.12; docs/mar.md 1.3
and 3)."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch

from vgt.equations import order

ONES = [1] * 13
COSINE = {  # docs/mar.md 1.3 of 256 tokens
    256: [1] * 256,
    64: ONES + [2, 3, 2, 2, 3, 3, 3, 3, 3, 3, 4, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 4, 5, 5, 5, 5, 5, 6, 5, 5, 6, 5, 6, 6, 6,
                5, 6, 6, 6, 6, 6, 6, 7, 6, 6, 6, 6, 7, 6, 6, 6],
    32: [1, 1, 1, 2, 3, 4, 3, 5, 5, 6, 6, 7, 7, 8, 8, 8, 10, 9, 10, 10, 11, 11, 11, 12, 11, 12, 12, 13, 12, 12, 13, 12],
    16: [2, 3, 7, 8, 11, 13, 15, 16, 19, 20, 22, 23, 23, 25, 24, 25],
}  # fmt: skip


@pytest.mark.parametrize("steps", COSINE)
def test_cosine_table(steps):
    assert order.cosine_sizes(256, steps) == COSINE[steps]


def test_every_cosine_schedule_reveals_each_step_and_everything():
    for n in (1, 2, 3, 7, 16, 64):
        for steps in range(1, n + 1):
            sizes = order.cosine_sizes(n, steps)
            assert len(sizes) == steps and sum(sizes) == n and min(sizes) >= 1


@pytest.mark.parametrize(
    ("n", "acceleration", "expected"),
    [
        (256, 1, [1] * 256),
        (256, 16, [16] * 16),
        (10, 3, [4, 3, 3]),
        (64, 48, [64]),
        (7, 2, [3, 2, 2]),
        (5, 5, [5]),
    ],
)
def test_group_sizes(n, acceleration, expected):
    assert order.group_sizes(n, acceleration) == expected


def test_group_sizes_add_up():
    for n in range(1, 40):
        for acceleration in range(1, n + 1):
            sizes = order.group_sizes(n, acceleration)
            assert sum(sizes) == n and len(sizes) == max(1, n // acceleration)
            assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


GRIDS = [(1, 1), (1, 7), (3, 5), (4, 4), (8, 8), (7, 9)]


def spread(grid, acceleration, schedule="equal", rows=20):
    """Sizes of the groups, random orders, and those that are spread."""
    n = grid[0] * grid[1]
    sizes, random = order.step_sizes(n, acceleration, schedule), order.random_orders(n, rows, torch.Generator())
    return sizes, random, order.decode_orders("spread", random, sizes, grid)


def distances(orders, sizes, grid):
    """Mean distance of a place to the nearest one of its group, and to the nearest one decoded before, by a loop."""
    mates, decoded = [], []
    for row in orders.tolist():
        places, done = [divmod(i, grid[1]) for i in row], 0
        for m in sizes:
            group = places[done : done + m]
            for k, here in enumerate(group):
                others = [math.dist(here, there) for j, there in enumerate(group) if j != k]
                mates += [min(others)] if others else []
                decoded += [min(math.dist(here, there) for there in places[:done])] if done else []
            done += m
    return mean(mates) if mates else 0, mean(decoded) if decoded else 0


@pytest.mark.parametrize("schedule", ["equal", "cosine"])
@pytest.mark.parametrize("grid", GRIDS)
def test_spread_orders_hold_every_place_once(grid, schedule):
    n = grid[0] * grid[1]
    for acceleration in range(1, n + 1):
        _, random, made = spread(grid, acceleration, schedule, rows=3)
        assert made.dtype == torch.int64 and torch.equal(made.sort(1).values, torch.arange(n).expand(3, -1))
        assert torch.equal(
            order.spread_orders(random[1:2], order.step_sizes(n, acceleration, schedule), grid)[0], made[1]
        )


@pytest.mark.parametrize("schedule", ["equal", "cosine"])
@pytest.mark.parametrize(
    ("grid", "acceleration"), [((4, 4), 2), ((4, 4), 4), ((8, 8), 4), ((8, 8), 16), ((7, 9), 8), ((16, 16), 16)]
)
def test_groups_are_spread_and_near_what_is_decoded(grid, acceleration, schedule):
    """Against random orders: those of a group are farther from each other, and nearer to what is decoded."""
    sizes, random, made = spread(grid, acceleration, schedule, rows=10)
    (mates, decoded), (usual_mates, usual_decoded) = distances(made, sizes, grid), distances(random, sizes, grid)
    assert mates > 1.1 * usual_mates and decoded < 0.95 * usual_decoded


def test_one_place_at_a_time_grows_from_a_random_one():
    """Each place beside one that is decoded; beginnings and ties are random."""
    sizes, random, made = spread((5, 6), 1, rows=200)
    assert distances(made, sizes, (5, 6)) == (0, 1)
    assert torch.equal(made[:, 0], random[:, 0]) and len(made[:, 0].unique()) == 30
    assert {int(b - a) for a, b in made[:, :2]} == {-6, -1, 1, 6}


def test_orders_by_hand():
    """2 x 3 places, two at a time, ties in raster order: 0 and 2, which is far enough; 1, and 3 because 5 comes later;
    the rest."""
    random = torch.tensor([[0, 1, 2, 3, 4, 5]])
    assert order.decode_orders("spread", random, [2, 2, 2], (2, 3)).tolist() == [[0, 2, 1, 3, 4, 5]]
    assert order.decode_orders("raster", random.flip(1), [6], (2, 3)).tolist() == random.tolist()
    assert order.decode_orders("random", random.flip(1), [6], (2, 3)).tolist() == random.flip(1).tolist()


def test_sizes_and_grid_of_a_spread_order_belong_together():
    random = torch.arange(16)[None]
    for sizes, grid in (([8, 7], (4, 4)), ([8, 8], (4, 5))):
        with pytest.raises(ValueError, match="groups of .* in all, a grid of .*, and orders of 16 differ"):
            order.spread_orders(random, sizes, grid)


@pytest.mark.parametrize("acceleration", [0, -1, 65])
def test_impossible_accelerations(acceleration):
    with pytest.raises(ValueError, match=f"acceleration {acceleration} is impossible with 64 .* 1 .. 64"):
        order.group_sizes(64, acceleration)
    with pytest.raises(ValueError, match=f"{acceleration} steps"):
        order.cosine_sizes(64, acceleration)


def test_random_orders_are_uniform_permutations():
    rng = torch.Generator().manual_seed(0)
    orders = order.random_orders(4, 24_000, rng)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(24_000, -1))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = torch.stack([(codes == c).sum() for c in codes.unique()])
    assert len(counts) == 24 and (counts - 1000).abs().max() < 160
    assert torch.equal(order.random_orders(9, 3, rng.manual_seed(1)), order.random_orders(9, 3, rng.manual_seed(1)))


def test_mask_counts_follow_the_truncated_normal():
    """Mean about 222 of 256, at least 180, all masked in about 1.6 % (docs/mar.md 1.2, 3.2)."""
    counts = order.mask_counts(100_000, 256, torch.Generator().manual_seed(1))
    assert counts.dtype == torch.int64
    assert counts.min() >= 180 and counts.max() == 256
    assert counts.double().mean().item() == pytest.approx(222.4, abs=0.5)
    assert (counts == 256).double().mean().item() == pytest.approx(0.016, abs=0.003)
    # the density falls towards 0.7: as many draws in (0.7, 0.8] as N(1, 0.25) truncated to [0.7, 1] says
    share = ((counts > 180) & (counts <= 205)).double().mean().item()
    assert share == pytest.approx(0.247, abs=0.008)
    assert order.mask_counts(1000, 16, torch.Generator().manual_seed(2)).min() >= 12


TEXT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)


def slow_mask(start: int, tokens: int, image_block: bool) -> torch.Tensor:
    rows, length = TEXT.shape
    size = length + start + tokens
    mask = torch.zeros(rows, size, size, dtype=torch.bool)
    for b in range(rows):
        for q in range(size):
            for k in range(size):
                real = k >= length or bool(TEXT[b, k])
                both_image = q >= length + start and k >= length + start
                mask[b, q, k] = k == q or (real and (k <= q or (image_block and both_image)))
    return mask


@pytest.mark.parametrize(("start", "tokens"), [(1, 6), (2, 5), (1, 0)])
def test_interleaved_mask(start, tokens):
    assert torch.equal(order.interleaved_mask(TEXT, start, tokens), slow_mask(start, tokens, False))


@pytest.mark.parametrize(("start", "tokens"), [(1, 6), (2, 5)])
def test_prefix_mask(start, tokens):
    assert torch.equal(order.prefix_mask(TEXT, start, tokens), slow_mask(start, tokens, True))


@pytest.mark.parametrize(("pairs", "queries"), [(0, 4), (8, 4), (1, 1), (0, 1), (4, 2)])
def test_group_mask(pairs, queries):
    cached = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 1, 1]], dtype=torch.bool)
    mask = order.group_mask(cached, pairs, queries)
    assert mask.shape == (2, pairs + queries, 5 + pairs + queries)
    for b in range(2):
        for q in range(pairs + queries):
            for k in range(5 + pairs + queries):
                new = k - 5
                if new < 0:
                    expected = bool(cached[b, k])
                elif new < pairs:
                    expected = new <= q
                else:
                    expected = new == q
                assert bool(mask[b, q, k]) == expected, (b, q, k)


def test_positions():
    found = order.positions(TEXT, 1, 3)
    assert found.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 1, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2, 3, 4]]


def test_additive_mask():
    mask = order.additive(torch.tensor([[[True, False]]]), torch.float32)
    assert mask.shape == (1, 1, 1, 2) and mask[..., 0] == 0 and mask[..., 1] < -1e30
