"""Contrastive training of clip-nano, in pathloom and by open_clip's trainer called directly, on the same shards.

    OMP_NUM_THREADS=1 python speed/contrastive.py pairs FOLDER [repeats] [workers]
    OMP_NUM_THREADS=1 python speed/contrastive.py parts FOLDER

`pairs` runs both in turns and prints images per second of wall time and of processor time, with the ratio of each turn
and their median; `parts` prints where a step's time goes. FOLDER keeps shards of 512 phantom captions (224 px, JPEG).
A run's first steps, which load and warm up, are left out.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip_train.main as open_clip_main
import torch
from PIL import Image as PILImage

from pathloom.ingest.phantom import PhantomConfig
from pathloom.models.clip import open_trainable, write_preset
from pathloom.models.clip_presets import find_clip_preset
from pathloom.models.clip_text import shorten_texts
from pathloom.schema import Sample
from pathloom.train import contrastive_loop
from pathloom.train.contrastive import run_contrastive
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.train.contrastive_data import (
    Collate,
    PairOrder,
    Pairs,
    normalised,
    read_corpus,
    training_transform,
)
from pathloom.webdataset import ShardWriter, read_sizes

NUM_PAIRS, PER_SHARD, SIZE_PX = 512, 128, 224
BATCH, STEPS, LEFT_OUT = 32, 14, 2

Clock = tuple[float, float]


def write_shards(folder: Path) -> Path:
    """Phantom captions of tissue and of cells, as another trainer would be given them."""
    shards = folder / "shards"
    if shards.exists() and len(read_sizes(shards)) == NUM_PAIRS // PER_SHARD:
        return shards
    config = PhantomConfig.model_validate(
        {
            "name": "pairs",
            "kind": "ingest",
            "source": "phantom",
            "size_px": SIZE_PX,
            "train": {"caption": NUM_PAIRS // 2, "cell_caption": NUM_PAIRS // 2},
        }
    )
    units = list(config.plan())
    with ShardWriter(shards, PER_SHARD) as writer:
        for number in range(NUM_PAIRS):
            sample = config.read(units[number // 2 + number % 2 * (NUM_PAIRS // 2)])[0]
            assert isinstance(sample, Sample) and sample.images[0].data is not None
            buffer = io.BytesIO()
            PILImage.open(io.BytesIO(sample.images[0].data)).convert("RGB").save(buffer, "JPEG", quality=90)
            writer.add(buffer.getvalue(), "jpg", sample.answer, {"source": "phantom"})
    return shards


def entry(workers: int) -> ContrastiveConfig:
    return ContrastiveConfig.model_validate(
        {
            "name": "clip",
            "kind": "contrastive",
            "shards": ["shards"],
            "model": {"preset": "clip-nano"},
            "batch_size": BATCH,
            "max_steps": STEPS,
            "learning_rate": 5e-4,
            "warmup_steps": 2,
            "workers": workers,
        }
    )


def noting(build: Callable[..., Any], clocks: list[Clock]) -> Callable[..., Any]:
    """A schedule notes the time as it is asked: once a step, when its batch is there."""

    def built(*given: Any) -> Callable[[int], Any]:
        schedule = build(*given)

        def asked(step: int) -> Any:
            clocks.append((time.perf_counter(), time.process_time()))
            return schedule(step)

        return asked

    return built


def rates(clocks: list[Clock]) -> Clock:
    """Images per second of wall time and of this process's processor time."""
    first, last = clocks[LEFT_OUT], clocks[STEPS - 1]
    images = BATCH * (STEPS - 1 - LEFT_OUT)
    return images / (last[0] - first[0]), images / (last[1] - first[1])


def in_pathloom(shards: Path, workers: int) -> Clock:
    clocks: list[Clock] = []
    build = contrastive_loop.cosine_lr
    contrastive_loop.cosine_lr = noting(build, clocks)
    try:
        with tempfile.TemporaryDirectory() as out:
            run_contrastive(entry(workers), {"shards": shards}, Path(out))
    finally:
        contrastive_loop.cosine_lr = build
    return rates(clocks)


def by_open_clip(shards: Path, start: Path, workers: int) -> Clock:
    clocks: list[Clock] = []
    build = open_clip_main.cosine_lr
    open_clip_main.cosine_lr = noting(build, clocks)
    last = f"{NUM_PAIRS // PER_SHARD - 1:05d}"
    try:
        with tempfile.TemporaryDirectory() as logs:
            open_clip_main.main(
                [
                    *("--model", f"local-dir:{start}", "--train-data", f"{shards}/{{00000..{last}}}.tar"),
                    *("--dataset-type", "webdataset", "--train-num-samples", str(BATCH * STEPS)),
                    *("--epochs", "1", "--batch-size", str(BATCH), "--workers", str(workers)),
                    *("--lr", "5e-4", "--warmup", "2", "--precision", "fp32", "--device", "cpu"),
                    *("--logs", logs, "--name", "speed", "--log-every-n-steps", "10"),
                ]
            )
    finally:
        open_clip_main.cosine_lr = build
    return rates(clocks)


