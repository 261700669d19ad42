from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_lab.data.decoding import decoded, file_reader

RNG = np.random.default_rng(0)


def _noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".png"), ("L", ".jpg"), ("LA", ".png"), ("RGBA", ".png"),
                         ("P", ".gif"), ("CMYK", ".jpg"), ("1", ".png")]
)  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(_noise(8, 8, 3)).convert(mode)
    path = tmp_path / f"a{suffix}"
    image.save(path)
    with Image.open(path) as saved:
        expected = np.asarray(saved.convert("RGB")).transpose(2, 0, 1)
    found = decoded(path, 8, "stretch")
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_greyscale_has_three_equal_channels(tmp_path: Path) -> None:
    grey = _noise(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(decoded(tmp_path / "a.png", 8, "stretch"), np.stack([grey] * 3))


def test_sixteen_bit_grey_is_scaled_and_not_cut_off(tmp_path: Path) -> None:
    grey = _noise(8, 8)
    grey[0, 0] = 255
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(decoded(tmp_path / "a.png", 8, "stretch")[0], grey)
    # The lower eight bits are what is left out, whatever they are.
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / "b.png")
    assert np.array_equal(decoded(tmp_path / "b.png", 8, "stretch")[0], grey)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_a_dark_image_of_sixteen_bits_stays_dark(tmp_path: Path, suffix: str) -> None:
    """What an image holds does not say how many bits it has: the others of its set are bright."""
    dark = _noise(8, 8).astype(np.uint16)
    for grey, expected in ((dark, dark // 256), (dark * 2, dark * 2 // 256), (dark * 257, dark)):
        Image.fromarray(grey).save(tmp_path / f"a{suffix}")
        assert np.array_equal(decoded(tmp_path / f"a{suffix}", 8, "stretch")[0], expected)


def test_thirty_two_bits_are_taken_for_sixteen(tmp_path: Path) -> None:
    grey = np.array([[-5, 255], [256, 70000]], dtype=np.int32)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.mode == "I"
    assert decoded(tmp_path / "a.tif", 2, "stretch")[0].tolist() == [[0, 0], [1, 255]]


def test_twelve_bits_are_white_at_4095(tmp_path: Path) -> None:
    # Two values in three bytes; each entry is (tag, kind, count, value), its strip after the last.
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 122), (277, 3, 1, 1), (278, 3, 1, 2), (279, 4, 1, 6)]  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = head + listed + struct.pack("<I", 0) + bytes.fromhex("000fff00f800")
    (tmp_path / "a.tif").write_bytes(content)
    assert decoded(tmp_path / "a.tif", 2, "stretch")[0].tolist() == [[0, 255], [0, 128]]


def test_floating_point_is_refused_and_not_read_as_black(tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    Image.fromarray(np.random.default_rng(0).random((8, 8), dtype=np.float32)).save(path)
    _, unreadable = file_reader([path], 8, "stretch")([0])
    assert "floating point; save it with 8 or 16 bits" in unreadable[0]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    pixels = _noise(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise to see it upright.
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(pixels, -1).transpose(2, 0, 1)
    assert np.array_equal(decoded(tmp_path / "a.png", 8, "stretch"), expected)


def test_crop_keeps_the_aspect_and_stretch_does_not(tmp_path: Path) -> None:
    # Left half black, right half white, twice as wide as high.
    pixels = np.zeros((64, 128, 3), dtype=np.uint8)
    pixels[:, 64:] = 255
    pixels[:, :16] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    stretched, cropped = (decoded(tmp_path / "a.png", 32, way) for way in ("stretch", "crop"))
    assert stretched.shape == cropped.shape == (3, 32, 32)
    assert tuple(stretched[:, 16, 0]) == (255, 0, 0)
    assert tuple(cropped[:, 16, 0]) == (0, 0, 0)
    assert tuple(cropped[:, 16, 31]) == tuple(stretched[:, 16, 31]) == (255, 255, 255)


def test_stretch_is_bilinear_with_antialiasing(tmp_path: Path) -> None:
    import torch
    from torch.nn.functional import interpolate

    pixels = _noise(50, 70, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = interpolate(tensor, (16, 16), mode="bilinear", antialias=True)[0].numpy()
    assert np.abs(decoded(tmp_path / "a.png", 16, "stretch") - expected).max() <= 1


@pytest.mark.parametrize("way", ["stretch", "crop"])
def test_an_image_of_the_size_is_untouched(tmp_path: Path, way: str) -> None:
    pixels = _noise(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decoded(tmp_path / "a.png", 16, way), pixels.transpose(2, 0, 1))


def test_damaged_files_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("good.jpg", "cut.jpg", "text.png", "cut.png", "gone.png")]
    for path in (paths[0], paths[1], paths[3]):
        Image.fromarray(_noise(64, 64, 3)).save(path)
    for path in (paths[1], paths[3]):
        path.write_bytes(path.read_bytes()[:900])
    paths[2].write_text("no image at all")
    pixels, unreadable = file_reader(paths, 16, "stretch")(range(5))
    assert sorted(unreadable) == [1, 2, 3, 4]
    assert all(paths[position].name in reason for position, reason in unreadable.items())
    assert "truncated" in unreadable[1]
    assert pixels[0].any()
    assert not pixels[1:].any()
