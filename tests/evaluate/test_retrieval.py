"""Retrieval in two named directions: against brute force, against the released script, with bad input."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from pydantic import ValidationError
from tests.fixtures import grouped, make_image

from pathloom.evaluate import retrieval
from pathloom.evaluate.encoders import DROPS_FILE
from pathloom.evaluate.encoders_config import RetrievalConfig
from pathloom.evaluate.published import retrieval_column
from pathloom.evaluate.report_records import BOARDS_FILE, Board, Measured
from pathloom.evaluate.retrieval import chance_at, hits_at, run_retrieval
from pathloom.images import load_pixels
from pathloom.models.embed import Encoder
from pathloom.nearest import TIE, pair_ranks
from pathloom.schema import Drop, Image, Sample
from pathloom.stage import UserError
from pathloom.store import write_samples

RECALL_AT = (1, 5, 10, 20)


def config(**keys: Any) -> RetrievalConfig:
    given: dict[str, Any] = {
        "name": "found",
        "kind": "retrieval",
        "encoders": {"toy": "stage:toy"},
        "sets": [{"name": "pictures", "samples": ["pairs"]}],
        "num_resamples": 100,
    }
    return RetrievalConfig(**{**given, **keys})


def caption_pair(number: int, **fields: Any) -> Sample:
    given = {
        "task": "caption",
        "split": "test",
        "images": (make_image(number),),
        "question": "Describe.",
        "answer": f"Caption {number}",
    }
    return grouped(f"pair {number}", str(fields.pop("group", number)), **{**given, **fields})


@dataclass
class Toy:
    """Runs the stage on vectors given by hand: row i is of picture i, or of the caption that pair i has."""

    folder: Path
    patch: pytest.MonkeyPatch
    asked: list[Sequence[str]] = field(default_factory=list)

    def run(
        self,
        samples: Sequence[Sample],
        vectors: Mapping[str, tuple[np.ndarray, np.ndarray]],
        entry: RetrievalConfig | None = None,
    ) -> dict[str, Any]:
        entry = entry or config(encoders={name: f"stage:{name}" for name in vectors})
        inputs = {"pairs": self.folder / "pairs", **dict.fromkeys(vectors, self.folder)}
        write_samples(samples, inputs["pairs"])
        encoders = [(name, self.encoder(name, samples, *sides)) for name, sides in vectors.items()]
        self.patch.setattr(retrieval, "each_encoder", lambda config, inputs: iter(encoders))
        return run_retrieval(entry, inputs, self.folder)

    def encoder(self, name: str, samples: Sequence[Sample], images: np.ndarray, texts: np.ndarray) -> Encoder:
        def pixels(image: Image) -> bytes:
            try:
                return load_pixels(image).tobytes()
            except UserError:
                return b""

        of_picture = {pixels(sample.images[0]): row for row, sample in enumerate(samples) if sample.images}
        of_caption = {sample.answer: row for row, sample in reversed(list(enumerate(samples)))}

        def see(pictures: Sequence[PILImage.Image]) -> torch.Tensor:
            rows = [of_picture[picture.tobytes()] for picture in pictures]
            return torch.from_numpy(images[rows].astype(np.float32))

        def read(strings: Sequence[str]) -> torch.Tensor:
            self.asked.append(strings)
            return torch.from_numpy(texts[[of_caption[text] for text in strings]].astype(np.float32))

        return Encoder(name, images.shape[1], texts.shape[1], see, read)

    def measured(self) -> Measured:
        return Measured.model_validate_json((self.folder / BOARDS_FILE).read_text())

    def board(self) -> Board:
        return self.measured().boards[0]

    def values(self, row: int = 0) -> dict[str, float]:
        board = self.board()
        cells = board.rows[row].cells
        return {column: cell.value for column, cell in zip(board.columns, cells, strict=True) if cell}

    def drops(self) -> list[Drop]:
        return [
            Drop.model_validate_json(line) for line in (self.folder / DROPS_FILE).read_text().splitlines()
        ]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return Toy(tmp_path, monkeypatch)


def random_sides(n: int, seed: int = 0, d: int = 16, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n, d))
    return images, images + noise * rng.standard_normal((n, d))


def slow_recall(queries: np.ndarray, keys: np.ndarray, groups: Sequence[object], k: int) -> float:
    """One query after the other in float64, per cent."""
    queries, keys = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, keys))
    right = np.array([[one == other for other in groups] for one in groups])
    hits = 0
    for query, own in zip(queries, right, strict=True):
        scores = keys @ query
        hits += int((scores[~own] >= scores[own].max() - TIE).sum()) < k
    return 100 * hits / len(queries)


# ------------------------------------------------------------------------------------------- directions
def test_each_direction_stands_under_its_own_name_and_equals_brute_force(toy: Toy) -> None:
    images, texts = random_sides(40, noise=2.0)
    texts[::3] = texts[0] + 0.2 * texts[::3]  # captions that draw all pictures: the directions differ
    counts = toy.run([caption_pair(i) for i in range(40)], {"toy": (images, texts)})
    values = toy.values()
    for k in RECALL_AT:
        assert values[retrieval_column("i2t", k)] == pytest.approx(slow_recall(images, texts, range(40), k))
        assert values[retrieval_column("t2i", k)] == pytest.approx(slow_recall(texts, images, range(40), k))
    for way in ("i2t", "t2i"):
        mean = np.mean([values[retrieval_column(way, k)] for k in RECALL_AT])
        assert values[retrieval_column(way, None)] == pytest.approx(mean)
    assert values[retrieval_column("i2t", None)] != pytest.approx(values[retrieval_column("t2i", None)])
    assert counts == {"samples_measured": 40, "pairs": {"pictures": 40}, "drops": {}}


def released_script(images: np.ndarray, texts: np.ndarray, *, on_gpu: bool) -> dict[str, float]:
    """What Patho-R1's retrieval script prints under `text-to-image`, after the branches of its code."""
    if len(images) < 10_000 and on_gpu:
        queries, keys = images, texts  # its matrix is images x texts, and it ranks along the texts
    else:
        queries, keys = texts, images
    ranks = []
    for start in range(0, len(queries), 500):
        scores = queries[start : start + 500] @ keys.T
        rows = np.arange(len(scores))
        own = scores[rows, rows + start]
        ranks.append(1 + (scores > own[:, None]).sum(axis=1))
    found = np.concatenate(ranks)
    return {f"text-to-image R@{k}": 100 * float((found <= k).mean()) for k in RECALL_AT}