def compare(shards: Path, start: Path, repeats: int, workers: int) -> None:
    open_clip_main.setup_logging = lambda *given: None
    ratios = []
    for turn in range(repeats):
        order = [lambda: in_pathloom(shards, workers), lambda: by_open_clip(shards, start, workers)]
        measured = [one() for one in (order if turn % 2 == 0 else order[::-1])]
        ours, theirs = measured if turn % 2 == 0 else measured[::-1]
        ratios.append((ours[0] / theirs[0], ours[1] / theirs[1]))
        print(
            f"pathloom {ours[0]:.1f} images/s, open_clip {theirs[0]:.1f}, ratio {ratios[-1][0]:.3f}; "
            f"by processor time {ours[1]:.1f}, {theirs[1]:.1f}, ratio {ratios[-1][1]:.3f}",
            flush=True,
        )
    wall, processor = zip(*ratios, strict=True)
    print(
        f"median of {repeats}: wall {statistics.median(wall):.3f} ({min(wall):.3f} to {max(wall):.3f}), "
        f"processor {statistics.median(processor):.3f} ({min(processor):.3f} to {max(processor):.3f})"
    )


def median_ms(work: Callable[[], Any], repeats: int = 9) -> float:
    """Median milliseconds of processor time."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append((time.process_time() - start) * 1000)
    return statistics.median(taken)


def show_parts(shards: Path, start: Path) -> None:
    config = entry(0)
    clip = open_trainable(f"local-dir:{start}", None, siglip=False, precision="fp32", device="cpu", seed=0)
    corpus = read_corpus(config, {"shards": shards}, quiet=True)
    pairs = Pairs(corpus, PairOrder(corpus, {}, 0), clip, config)
    transform = training_transform(clip, config.crop_scale)
    items = [pairs[place] for place in range(BATCH)]
    whole = torch.stack([item.tokens for item in items])
    pictures = [PILImage.open(io.BytesIO(corpus.image(item.pair))).convert("RGB") for item in items]
    batch = Collate(None)(items)
    pixels = normalised(batch.pixels, transform)
    model = clip.model

    def step_of(encode: Any, given: torch.Tensor) -> Callable[[], Any]:
        return lambda: encode(given, normalize=True).sum().backward()

    rows = {
        "JPEG to RGB": lambda: [
            PILImage.open(io.BytesIO(corpus.image(i.pair))).convert("RGB") for i in items
        ],
        "crop and resize": lambda: [pairs._pixels(one, 0) for one in pictures],
        "tokens": lambda: [pairs.tokenizer([corpus.caption(item.pair)]) for item in items],
        "stack and normalise": lambda: normalised(Collate(None)(items).pixels, transform),
        "open_clip's whole transform": lambda: [transform(one) for one in pictures],
        "image tower, forward and backward": step_of(model.encode_image, pixels),
        f"text tower, {whole.shape[1]} tokens": step_of(model.encode_text, whole),
    }
    for name, work in rows.items():
        print(f"{name}: {median_ms(work):.1f} ms")
    cutter = shorten_texts(model)
    assert cutter is not None
    short = cutter(whole)
    print(
        f"text tower, cut to {short.shape[1]} tokens: {median_ms(step_of(model.encode_text, short)):.1f} ms"
    )
    model(pixels, short)["image_features"].sum().backward()
    args = contrastive_loop.open_clip_args(config)
    optimizer = contrastive_loop.build_optimizer(model, args)
    print(f"AdamW: {median_ms(optimizer.step):.1f} ms")
    corpus.close()


def main() -> None:
    mode, folder, *numbers = sys.argv[1:]
    shards = write_shards(Path(folder))
    start = Path(folder) / "start"
    if not start.exists():
        corpus = read_corpus(entry(0), {"shards": shards}, quiet=True)
        captions = [corpus.caption(pair) for pair in range(len(corpus))]
        corpus.close()
        write_preset(find_clip_preset("clip-nano"), captions, start)
    if mode == "parts":
        show_parts(shards, start)
    else:
        repeats, workers = ([int(number) for number in numbers] + [5, 0][len(numbers) :])[:2]
        compare(shards, start, repeats, workers)


if __name__ == "__main__":
    main()
