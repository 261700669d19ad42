from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.folder import Folder
from saliency_lab.data.masks import decoded_mask
from saliency_lab.errors import UserError


def write(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8), mode).save(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "image.png", np.zeros((8, 8, 3)))


def test_whatever_is_not_zero_is_evidence(tmp_path: Path, image: Path) -> None:
    expected = np.zeros((8, 8), dtype=bool)
    expected[2, 3] = expected[5:7, 1] = True
    grey = write(tmp_path / "grey.png", expected * 1)
    colour = write(tmp_path / "colour.png", np.stack([expected * 0, expected * 7, expected * 0], 2))
    opaque = write(
        tmp_path / "opaque.png", np.dstack([expected * 9, expected * 0, expected, expected + 255])
    )
    palette = Image.fromarray((expected * 2).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0] * 3)  # every colour black: the index counts
    palette.save(tmp_path / "palette.png")
    for path in (grey, colour, opaque, tmp_path / "palette.png"):
        assert np.array_equal(decoded_mask(path, image, 8, "stretch"), expected), path


def test_resized_like_the_image(tmp_path: Path) -> None:
    """A white rectangle on black is its own mask, whatever is done to both."""
    picture = np.zeros((40, 60))
    picture[10:33, 21:52] = 255
    both = write(tmp_path / "a.png", picture)
    from saliency_lab.data.decoding import decoded

    for resize in ("stretch", "crop"):
        bright = decoded(both, 16, resize)[0] >= 128
        assert np.array_equal(decoded_mask(both, both, 16, resize), bright)
        assert 0.2 < bright.mean() < 0.7


def make(root: Path, split: str, *, skip: str = "") -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(3):
            pixels = rng.integers(0, 256, (8, 8, 3))
            write(root / split / name / f"{number}.bmp", pixels)
            if f"{name}{number}" != skip:
                write(root / split / "masks" / name / f"{number}.png", pixels[:, :, 0] > 200)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", ["split folders", "classes alone"])
def test_masks_beside_the_classes(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "data"
    for split in ("train", "test") if layout == "split folders" else ("",):
        make(root, split)
    module = Folder(root=str(root), size=8, test_share=0.4)
    assert module.class_names == ("cat", "dog")
    for split in ("train", "test"):
        assert module.has_masks(split)
        ids = module.ids(split)
        masks = module.masks(split, np.arange(len(ids)))
        images = module.images(split, np.arange(len(ids)))
        assert np.array_equal(masks, images[:, 0] > 200)
        assert np.array_equal(module.masks(split, [1]), masks[1:2])


def test_a_folder_without_masks(make_tree) -> None:
    module = Folder(root=str(make_tree({"cat": 4, "dog": 4})), size=8)
    assert not module.has_masks("test")


def test_a_class_may_be_called_masks(make_tree) -> None:
    module = Folder(root=str(make_tree({"faces": 4, "masks": 4})), size=8)
    assert module.class_names == ("faces", "masks")
    assert not module.has_masks("test")


def test_missing_and_misshapen_masks_are_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make(root, "train")
    make(root, "test", skip="dog1")
    module = Folder(root=str(root), size=8)
    assert module.has_masks("train")
    with pytest.raises(UserError, match=r"1 are not there, the first of them .*dog/1\.png"):
        module.has_masks("test")
    write(root / "test" / "masks" / "dog" / "1.png", np.ones((4, 8)))
    with pytest.raises(UserError, match="its image's 8×8 pixels, but got 8×4"):
        module.masks("test", [4])
    (root / "test" / "masks" / "cat" / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cat/0\.png to be readable"):
        module.masks("test", [0])