@pytest.mark.parametrize(
    ("n", "on_gpu", "in_truth"), [(300, True, "i2t"), (300, False, "t2i"), (10_000, True, "t2i")]
)
def test_the_released_script_calls_both_directions_text_to_image_and_here_each_has_its_name(
    n: int, on_gpu: bool, in_truth: str
) -> None:
    images, texts = random_sides(n, seed=4, d=32, noise=0.9)
    texts[: n // 2] += 2 * texts[0]
    images, texts = (
        (side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (images, texts)
    )
    i2t, t2i = pair_ranks(images, texts)
    ours = {
        way: {f"text-to-image R@{k}": 100 * hits_at(ranks, (k,)).mean() for k in RECALL_AT}
        for way, ranks in (("i2t", i2t), ("t2i", t2i))
    }
    printed = released_script(images, texts, on_gpu=on_gpu)
    other = {"i2t": "t2i", "t2i": "i2t"}[in_truth]
    # 2 queries of 10,000: the script counts no tie against the model
    assert printed == pytest.approx(ours[in_truth], abs=0.021)
    assert printed != pytest.approx(ours[other], abs=0.5)


def test_a_picture_that_finds_its_caption_need_not_be_found_by_it(toy: Toy) -> None:
    """Both captions lie nearest to picture 0, each picture nearest to its own caption."""
    images = np.array([[1.0, 0.0], [0.6, 0.8]])
    texts = np.array([[1.0, -0.1], [0.9, 0.3]])
    toy.run([caption_pair(i) for i in range(2)], {"toy": (images, texts)}, config(recall_at=[1]))
    assert "mean: of the recalls at 1." in toy.board().notes[0]
    assert toy.values() == {
        retrieval_column("i2t", 1): 100.0,
        retrieval_column("t2i", 1): 50.0,
        retrieval_column("i2t", None): 100.0,
        retrieval_column("t2i", None): 50.0,
    }


# ------------------------------------------------------------------------------- ties, repeated captions
def test_features_that_are_all_alike_find_nothing(toy: Toy) -> None:
    alike = np.ones((30, 5))
    toy.run([caption_pair(i) for i in range(30)], {"toy": (alike, alike)})
    assert set(toy.values().values()) == {0.0}


@pytest.mark.parametrize(("rule", "i2t", "t2i"), [("right", 100.0, 100.0), ("wrong", 50.0, 75.0)])
def test_a_repeated_caption_counts_by_the_rule_that_the_board_states(
    toy: Toy, rule: str, i2t: float, t2i: float
) -> None:
    captions = ["Keratin pearls.", "keratin  pearls", "Mucin", "Necrosis"]
    vectors = np.array([[1, 0, 0, 0], [1, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    texts = vectors.copy()
    texts[1] = texts[0]
    samples = [caption_pair(i, answer=caption) for i, caption in enumerate(captions)]
    toy.run(samples, {"toy": (vectors, texts)}, config(same_caption=rule, recall_at=[1, 2]))
    values = toy.values()
    assert values[retrieval_column("i2t", 1)] == i2t
    assert values[retrieval_column("t2i", 1)] == t2i
    note = next(note for note in toy.board().notes if "share their caption" in note)
    assert note.startswith("2 pairs share")
    assert ("counts as found" in note) == (rule == "right")


def test_a_caption_that_occurs_twice_is_encoded_once(toy: Toy) -> None:
    samples = [caption_pair(i, answer=f"Caption {i % 3}") for i in range(9)]
    toy.run(samples, {"toy": random_sides(9)})
    assert [list(batch) for batch in toy.asked] == [["Caption 0", "Caption 1", "Caption 2"]]


@pytest.mark.parametrize("seed", range(10))
def test_random_pairs_with_repeated_captions_pictures_and_nan_equal_brute_force(toy: Toy, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 30))
    captions = [f"Caption {number}" for number in rng.integers(0, n, n)]
    images, by_caption = random_sides(n, seed)
    images = images[rng.integers(0, n, n)]
    texts = np.stack([by_caption[int(caption.split()[1])] for caption in captions])
    broken = int(rng.integers(0, n))
    images[broken, 2] = np.nan
    samples = [caption_pair(i, answer=caption) for i, caption in enumerate(captions)]
    counts = toy.run(samples, {"toy": (images, texts)}, config(recall_at=[1, 2, 5]))
    assert counts["drops"] == {"features_not_finite": 1}
    kept = [i for i in range(n) if i != broken]
    words = [captions[i] for i in kept]
    for k in (1, 2, 5):
        wanted = slow_recall(images[kept], texts[kept], words, k)
        assert toy.values()[retrieval_column("i2t", k)] == pytest.approx(wanted)
        wanted = slow_recall(texts[kept], images[kept], words, k)
        assert toy.values()[retrieval_column("t2i", k)] == pytest.approx(wanted)


# --------------------------------------------------------------------------------------------- bad input
def test_what_cannot_be_measured_is_a_drop_and_the_sides_stay_aligned(toy: Toy) -> None:
    samples = [caption_pair(i) for i in range(12)]
    images = texts = np.eye(12)
    broken = Image(path="gone.png", data=b"no picture", width_px=24, height_px=16)
    samples[2] = samples[2].model_copy(update={"images": (broken,)})
    samples[5] = samples[5].model_copy(update={"answer": " . "})
    samples[7] = samples[7].model_copy(update={"images": ()})
    samples[9] = samples[9].model_copy(update={"answer": samples[0].answer})
    images = images.copy()
    images[9, 0] = np.inf
    texts = texts.copy()
    texts[10] = np.nan
    both = {"first": (images, np.eye(12)), "second": (np.eye(12), texts)}
    counts = toy.run(
        [*samples, samples[3]],
        {k: (np.vstack([i, i[3]]), np.vstack([t, t[3]])) for k, (i, t) in both.items()},
    )
    assert counts["drops"] == {
        "duplicate_id": 1,
        "features_not_finite": 1,
        "no_caption": 1,
        "no_image": 1,
        "not_an_image": 1,
        "text_features_not_finite": 1,
    }
    assert counts["samples_measured"] == 7
    assert {drop.sample_id: drop.reason for drop in toy.drops()} == {
        "pair 2": "not_an_image",
        "pair 3": "duplicate_id",
        "pair 5": "no_caption",
        "pair 7": "no_image",
        "pair 9": "features_not_finite",
        "pair 10": "text_features_not_finite",
    }
    for row in range(2):
        assert set(toy.values(row).values()) == {100.0}
    assert any(note.startswith("0 pairs share their caption") for note in toy.board().notes)
    assert any(
        note.startswith("Left out for all encoders: no_image 1, duplicate_id 1") for note in toy.board().notes
    )


def test_an_encoder_without_any_finite_feature_is_named(toy: Toy) -> None:
    whole, broken = np.eye(3), np.full((3, 3), np.nan)
    with pytest.raises(UserError, match="found: blind gives no features"):
        toy.run([caption_pair(i) for i in range(3)], {"toy": (whole, whole), "blind": (broken, whole)})


def test_a_set_without_pairs_of_its_wording_is_refused(toy: Toy) -> None:
    entry = config(sets=[{"name": "pictures", "samples": ["pairs"], "wording": "unseen"}])
    with pytest.raises(UserError, match="pictures: pairs hold no held-out Sample of caption, wording unseen"):
        toy.run([caption_pair(i) for i in range(3)], {"toy": random_sides(3)}, entry)


def test_wording_takes_the_pairs_of_that_stratum(toy: Toy) -> None:
    samples = [caption_pair(i, strata=(f"wording={'unseen' if i % 2 else 'seen'}",)) for i in range(10)]
    entry = config(sets=[{"name": "pictures", "samples": ["pairs"], "wording": "unseen"}])
    assert toy.run(samples, {"toy": random_sides(10)}, entry)["samples_measured"] == 5


def test_a_caption_of_five_thousand_words_is_measured(toy: Toy) -> None:
    samples = [caption_pair(0, answer="word " * 5000), caption_pair(1)]
    assert toy.run(samples, {"toy": (np.eye(2), np.eye(2))})["samples_measured"] == 2


def test_training_pairs_are_not_searched(toy: Toy) -> None:
    samples = [caption_pair(i, split="train" if i < 4 else "test") for i in range(10)]
    assert toy.run(samples, {"toy": random_sides(10)})["samples_measured"] == 6


# ----------------------------------------------------------------------------------------------- config
def test_an_encoder_without_a_text_tower_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="efficientnet_lite0 takes no texts"):
        config(encoders={"plain": "efficientnet_lite0"}).check()


@pytest.mark.parametrize(
    "keys",
    [
        {"recall_at": [0, 5]},
        {"recall_at": []},
        {"same_caption": "maybe"},
        {"sets": [{"name": "a", "samples": ["x"]}, {"name": "a", "samples": ["y"]}]},
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**keys)


def test_changed_weights_measure_anew(tmp_path: Path) -> None:
    entry = config(encoders={"own": f"open_clip:local-dir:{tmp_path}"})
    before = entry.fingerprint()
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"other weights")
    assert entry.fingerprint() != before


def test_recalls_stand_once_and_in_order() -> None:
    assert config(recall_at=[10, 1, 10]).recall_at == (1, 10)


# ------------------------------------------------------------------------------------------------ board
def test_fewer_pairs_than_k_are_said_to_be_found_by_definition(toy: Toy) -> None:
    toy.run([caption_pair(i) for i in range(12)], {"toy": random_sides(12, noise=50.0)})
    assert toy.values()[retrieval_column("i2t", 20)] == 100.0
    assert "Recall at 20 and above is 100 by definition: there are 12 pairs." in toy.board().notes


def test_chance_is_k_of_n_and_more_where_captions_repeat() -> None:
    assert chance_at(np.arange(50), 5) == pytest.approx(0.1)
    assert chance_at(np.arange(4), 20) == 1.0
    groups = np.array([0, 0, 0, 1, 2, 3, 4, 5])
    rng = np.random.default_rng(0)
    drawn = [np.isin(groups, groups[rng.permutation(8)[:2]]).mean() for _ in range(4_000)]
    assert chance_at(groups, 2) == pytest.approx(np.mean(drawn), abs=0.02)


def test_chance_stands_in_the_notes(toy: Toy) -> None:
    toy.run([caption_pair(i) for i in range(40)], {"toy": random_sides(40)})
    notes = toy.board().notes
    assert "A random order of the items reaches 2.50 at 1, 12.50 at 5, 25.00 at 10, 50.00 at 20." in notes


def test_intervals_draw_whole_groups(toy: Toy) -> None:
    """Four groups of which each is found whole or not at all: an interval over pairs would be far narrower."""
    vectors = np.eye(80)
    texts = vectors.copy()
    texts[:40] = np.roll(vectors[:40], 1, axis=0)
    wide: list[float] = []
    narrow: list[float] = []
    for widths, group_of in ((wide, lambda i: i // 20), (narrow, lambda i: i)):
        samples = [caption_pair(i, group=group_of(i)) for i in range(80)]
        toy.run(samples, {"toy": (vectors, texts)}, config(recall_at=[1]))
        cell = toy.board().rows[0].cells[0]
        assert cell is not None
        assert cell.value == 50.0
        assert cell.low is not None
        assert cell.high is not None
        widths.append(cell.high - cell.low)
    assert wide[0] > 3 * narrow[0]


def test_one_group_is_said_to_be_drawn_pair_by_pair(toy: Toy) -> None:
    toy.run([caption_pair(i, group=0) for i in range(30)], {"toy": random_sides(30)})
    assert "Intervals: 95 %, bootstrap over pairs." in toy.board().notes


def test_encoders_are_compared_with_the_first_on_the_same_pairs(toy: Toy) -> None:
    good, poor = random_sides(60, noise=0.1), random_sides(60, noise=5.0)
    toy.run([caption_pair(i) for i in range(60)], {"poor": poor, "good": good, "same": poor})
    better, same = toy.measured().comparisons
    assert (better.before, better.after, better.benchmark, better.n) == ("poor", "good", "pictures", 60)
    means = [
        np.mean([toy.values(row)[retrieval_column(way, None)] for way in ("i2t", "t2i")]) for row in (0, 1)
    ]
    assert better.difference == pytest.approx(means[1] - means[0])
    assert better.metric == "mean recall of both directions, per cent"
    assert better.low > 0
    assert better.p_value is not None and better.p_value < 0.05  # noqa: PT018
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_published_rows_stand_beside_a_set_of_the_papers_name_only(toy: Toy) -> None:
    samples = [caption_pair(i) for i in range(30)]
    sides = {"toy": random_sides(30)}
    toy.run(samples, sides, config(sets=[{"name": "ARCH", "samples": ["pairs"]}]))
    board = toy.board()
    assert [row.origin for row in board.rows][:2] == ["measured", "published"]
    patho_l = dict(
        zip(board.columns, next(r for r in board.rows if r.name == "Patho-CLIP-L").cells, strict=True)
    )
    for column, value in (
        (retrieval_column("i2t", 1), 30.73),
        (retrieval_column("t2i", 1), 28.20),
        (retrieval_column("i2t", None), 62.28),
    ):
        cell = patho_l[column]
        assert cell is not None
        assert cell.value == value
    toy.run(samples, sides, config(sets=[{"name": "ARCH", "samples": ["pairs"]}], published=False))
    assert len(toy.board().rows) == 1
    toy.run(samples, sides)
    assert len(toy.board().rows) == 1


def test_two_runs_write_the_same_board(toy: Toy) -> None:
    samples = [caption_pair(i) for i in range(30)]
    toy.run(samples, {"toy": random_sides(30)})
    first = (toy.folder / BOARDS_FILE).read_bytes()
    toy.run(samples, {"toy": random_sides(30)})
    assert (toy.folder / BOARDS_FILE).read_bytes() == first
    assert json.loads(first)["boards"][0]["columns"][:2] == [
        retrieval_column("i2t", 1),
        retrieval_column("t2i", 1),
    ]
