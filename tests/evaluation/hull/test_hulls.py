"""Areas that were counted by hand, by Pick's theorem, and by brute force over rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from skimage.morphology import convex_hull_image

from saliency_lab.errors import UserError
from saliency_lab.evaluation.hull.hulls import SHAPES, convex_hulls, relative_complexity


def mask_of(*pixels, size=(8, 8)):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    for row, column in pixels:
        mask[0, row, column] = True
    return mask


def drawn(*lines):
    return torch.tensor([[[sign == "#" for sign in line] for line in lines]])


def test_a_square_is_counted_by_hand():
    hulls = convex_hulls(mask_of((1, 1), (1, 3), (3, 1), (3, 3)))
    assert hulls.areas.tolist() == [9]
    assert SHAPES[hulls.shapes[0]] == "whole"
    assert hulls.filled[0, 1:4, 1:4].all()


def test_a_triangle_is_counted_by_hand():
    hulls = convex_hulls(mask_of((0, 0), (0, 4), (4, 0), size=(5, 6)))
    expected = drawn("#####.", "####..", "###...", "##....", "#.....")
    assert torch.equal(hulls.filled, expected)
    assert hulls.areas.tolist() == [15]


def test_a_slanted_triangle_is_counted_by_hand():
    hulls = convex_hulls(mask_of((0, 0), (2, 4), (4, 1), size=(5, 5)))
    expected = drawn("#....", ".##..", ".####", ".##..", ".#...")
    assert torch.equal(hulls.filled, expected)


@pytest.mark.parametrize(
    ("pixels", "shape", "area"),
    [
        ((), "empty", 0),
        (((5, 2),), "few", 1),
        (((0, 0), (4, 2)), "few", 3),
        (((0, 0), (3, 2)), "few", 2),
        (((2, 1), (2, 3), (2, 6)), "line", 6),
        (((1, 4), (3, 4), (5, 4)), "line", 5),
        (((0, 6), (2, 4), (6, 0)), "line", 7),
        (((0, 0), (2, 1), (6, 3)), "line", 4),
        (((0, 0), (0, 1), (1, 0)), "whole", 3),
    ],
)
def test_degenerate_hulls_are_told_apart_and_counted(pixels, shape, area):
    hulls = convex_hulls(mask_of(*pixels))
    assert SHAPES[hulls.shapes[0]] == shape
    assert hulls.areas.tolist() == [area]


def test_every_pixel_of_random_masks_by_rational_arithmetic():
    rng = np.random.default_rng(3)
    for count in (3, 4, 6, 12):
        array = np.zeros((9, 11), dtype=bool)
        array.flat[rng.choice(array.size, count, replace=False)] = True
        points = np.argwhere(array)
        if np.linalg.matrix_rank(points - points[0]) < 2:
            continue
        corners = [tuple(Fraction(int(v)) for v in points[i]) for i in ConvexHull(points).vertices]
        found = convex_hulls(torch.from_numpy(array)[None]).filled[0]
        for row in range(9):
            for column in range(11):
                assert bool(found[row, column]) == inside(corners, row, column)


def inside(corners, row, column):
    signs = set()
    for (r0, c0), (r1, c1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        cross = (r1 - r0) * (column - c0) - (c1 - c0) * (row - r0)
        signs.add((cross > 0) - (cross < 0))
    return not {1, -1} <= signs


def test_areas_obey_picks_theorem():
    rng = np.random.default_rng(5)
    masks = torch.from_numpy(rng.random((20, 40, 56)) < 0.01)
    for mask, area in zip(masks, convex_hulls(masks).areas.tolist(), strict=True):
        points = np.argwhere(mask.numpy())
        hull = ConvexHull(points)
        corners = points[hull.vertices]
        edges = np.abs(np.roll(corners, -1, axis=0) - corners)
        on_the_edge = sum(math.gcd(int(a), int(b)) for a, b in edges)
        # Pick: area = inside + edge / 2 − 1; SciPy's `volume` is the area of a plane hull.
        assert area == round(hull.volume + on_the_edge / 2 + 1)


def test_the_same_pixels_as_scikit_image():
    rng = np.random.default_rng(7)
    masks = rng.random((6, 32, 32)) < 0.02
    found = convex_hulls(torch.from_numpy(masks)).filled.numpy()
    for mask, filled in zip(masks, found, strict=True):
        peer = convex_hull_image(mask, offset_coordinates=False)
        # Its fill rounds: pixels on the very edge may differ, none that lies further in or out.
        assert np.abs(peer.astype(int) - filled).sum() <= 3


def test_relative_complexity_of_a_triangle_in_a_square():
    square = mask_of((0, 0), (0, 4), (4, 0), (4, 4))
    triangle = mask_of((0, 0), (0, 4), (4, 0))
    assert relative_complexity(triangle, square).tolist() == [15 / 25]
    assert relative_complexity(square, square).tolist() == [1.0]


def test_the_most_important_half_of_a_map_counts():
    original = torch.zeros(1, 4, 4)
    original[0, 0] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    original[0, 3] = torch.tensor([5.0, 4.0, 3.0, 2.0])
    original[0, 1, 1] = 1.0  # the ninth of sixteen pixels
    kept = torch.where(original > 6.5, original, 0)
    # Rows 0 and 3 span all 16 pixels; three pixels of row 0 lie on a line.
    assert relative_complexity(kept, original).tolist() == [3 / 16]
    # Above 70 % of the maximum: 9, 8, 7 against 9, 8, 7.
    assert relative_complexity(kept, original, level=0.7, rule="above").tolist() == [1.0]


def test_rc_of_nothing():
    nothing, square = mask_of(), mask_of((0, 0), (0, 4), (4, 0), (4, 4))
    assert relative_complexity(nothing, square).tolist() == [0.0]
    assert math.isnan(relative_complexity(nothing, nothing).item())


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match="`original`"):
        relative_complexity(mask_of(), mask_of(size=(4, 4)))
    with pytest.raises(UserError, match="`masks`"):
        convex_hulls(torch.zeros(1, 4, 4))
    with pytest.raises(UserError, match="`level`"):
        relative_complexity(torch.ones(1, 4, 4), torch.ones(1, 4, 4), level=0.0)
    with pytest.raises(UserError, match="`rule`"):
        relative_complexity(torch.ones(1, 4, 4), torch.ones(1, 4, 4), rule="middle")
