"""Contrastive training of clip-nano, in pathloom and by open_clip's trainer called directly, on the same shards.

    OMP_NUM_THREADS=1 python speed/contrastive.py pairs FOLDER [workers]
    OMP_NUM_THREADS=1 python speed/contrastive.py parts FOLDER

`pairs` runs both trainers side by side in one process, in turns of one step, so that both meet the same load. It prints
images per second of wall time and of processor time of five runs of steps, their ratios and the medians. The first
steps, which warm up, are left out. `parts` prints where a step's time goes. FOLDER keeps shards of 512 phantom captions
(pictures of 224 px, JPEG).
"""

import io
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip_train.main as open_clip_main
import torch
from PIL import Image as PILImage

from pathloom.ingest.phantom import PhantomConfig
from pathloom.models.clip import open_trainable, write_preset
from pathloom.models.clip_fast import quicken
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
BATCH, RUNS, STEPS_OF_RUN, LEFT_OUT = 32, 5, 8, 2
STEPS = LEFT_OUT + RUNS * STEPS_OF_RUN + 1

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
            assert isinstance(sample, Sample)
            assert sample.images[0].data is not None
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


class Turns:
    """Two trainers in threads of which one runs at a time: each hands over when it asks its schedule, once a step."""

    def __init__(self) -> None:
        self.may_run = (threading.Semaphore(1), threading.Semaphore(0))
        self.seconds: tuple[list[Clock], list[Clock]] = ([], [])
        self._started: dict[int, Clock] = {}

    def hand_over(self, me: int) -> None:
        """Called with a batch at hand: notes the step that ended, the reading of this batch with it."""
        now = time.perf_counter(), time.process_time()
        if me in self._started:
            wall, processor = self._started[me]
            self.seconds[me].append((now[0] - wall, now[1] - processor))
        self.may_run[1 - me].release()
        self.may_run[me].acquire()
        self._started[me] = time.perf_counter(), time.process_time()

    def schedule(self, build: Callable[..., Any], me: int) -> Callable[..., Any]:
        """What stands for the trainer's `cosine_lr`."""

        def built(*given: Any) -> Callable[[int], Any]:
            schedule = build(*given)

            def asked(step: int) -> Any:
                self.hand_over(me)
                return schedule(step)

            return asked

        return built

    def run(self, trainers: tuple[Callable[[], Any], Callable[[], Any]]) -> None:
        def run_one(me: int) -> None:
            self.may_run[me].acquire()
            try:
                trainers[me]()
            finally:
                self.may_run[1 - me].release(STEPS)

        threads = [threading.Thread(target=run_one, args=(me,)) for me in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def in_pathloom(shards: Path, workers: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        run_contrastive(entry(workers), {"shards": shards}, Path(out))


def by_open_clip(shards: Path, start: Path, workers: int) -> None:
    last = f"{NUM_PAIRS // PER_SHARD - 1:05d}"
    with tempfile.TemporaryDirectory() as logs:
        arguments = [
            *("--model", f"local-dir:{start}", "--train-data", f"{shards}/{{00000..{last}}}.tar"),
            *("--dataset-type", "webdataset", "--train-num-samples", str(BATCH * STEPS)),
            *("--epochs", "1", "--batch-size", str(BATCH), "--workers", str(workers)),
            *("--lr", "5e-4", "--warmup", "2", "--precision", "fp32", "--device", "cpu"),
            *("--logs", logs, "--name", "speed", "--log-every-n-steps", "10"),
        ]
        open_clip_main.main(arguments)


def compare(shards: Path, start: Path, workers: int) -> None:
    turns = Turns()
    loop: Any = contrastive_loop
    loop.cosine_lr = turns.schedule(loop.cosine_lr, 0)
    open_clip_main.cosine_lr = turns.schedule(open_clip_main.cosine_lr, 1)
    open_clip_main.setup_logging = lambda *given: None
    turns.run((lambda: in_pathloom(shards, workers), lambda: by_open_clip(shards, start, workers)))
    ratios = []
    for run in range(RUNS):
        steps = slice(LEFT_OUT + run * STEPS_OF_RUN, LEFT_OUT + (run + 1) * STEPS_OF_RUN)
        (ours, ours_cpu), (theirs, theirs_cpu) = (
            [BATCH * STEPS_OF_RUN / sum(clock[kind] for clock in seconds[steps]) for kind in (0, 1)]
            for seconds in turns.seconds
        )
        ratios.append((ours / theirs, ours_cpu / theirs_cpu))
        print(
            f"pathloom {ours:.1f} images/s, open_clip {theirs:.1f}, ratio {ours / theirs:.3f}; by processor time "
            f"{ours_cpu:.1f}, {theirs_cpu:.1f}, ratio {ours_cpu / theirs_cpu:.3f}"
        )
    wall, processor = zip(*ratios, strict=True)
    print(
        f"median of {RUNS}: wall {statistics.median(wall):.3f} ({min(wall):.3f} to {max(wall):.3f}), "
        f"processor {statistics.median(processor):.3f} ({min(processor):.3f} to {max(processor):.3f})"
    )


def in_turns_ms(rows: dict[str, Callable[[], Any]], repeats: int = 9) -> dict[str, float]:
    """Median milliseconds of processor time of each, measured in turns."""
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, work in rows.items():
            start = time.process_time()
            work()
            taken[name].append((time.process_time() - start) * 1000)
    return {name: statistics.median(times) for name, times in taken.items()}


def show_parts(shards: Path, start: Path) -> None:
    config = entry(0)
    plain, quick = (
        open_trainable(f"local-dir:{start}", None, siglip=False, precision="fp32", device="cpu", seed=0)
        for _ in range(2)
    )
    cutter = shorten_texts(quick.model)
    assert cutter is not None
    quicken(quick.model)
    corpus = read_corpus(config.name, config.shards, {"shards": shards}, quiet=True)
    pairs = Pairs(corpus, PairOrder(corpus, {}, 0), plain, config)
    transform = training_transform(plain, config.crop_scale)
    items = [pairs[place] for place in range(BATCH)]
    pictures = [PILImage.open(io.BytesIO(corpus.image(item.pair))).convert("RGB") for item in items]
    batch = Collate(plain, None)(items)
    pixels, whole = normalised(batch.pixels, transform), batch.tokens
    short = cutter(whole)

    def step_of(encode: Any, given: torch.Tensor) -> Callable[[], Any]:
        return lambda: encode(given, normalize=True).square()[:, :5].sum().backward()

    def adamw(model: Any, fused: bool) -> Callable[[], Any]:
        model(pixels, short if model is quick.model else whole)["image_features"].sum().backward()
        optimizer = contrastive_loop.build_optimizer(model, contrastive_loop.open_clip_args(config))
        for group in optimizer.param_groups:
            group["fused"] = fused
        return optimizer.step

    rows: dict[str, Callable[[], Any]] = {
        "JPEG to RGB": lambda: [
            PILImage.open(io.BytesIO(corpus.image(i.pair))).convert("RGB") for i in items
        ],
        "open_clip: transform, one by one": lambda: [transform(one) for one in pictures],
        "pathloom: seeded crop, one by one": lambda: [pairs._pixels(one, 0) for one in pictures],
        "open_clip: tokens, one by one": lambda: [plain.tokenizer([item.caption]) for item in items],
        "pathloom: tokens, stack, normalise": lambda: normalised(
            Collate(plain, None)(items).pixels, transform
        ),
        "open_clip: image tower": step_of(plain.model.encode_image, pixels),
        "pathloom: image tower": step_of(quick.model.encode_image, pixels),
        f"open_clip: text tower, {whole.shape[1]} tokens": step_of(plain.model.encode_text, whole),
        f"pathloom: text tower, {short.shape[1]} tokens": step_of(quick.model.encode_text, short),
        "open_clip: AdamW": adamw(plain.model, False),
        "pathloom: AdamW, fused": adamw(quick.model, True),
    }
    for name, milliseconds in in_turns_ms(rows).items():
        print(f"{name}: {milliseconds:.1f} ms")
    corpus.close()


def main() -> None:
    mode, folder, *numbers = sys.argv[1:]
    shards = write_shards(Path(folder))
    start = Path(folder) / "start"
    if not start.exists():
        corpus = read_corpus(entry(0).name, entry(0).shards, {"shards": shards}, quiet=True)
        captions = [corpus.caption(pair) for pair in range(len(corpus))]
        corpus.close()
        write_preset(find_clip_preset("clip-nano"), captions, start)
    if mode == "parts":
        show_parts(shards, start)
    else:
        compare(shards, start, int(numbers[0]) if numbers else 0)


if __name__ == "__main__":
    main()
