import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.blocks import pictures
from workbench.blocks.pictures import open_picture, read_meta, save_png
from workbench.core.errors import AskError, ResourceError

PLAN = {"ask": {"prompts": ["a cat, red"], "negatives": ["a dog"], "seeds": [7]}, "edits": [{"method": "freeu"}],
        "sampler": {"method": "diffuse", "steps": 20, "guidance": 5.0, "scheduler": "dpm++"}}  # fmt: skip


def speckled(height: int = 3, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bomb(width: int = 12_000, height: int = 12_000) -> bytes:
    """A small PNG of many pixels, all alike."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = zlib.compressobj(9)
    body = b"".join(row.compress(bytes(1 + width // 8)) for _ in range(height)) + row.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_pixels_and_request_come_back(tmp_path: Path) -> None:
    pixels, meta = speckled(), {"schema": 1, "plan": PLAN, "note": "ü 猫 \x00"}
    save_png(tmp_path / "a.png", pixels, meta)
    assert np.array_equal(open_picture(tmp_path / "a.png"), pixels)
    assert read_meta(tmp_path / "a.png") == meta


def test_other_programs_find_the_parameters_they_read(tmp_path: Path) -> None:
    meta = {"plan": PLAN, "model": {"name": "tiny", "digest": "0123456789abcdef"}, "size": [5, 3], "version": "0.1.0"}
    save_png(tmp_path / "a.png", speckled(), meta)
    with Image.open(tmp_path / "a.png") as image:
        lines = str(image.info["parameters"]).splitlines()
    assert lines[:2] == ["a cat, red", "Negative prompt: a dog"]
    assert lines[2] == ("Steps: 20, Sampler: dpm++, CFG scale: 5.0, Seed: 7, Size: 5x3, Model: tiny, "
                        "Model hash: 0123456789, Edits: freeu, Version: workbench 0.1.0")  # fmt: skip


def test_values_with_commas_are_quoted() -> None:
    meta = {"plan": PLAN, "model": {"name": "a, b: c"}}
    assert 'Model: "a, b: c"' in pictures.parameters(meta)


def test_a_small_file_of_144_megapixels_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert path.stat().st_size < 30_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own, which the app lowers for its process
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(AskError, match="12000x12000, 144 megapixels; at most 64"):
        open_picture(path)


def test_what_pillow_itself_calls_a_bomb_is_refused_in_our_words(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(40_000, 40_000))
    with pytest.raises(AskError, match="1600 megapixels; at most 64"):
        open_picture(path)
    assert read_meta(path) is None


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(speckled(40, 40)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2_000])
    for name, words in (
        ("text.png", "not a picture"),
        ("cut.png", "cut.png"),
        ("none.png", "no picture"),
        (".", "fold"),
    ):
        with pytest.raises(AskError, match=words):
            open_picture(tmp_path / name)


def test_transparency_shows_white_in_pictures_and_black_in_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").tolist() == [[[255, 255, 255], [9, 9, 9]]]
    assert open_picture(tmp_path / "a.png", "L").tolist() == [[0, 9]]


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x80FF, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png", "L").tolist() == [[0, 0x80, 0xFF]]


def test_a_turned_photograph_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_pictures_of_others_have_no_meta(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    (tmp_path / "b.png").write_text("no picture")
    assert [read_meta(tmp_path / name) for name in ("a.png", "a.jpg", "b.png", "missing.png")] == [None] * 4


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, old[1]))
    try:
        with pytest.raises(ResourceError, match=r"big\.png could not be written"):
            save_png(tmp_path / "big.png", speckled(60, 60), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []
