"""The repair of torchvision beside a CPU torch: what it enables, and that it does nothing elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pathloom_torch_hook as hook

CPU_ONLY_TORCH = torch.version.cuda is None and getattr(torch.version, "hip", None) is None

IMPORT_THE_STACK = """
import importlib.util, json, sys
import torchvision
from torchvision.io import ImageReadMode, decode_image, read_file, read_image
from torchvision.transforms import v2
if importlib.util.find_spec("timm"):
    import timm
from transformers import Qwen2_5_VLForConditionalGeneration
import trl

path = sys.argv[1]
print(json.dumps({
    "read": read_image(path, ImageReadMode.RGB).tolist(),
    "decoded_grey": decode_image(read_file(path), ImageReadMode.GRAY).tolist(),
    "loads_pathloom": "pathloom" in sys.modules,
}))
"""


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Run in an interpreter of its own, because what is tested happens at the first `import torch`.
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def encode(image: Image.Image, path: Path) -> torch.Tensor:
    image.save(path)
    return hook.read_file(str(path))


@pytest.fixture
def tissue() -> Image.Image:
    """12 x 7 pixels of noise: not square, so that swapped axes show."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (7, 12, 3), dtype=np.uint8))


def test_the_stack_imports_and_reads_images_as_pillow_does(tmp_path, tissue):
    path = tmp_path / "tissue.png"
    tissue.save(path)

    result = run_python(IMPORT_THE_STACK, str(path))

    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["read"] == np.asarray(tissue).transpose(2, 0, 1).tolist()
    # torchvision's own decoder rounds grey another way than Pillow, by at most one step.
    assert np.abs(np.array(seen["decoded_grey"]) - np.asarray(tissue.convert("L"))[None]).max() <= 1
    assert not seen["loads_pathloom"]


@pytest.mark.skipif(not CPU_ONLY_TORCH, reason="with a CUDA or ROCm torch the hook does nothing")
def test_without_the_hook_torchvision_fails(tmp_path):
    result = run_python("import torchvision", TORCH_DEVICE_BACKEND_AUTOLOAD="0")

    if result.returncode == 0:
        pytest.skip("this torchvision works beside a CPU torch by itself: nothing to repair")
    assert "torchvision::nms does not exist" in result.stderr


def nms_by_definition(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """The textbook loop over plain numbers, with the integer boxes below exact in floating point."""

    def iou(a, b):
        width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / union if union else 0.0

    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_nms_keeps_what_the_definition_keeps(seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 60, (80, 2), generator=generator)
    # Sides from zero: boxes without area are among them. Few score values: ties are among them.
    boxes = torch.cat([corner, corner + torch.randint(0, 40, (80, 2), generator=generator)], dim=1).double()
    scores = torch.randint(0, 20, (80,), generator=generator).double()

    kept = hook.nms(boxes, scores, threshold)

    assert kept.dtype == torch.int64
    assert kept.tolist() == nms_by_definition(boxes.tolist(), scores.tolist(), threshold)


def test_nms_of_half_and_quantised_boxes_does_not_overflow():
    # Two equal boxes of 62,500 square pixels: the sum of their areas overflows half precision, and a byte.
    boxes = torch.tensor([[0, 0, 250, 250], [0, 0, 250, 250], [251, 251, 255, 255]])

    for dtype in (torch.float16, torch.uint8):
        assert hook.nms(boxes.to(dtype), torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]


def test_nms_of_no_boxes_is_empty():
    assert hook.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_nms_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"boxes must have shape \(N, 4\)"):
        hook.nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"scores must have shape \(3,\)"):
        hook.nms(torch.zeros(3, 4), torch.zeros(2), 0.5)


@pytest.mark.parametrize(("mode", "pil_mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_decode_gives_the_mode_asked_for(tmp_path, tissue, mode, pil_mode):
    pixels = hook.decode_image(encode(tissue, tmp_path / "x.png"), mode)

    expected = np.atleast_3d(np.asarray(tissue.convert(pil_mode))).transpose(2, 0, 1)
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize(
    ("saved", "channels"), [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("RGB", 3), ("RGBA", 4)]
)
def test_decode_unchanged_resolves_palettes_and_single_bits_only(tmp_path, tissue, saved, channels):
    pixels = hook.decode_image(encode(tissue.convert(saved), tmp_path / "x.png"), 0)

    assert tuple(pixels.shape) == (channels, 7, 12)


def test_decode_turns_the_image_only_when_asked(tmp_path, tissue):
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation 6: to be turned by a quarter
    tissue.save(tmp_path / "x.png", exif=exif)
    data = hook.read_file(str(tmp_path / "x.png"))

    assert tuple(hook.decode_image(data, 3).shape) == (3, 7, 12)
    assert tuple(hook.decode_image(data, 3, apply_exif_orientation=True).shape) == (3, 12, 7)


def test_decode_checks_pixels_before_it_decodes(tmp_path, tissue, monkeypatch):
    data = encode(tissue, tmp_path / "x.png")
    # Room for the file's bytes, four a pixel, but not for its 84 pixels.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 83)
    monkeypatch.setattr(hook, "_BYTES_PER_PIXEL_CAP", 100)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))

    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match="12 x 7 pixels, the cap is 83"),
    ):
        hook.decode_image(data, 1)


def test_bytes_over_the_cap_are_neither_read_nor_opened(tmp_path, tissue, monkeypatch):
    data = encode(tissue, tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", data.numel() // 4 - 1)

    with pytest.raises(ValueError, match="bytes, the cap is"):
        hook.decode_image(data, 3)
    with pytest.raises(ValueError, match="bytes, the cap is"):
        hook.read_file(str(tmp_path / "x.png"))


def test_decode_refuses_what_it_would_get_wrong(tmp_path, tissue):
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(ValueError, match="more than eight bits"):
        hook.decode_image(encode(deep, tmp_path / "deep.png"), 1)
    tissue.save(tmp_path / "film.png", save_all=True, append_images=[tissue.rotate(180)])
    with pytest.raises(ValueError, match="animation"):
        hook.decode_image(hook.read_file(str(tmp_path / "film.png")), 3)
    with pytest.raises(ValueError, match="not a readable image"):
        hook.decode_image(encode(tissue, tmp_path / "x.tiff"), 3)
    with pytest.raises(ValueError, match="is empty"):
        hook.decode_image(torch.zeros(0, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="1-D uint8"):
        hook.decode_image(torch.zeros(9), 3)


def fail_to_load(path: str) -> None:
    raise OSError(f"Could not load this library: {path}")


def test_autoload_leaves_a_cuda_build_alone(monkeypatch):
    monkeypatch.setattr(torch.ops, "load_library", fail_to_load)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    hook.autoload()

    assert torch.ops.load_library is fail_to_load


def test_autoload_wraps_once(monkeypatch):
    monkeypatch.setattr(torch.ops, "load_library", fail_to_load)
    monkeypatch.setattr(torch.version, "cuda", None)

    hook.autoload()
    wrapped = torch.ops.load_library
    hook.autoload()

    assert wrapped is not fail_to_load
    assert torch.ops.load_library is wrapped


@pytest.mark.parametrize(
    ("path", "raises", "defines"),
    [
        ("/lib/torchvision/_C.so", True, "boxes"),
        ("/lib/torchvision/image.so", False, "images"),
        ("/lib/torchvision/other.so", True, None),
        ("/lib/elsewhere/_C.so", True, None),
        ("/lib/elsewhere/image.so", True, None),
    ],
)
def test_only_a_failed_torchvision_library_is_replaced(monkeypatch, path, raises, defines):
    defined: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", fail_to_load)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(hook, "_define_box_operators", lambda: defined.append("boxes"))
    monkeypatch.setattr(hook, "_define_image_operators", lambda: defined.append("images"))
    hook.autoload()

    if raises:
        with pytest.raises(OSError, match="Could not load"):
            torch.ops.load_library(path)
    else:
        torch.ops.load_library(path)

    assert defined == ([defines] if defines else [])


def test_a_library_that_loads_is_not_replaced(monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(hook, "_define_box_operators", lambda: pytest.fail("replaced"))
    hook.autoload()

    torch.ops.load_library("/lib/torchvision/_C.so")

    assert loaded == ["/lib/torchvision/_C.so"]
