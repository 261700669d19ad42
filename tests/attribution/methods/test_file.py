"""Maps from files of every form: each sample gets its own, and what does not fit is refused."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import saliency_lab as sl
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.maps import maps
from saliency_lab.attribution.methods.file import file_maps, stored_maps
from saliency_lab.errors import UserError

IDS = ["test/0", "test/1", "test/2"]
VALUES = np.arange(3 * 4 * 5, dtype=np.float64).reshape(3, 4, 5) - 7.0
NET = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 2))


def _npy(folder: Path) -> tuple[str, str | None]:
    np.save(folder / "maps.npy", VALUES)
    (folder / "ids.txt").write_text("\n".join(IDS) + "\n")
    return str(folder / "maps.npy"), str(folder / "ids.txt")


def _npz(folder: Path) -> tuple[str, str | None]:
    np.savez(folder / "maps.npz", maps=VALUES, ids=np.array(IDS))
    return str(folder / "maps.npz"), None


def _zarr(folder: Path) -> tuple[str, str | None]:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    group = zarr.open_group(str(folder / "maps.zarr"), mode="w")
    group["maps"], group["ids"] = VALUES, np.array(IDS)
    return str(folder / "maps.zarr"), None


@pytest.mark.parametrize("written", [_npy, _npz, _zarr])
def test_each_sample_gets_its_own_map(
    written: Callable[[Path], tuple[str, str | None]], tmp_path: Path
) -> None:
    file, ids = written(tmp_path)
    source = functools.partial(file_maps, maps=file, ids=ids)
    asked = ["test/2", "test/0"]
    found = maps(NET, torch.rand(2, 1, 4, 5), source, generator=SampleGenerator(0, asked))
    np.testing.assert_array_equal(found.maps["original"], VALUES[[2, 0]].astype(np.float32))
    # In a notebook as well: unscaled, signed, float32.
    images = torch.rand(1, 1, 4, 5)
    notebook = sl.explain(NET, images, source, sample_ids=["test/1"])["file_maps"]
    np.testing.assert_array_equal(notebook[0], VALUES[1].astype(np.float32))
    assert notebook.dtype == torch.float32


def test_pictures_are_called_by_their_samples(tmp_path: Path) -> None:
    levels = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
    deep = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    (tmp_path / "cat").mkdir()
    Image.fromarray(levels).save(tmp_path / "cat" / "1.png")
    Image.fromarray(deep).save(tmp_path / "cat" / "2.jpg.png")
    stored = stored_maps(str(tmp_path), None, ["cat/1.jpg", "cat/2.jpg"], (4, 5))
    found = stored.of(["cat/2.jpg", "cat/1.jpg"]).double().numpy()
    np.testing.assert_allclose(found, [deep / 65535, levels / 255], atol=1e-7)
    with pytest.raises(UserError, match="to have a map of its own"):
        stored_maps(str(tmp_path), None, ["cat/1.jpg", "cat/1.png"], (4, 5))
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "cat" / "3.png")
    with pytest.raises(UserError, match="grey PNGs"):
        stored_maps(str(tmp_path), None, ["cat/1"], (4, 5))


def test_without_ids_the_data_sets_order_counts_for_exactly_as_many(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", VALUES)
    file = str(tmp_path / "maps.npy")
    stored = stored_maps(file, None, ["b", "a", "c"], (4, 5))
    np.testing.assert_array_equal(stored.of(["a"])[0], VALUES[1].astype(np.float32))
    with pytest.raises(UserError, match="for each of the 2 images"):
        stored_maps(file, None, ["b", "a"], (4, 5))
    with pytest.raises(UserError, match=r"`method\.ids`"):
        stored_maps(file, None, None, (4, 5))


def test_an_array_of_zarrs_without_ids_is_in_the_data_sets_order(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    file = str(tmp_path / "maps.zarr")
    zarr.create_array(file, data=VALUES)
    stored = stored_maps(file, None, ["b", "a", "c"], (4, 5))
    np.testing.assert_array_equal(stored.of(["a"])[0], VALUES[1].astype(np.float32))
    with pytest.raises(UserError, match="for each of the 2 images"):
        stored_maps(file, None, ["b", "a"], (4, 5))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((3, 1, 4, 5)), r"\(3, 1, 4, 5\)"),
        (np.zeros((3, 8, 8)), "4×5, but .* holds 8×8"),
        (np.array([["a"]]), "<U1"),
        (np.where(VALUES == 30, np.nan, VALUES), "NaN or infinity for test/1"),
        (np.where(VALUES == 30, np.inf, VALUES), "NaN or infinity for test/1"),
        (VALUES[:2], "each of 2 maps, but got 3"),
    ],
)
def test_maps_that_do_not_fit(content: np.ndarray, said: str, tmp_path: Path) -> None:
    file, ids = _npy(tmp_path)
    np.save(file, content)
    with pytest.raises(UserError, match=said):
        stored_maps(file, ids, IDS, (4, 5))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file, ids = _npy(tmp_path)
    with pytest.raises(UserError, match="there is none at"):
        stored_maps(str(tmp_path / "nope.npy"), ids, IDS, (4, 5))
    with pytest.raises(UserError, match=r"`method\.ids` to be a file"):
        stored_maps(file, str(tmp_path / "nope.txt"), IDS, (4, 5))
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(UserError, match="cannot be read"):
        stored_maps(str(tmp_path / "text.npy"), ids, IDS, (4, 5))
    (tmp_path / "ids.txt").write_text("test/0\ntest/0\ntest/2\n")
    with pytest.raises(UserError, match="each sample once"):
        stored_maps(file, ids, ["test/0"], (4, 5))
    np.savez(tmp_path / "two.npz", first=VALUES, second=VALUES)
    with pytest.raises(UserError, match="an array `maps`"):
        stored_maps(str(tmp_path / "two.npz"), None, IDS, (4, 5))
    with pytest.raises(UserError, match="for 1 of 1 \\(test/9\\)"):
        stored_maps(*_npz(tmp_path), None, (4, 5)).of(["test/9"])
    if importlib.util.find_spec("zarr") is None:
        (tmp_path / "maps.zarr").mkdir()
        with pytest.raises(UserError, match="pip install zarr"):
            stored_maps(str(tmp_path / "maps.zarr"), None, IDS, (4, 5))


@pytest.mark.parametrize("factor", [1e-50, 1e300])
def test_numbers_beyond_float32_keep_their_order(factor: float, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 4, 5)) * factor
    np.save(tmp_path / "maps.npy", values)
    found = stored_maps(str(tmp_path / "maps.npy"), None, ["a", "b"], (4, 5)).of(["a", "b"])
    scaled = values / np.abs(values).max((1, 2), keepdims=True)
    np.testing.assert_allclose(found.numpy(), scaled, rtol=1e-6)
