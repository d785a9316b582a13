import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score
from tests.fixtures import encoded, make_sample
from tests.models.test_embed import clip_folder, needs_open_clip  # noqa: F401  (a fixture)

from pathloom.evaluate import encoders
from pathloom.evaluate.class_prompts import read_prompts
from pathloom.evaluate.encoders_config import ZeroShotConfig
from pathloom.evaluate.report_records import BOARDS_FILE, Cell, Measured
from pathloom.evaluate.zero_shot import class_probabilities, class_vectors, run_zero_shot
from pathloom.images import encode_png
from pathloom.models.embed import Encoder, load_encoder
from pathloom.schema import Image, Origin, Sample
from pathloom.stage import UserError, read_jsonl
from pathloom.store import write_samples

GREYS = {"low": 40, "moderate": 120, "high": 200}
"""Class -> the grey of its pictures. The blue of a picture says which class the fabricated encoder sees."""
CLASSES = tuple(GREYS)
NAMES = {"low": ["few cells", "low"], "moderate": ["some cells"], "high": ["many cells"]}


def picture(seen: str, number: int) -> Image:
    pixels = PILImage.new("RGB", (16, 16), (number % 256, number // 256, GREYS[seen]))
    return Image(path=f"{number}.png", data=encode_png(pixels), width_px=16, height_px=16)


def cell(number: int, truth: str, seen: str, **fields: Any) -> Sample:
    given = {
        "task": "label",
        "split": "test",
        "images": (picture(seen, number),),
        "question": "How many cells?",
        "choices": CLASSES,
        "answer": truth,
        "origin": Origin(
            source="made", source_id=f"{number}", licence="CC0-1.0", group=f"slide {number // 2}"
        ),
    }
    return make_sample(f"cell/{number}", **{**given, **fields})


def samples_of(confusion: Mapping[tuple[str, str], int]) -> list[Sample]:
    """One Sample a count of (truth, what the fabricated encoder sees)."""
    pairs = [pair for pair, count in confusion.items() for _ in range(count)]
    return [cell(number, truth, seen) for number, (truth, seen) in enumerate(pairs)]


CONFUSION = {
    ("low", "low"): 12,
    ("low", "moderate"): 3,
    ("moderate", "moderate"): 6,
    ("moderate", "high"): 2,
    ("high", "high"): 4,
    ("high", "low"): 3,
}


def sees_blue(name: str = "blue", *, blind_to: int | None = None, broken: str = "") -> Encoder:
    """An encoder whose features are the class of the picture's blue, and a text's class by its words."""
    import torch

    axes = dict(zip(GREYS.values(), np.eye(3, dtype=np.float32), strict=True))
    words = {word: np.eye(3)[k] for k, label in enumerate(CLASSES) for word in NAMES[label]}

    def see(pictures: Sequence[PILImage.Image]) -> "torch.Tensor":
        rows = []
        for one in pictures:
            red, _, blue = np.asarray(one)[0, 0].tolist()
            rows.append(np.full(3, np.nan) if red == blind_to else 7.0 * axes[blue])
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def read(strings: Sequence[str]) -> "torch.Tensor":
        rows = [next(axis for word, axis in words.items() if word in text) for text in strings]
        if broken:
            rows = [np.full(3, np.nan) if broken in t else r for t, r in zip(strings, rows, strict=True)]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    return Encoder(name, image_dim=3, text_dim=3, see=see, read=read, logit_scale=10.0)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "cellularity.json"
    path.write_text(
        json.dumps({"0": {"classnames": NAMES, "templates": ["CLASSNAME.", "a field of CLASSNAME."]}})
    )
    return path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give these encoders wherever a recipe's string asks for one: `noise:1` is the first, and so on."""

    def given(*loaded: Encoder) -> None:
        monkeypatch.setattr(
            encoders, "load_encoder", lambda text, inputs: loaded[int(text.removeprefix("noise:")) - 1]
        )

    return given


def config(prompts: Path, num_encoders: int = 1, **fields: Any) -> ZeroShotConfig:
    given = {
        "name": "zero",
        "kind": "zero_shot",
        "encoders": {f"encoder {k}": f"noise:{k}" for k in range(1, num_encoders + 1)},
        "num_resamples": 200,
        "sets": [{"name": "cellularity", "samples": ["cells"], "prompts": str(prompts), "ordered": True}],
    }
    return ZeroShotConfig(**{**given, **fields})


def bounds(cell: Cell | None) -> tuple[float, float, float]:
    """Low, value and high of a cell that was measured."""
    assert cell is not None
    assert cell.low is not None
    assert cell.high is not None
    return cell.low, cell.value, cell.high


def run(
    entry: ZeroShotConfig, samples: Mapping[str, Iterable[Sample]], tmp_path: Path
) -> tuple[dict[str, Any], Measured, list[dict[str, Any]]]:
    for name, some in samples.items():
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        write_samples(some, tmp_path / name)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    counts = run_zero_shot(entry, {name: tmp_path / name for name in samples}, out)
    measured = Measured.model_validate_json((out / BOARDS_FILE).read_text())
    return counts, measured, read_jsonl(out / "scores.jsonl")


# ------------------------------------------------------------------------------------------ what is computed
def test_a_known_confusion_gives_the_metrics_of_scikit_learn(tmp_path, prompts, use):
    use(sees_blue())

    counts, measured, lines = run(config(prompts), {"cells": samples_of(CONFUSION)}, tmp_path)

    truth = [CLASSES.index(t) for (t, _), count in CONFUSION.items() for _ in range(count)]
    seen = [CLASSES.index(s) for (_, s), count in CONFUSION.items() for _ in range(count)]
    intervals = [bounds(board.rows[0].cells[0]) for board in measured.boards]
    assert [value for _, value, _ in intervals] == pytest.approx(
        [
            100 * accuracy_score(truth, seen),
            100 * balanced_accuracy_score(truth, seen),
            cohen_kappa_score(truth, seen, weights="quadratic"),
        ]
    )
    assert all(low < value < high for low, value, high in intervals)
    (confusion,) = measured.confusions
    assert confusion.labels == CLASSES
    assert confusion.counts == ((12, 3, 0), (0, 6, 2), (3, 0, 4))
    assert counts == {"samples_measured": 30, "encoders": 1, "drops": {}}
    assert [(line["truth"], line["answer"]) for line in lines] == [
        pair for pair, count in CONFUSION.items() for _ in range(count)
    ]
    assert {round(line["probability"], 6) for line in lines} == {
        round(np.exp(10) / (np.exp(10) + 2), 6)
    }  # logits 10, 0, 0


def test_what_is_reached_without_looking_stands_below_the_encoders(tmp_path, prompts, use):
    use(sees_blue())

    _, measured, _ = run(config(prompts), {"cells": samples_of(CONFUSION)}, tmp_path)

    accuracy_board, balanced_board, kappa_board = measured.boards
    assert accuracy_board.rows[-1].name == "best constant answer"
    assert accuracy_board.rows[-1].values[0] == 50.0  # 15 of 30 are low
    assert balanced_board.rows[-1].values[0] == pytest.approx(100 / 3)
    assert [row.name for row in kappa_board.rows] == ["encoder 1"]


def test_groups_and_not_pictures_are_resampled(tmp_path, prompts, use):
    use(sees_blue())
    alike = [
        sample.model_copy(update={"origin": sample.origin.model_copy(update={"group": sample.answer + seen})})
        for sample, seen in zip(
            samples_of(CONFUSION), [s for (_, s), n in CONFUSION.items() for _ in range(n)], strict=True
        )
    ]

    _, apart, _ = run(config(prompts), {"cells": samples_of(CONFUSION)}, tmp_path)
    shutil.rmtree(tmp_path / "out")
    _, together, _ = run(config(prompts), {"cells": alike}, tmp_path)

    def width(measured: Measured) -> float:
        low, _, high = bounds(measured.boards[0].rows[0].cells[0])
        return high - low

    assert width(together) > 1.3 * width(apart)
    assert "resample 15 groups" in apart.boards[0].notes[0]
    assert "resample 6 groups" in together.boards[0].notes[0]


def test_of_equal_logits_the_class_that_comes_first_wins(tmp_path, prompts, use):
    import torch

    use(replace(sees_blue(), read=lambda strings: torch.ones(len(strings), 3)))

    _, measured, lines = run(config(prompts), {"cells": samples_of(CONFUSION)}, tmp_path)

    assert {line["answer"] for line in lines} == {"low"}
    assert {round(line["probability"], 9) for line in lines} == {round(1 / 3, 9)}
    assert measured.boards[0].rows[0].values[0] == 50.0


def test_encoders_are_compared_with_the_first_on_the_same_pictures(tmp_path, prompts, use):
    # the second sees every picture of "high" as it is
    better = [
        cell(number, truth, seen)
        for number, (truth, seen) in enumerate(
            pair for pair, count in CONFUSION.items() for _ in range(count)
        )
    ]
    by_red = {number: sample.answer for number, sample in enumerate(better)}
    good = sees_blue("good")

    def see(pictures: Sequence[PILImage.Image]) -> Any:
        import torch

        rows = [np.eye(3)[CLASSES.index(by_red[np.asarray(one)[0, 0, 0].item()])] for one in pictures]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    use(sees_blue(), replace(good, see=see))

    _, measured, _ = run(config(prompts, 2), {"cells": better}, tmp_path)

    by_accuracy, by_balance = measured.comparisons
    assert (by_accuracy.before, by_accuracy.after) == ("encoder 1", "encoder 2")
    assert (by_accuracy.metric, by_balance.metric) == ("accuracy, per cent", "balanced_accuracy, per cent")
    assert by_accuracy.difference == pytest.approx(100 * 8 / 30)
    assert by_accuracy.n == 30
    assert by_accuracy.low > 0
    assert [row.values[0] for row in measured.boards[0].rows[:2]] == pytest.approx([100 * 22 / 30, 100.0])


# ------------------------------------------------------------------------------------ as others compute it
@needs_open_clip
def test_class_vectors_of_one_name_each_equal_open_clips_own(tmp_path, clip_folder):  # noqa: F811
    import open_clip
    import torch

    encoder = load_encoder(f"open_clip:local-dir:{clip_folder}")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    path = tmp_path / "p.json"
    templates = ["CLASSNAME.", "an image of CLASSNAME.", "CLASSNAME in an H&E stain."]
    names = {"a": ["adenocarcinoma"], "b": ["normal lung"], "c": ["squamous cell carcinoma"]}
    path.write_text(json.dumps({"0": {"classnames": names, "templates": templates}}))

    ours = class_vectors(encoder, read_prompts(str(path)), batch_size=2)

    theirs = open_clip.build_zero_shot_classifier(
        model.eval(),
        tokenizer,
        [name for (name,) in names.values()],
        [lambda name, t=t: t.replace("CLASSNAME", name) for t in templates],
    )
    assert ours == pytest.approx(theirs.T.numpy(), abs=1e-5)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    features = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    logits = (
        model.logit_scale.exp() * torch.nn.functional.normalize(torch.from_numpy(features), dim=1) @ theirs
    )
    assert class_probabilities(features, ours, encoder.logit_scale) == pytest.approx(
        logits.softmax(dim=1).detach().numpy(), abs=1e-5
    )


def test_all_names_in_all_templates_weigh_the_same(prompts):
    # CONCH: mean over names and templates at once, of unit vectors, then length 1
    vectors = {"few": [3.0, 0.0], "low": [0.0, 5.0], "some": [1.0, 0.0], "many": [0.0, -2.0]}

    def read(strings: Sequence[str]) -> Any:
        import torch

        rows = [next(v for word, v in vectors.items() if word in text) for text in strings]
        return torch.tensor(rows)

    encoder = Encoder("made", text_dim=2, read=read)

    low, moderate, high = class_vectors(encoder, read_prompts(str(prompts)))

    assert low == pytest.approx([np.sqrt(0.5), np.sqrt(0.5)])  # though one vector is longer than the other
    assert moderate == pytest.approx([1.0, 0.0])
    assert high == pytest.approx([0.0, -1.0])


# ---------------------------------------------------------------------------------------------- bad input
@pytest.mark.usefixtures("prompts")
@pytest.mark.parametrize(
    ("samples", "fields", "complaint"),
    [
        ([cell(0, "low", "low"), cell(1, "moderately", "low")], {}, r"lacks 'moderately' \(did you mean 'mod"),
        ([cell(0, "low", "low"), cell(1, "high", "low")], {}, "no Sample of the set cells is 'moderate'.*allow_abs"),
        ([cell(0, "low", "low"), cell(1, "few cells", "low")], {"allow_absent": True}, "all 2 Samples are 'low'"),
        ([cell(0, "", "low")], {}, "none of 1 Samples has an answer"),
        ([cell(0, "low", "low", task="yes_no")], {}, "no held-out Sample of label or choice"),
        ([cell(0, "low", "low", split="train")], {}, "no held-out Sample"),
        ([cell(0, "low", "low")], {"source": "phantom"}, "no held-out Sample .* of the source 'phantom'"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_the_prompts_are_refused_before_an_encoder_is_loaded(
    tmp_path, prompts, use, samples, fields, complaint
):
    use()  # none may be asked for
    one = {"name": "cells", "samples": ["cells"], "prompts": str(prompts), **fields}

    with pytest.raises(UserError, match=complaint):
        run(config(prompts, sets=[one]), {"cells": samples}, tmp_path)


def test_a_set_may_hold_some_of_the_classes_if_it_says_so(tmp_path, prompts, use):
    use(sees_blue())
    samples = [cell(0, "low", "low"), cell(1, "Some cells.", "high"), cell(2, "moderate", "moderate")]
    one = {"name": "cells", "samples": ["cells"], "prompts": str(prompts), "allow_absent": True}

    _, measured, lines = run(config(prompts, sets=[one]), {"cells": samples}, tmp_path)

    assert [(line["truth"], line["answer"]) for line in lines] == [
        ("low", "low"),
        ("moderate", "high"),
        ("moderate", "moderate"),
    ]
    assert measured.boards[1].rows[0].values[0] == 75.0  # the absent class has no recall
    assert measured.boards[1].rows[-1].values[0] == 50.0


def test_one_source_of_a_stage_can_be_a_set(tmp_path, prompts, use):
    use(sees_blue())
    other = Origin(source="other", source_id="x", licence="CC0-1.0", group="x")
    samples = [*samples_of(CONFUSION), cell(99, "unheard of", "low", origin=other)]
    samples += [cell(98, "low", "low", origin=other, images=())]  # no Drop of this set
    one = {"name": "cells", "samples": ["cells"], "prompts": str(prompts), "source": "made"}

    counts, _, _ = run(config(prompts, sets=[one]), {"cells": samples}, tmp_path)

    assert (counts["samples_measured"], counts["drops"]) == (30, {})


def test_features_that_are_not_finite_count_as_wrong_and_pictures_nobody_reads_do_not_count(
    tmp_path, prompts, use
):
    use(sees_blue(blind_to=0), sees_blue("whole"))
    samples = samples_of(CONFUSION)
    cut = Image(path="cut.png", data=encoded(5)[:-40], width_px=24, height_px=16)
    samples[-1] = samples[-1].model_copy(update={"images": (cut,)})

    for _ in range(2):  # the second time from the features that are kept
        counts, measured, lines = run(config(prompts, 2), {"cells": samples}, tmp_path)

        assert counts["drops"]["features_not_finite"] == 1
        assert sum(counts["drops"].values()) == 2
        drops = read_jsonl(tmp_path / "out" / "drops.jsonl")
        assert {drop["sample_id"] for drop in drops} == {"cell/0", "cell/29"}
        blind, whole = measured.boards[0].rows[:2]
        assert [blind.values[0], whole.values[0]] == pytest.approx([100 * 21 / 29, 100 * 22 / 29])
        assert measured.confusions[0].columns[-1] == "no answer"
        assert measured.confusions[0].counts[0] == (11, 3, 0, 1)
        assert len(measured.confusions[1].counts[0]) == 3
        assert [line["answer"] for line in lines if line["sample_id"] == "cell/0"] == [None, "low"]
        assert not any(line["sample_id"] == "cell/29" for line in lines)
        assert measured.comparisons[0].difference == pytest.approx(100 / 29)
        notes = " ".join(measured.boards[0].notes)
        assert "1 pictures could not be read" in notes
        assert "encoder 1 has no finite features of 1 pictures" in notes


def test_an_id_that_comes_again_and_a_sample_without_an_answer_are_counted_drops(tmp_path, prompts, use):
    use(sees_blue())
    samples = samples_of(CONFUSION)
    again = [samples[0], cell(77, "", "low")]
    one = {"name": "cells", "samples": ["cells", "again"], "prompts": str(prompts)}

    counts, _, lines = run(config(prompts, sets=[one]), {"cells": samples, "again": again}, tmp_path)

    assert counts["drops"] == {"no_label": 1, "duplicate_id": 1}
    assert len(lines) == counts["samples_measured"] == 30


def test_an_encoder_that_gives_nothing_finite_is_refused_by_name(tmp_path, prompts, use):
    import torch

    blind = replace(sees_blue(), see=lambda pictures: torch.full((len(pictures), 3), torch.nan))
    use(blind)
    with pytest.raises(UserError, match=r"encoder 1 gives features of no picture.*30 features_not_finite"):
        run(config(prompts), {"cells": samples_of(CONFUSION)}, tmp_path)

    use(sees_blue("mute", broken="many"))
    with pytest.raises(UserError, match="mute gives NaN or infinity for prompts of 'high'"):
        run(config(prompts), {"cells": samples_of(CONFUSION)}, tmp_path)


def test_a_faulty_prompt_file_is_refused_before_the_first_stage_runs(tmp_path, prompts):
    entry = config(prompts).model_copy(update={"encoders": {}})  # of prompts alone
    entry.check()
    before = entry.fingerprint()

    prompts.write_text(prompts.read_text().replace("few cells", "a few cells"))
    assert entry.fingerprint() != before

    prompts.write_text("{")
    with pytest.raises(UserError, match=r"cellularity\.json: not readable"):
        entry.check()
    prompts.unlink()
    with pytest.raises(UserError, match=r"cellularity\.json: No such file"):
        entry.check()


def test_an_encoder_of_pictures_alone_and_two_columns_of_one_name_are_refused(prompts):
    with pytest.raises(UserError, match="noise:1 takes no texts"):
        config(prompts).check()
    one = {"name": "cells", "samples": ["cells"], "prompts": str(prompts)}
    with pytest.raises(ValueError, match="two sets are called 'cells'"):
        config(prompts, sets=[one, one])


# ------------------------------------------------------------------------------- several sets, the paper's
def lungs(prompts: Path, *names: str) -> list[dict[str, Any]]:
    return [{"name": name, "samples": ["cells"], "prompts": str(prompts)} for name in names]


def test_the_papers_rows_stand_below_for_its_sets_and_its_mean_only_beside_the_same_sets(
    tmp_path, prompts, use
):
    use(sees_blue())
    samples = {"cells": samples_of(CONFUSION)}
    of_paper = ("LC-Lung", "LC-Colon", "WSSS4LUAD", "SICAPv2", "BMT")

    _, two, _ = run(config(prompts, sets=lungs(prompts, "LC-Lung", "ours")), samples, tmp_path)
    _, all_five, _ = run(config(prompts, sets=lungs(prompts, *of_paper)), samples, tmp_path)
    _, hidden, _ = run(config(prompts, sets=lungs(prompts, *of_paper), published=False), samples, tmp_path)

    printed = {row.name: row for row in two.boards[0].rows if row.origin == "published"}
    assert two.boards[0].columns == ("LC-Lung", "ours", "mean")
    assert printed["Patho-CLIP-L"].values[0] == 93.78
    assert printed["Patho-CLIP-L"].cells[1:] == (None, None)
    printed = {row.name: row for row in all_five.boards[0].rows if row.origin == "published"}
    assert list(printed["Patho-CLIP-L"].values) == [
        93.78,
        97.48,
        95.89,
        55.09,
        38.44,
        76.14,
    ]
    assert not any(row.origin == "published" for row in hidden.boards[0].rows)
    assert not any(row.origin == "published" for row in all_five.boards[1].rows)


def test_the_column_of_means_is_the_mean_of_the_columns(tmp_path, prompts, use):
    use(sees_blue(), sees_blue("again"))
    easy = [cell(100 + k, label, label) for k, label in enumerate(CLASSES * 4)]
    sets = [
        {"name": "hard", "samples": ["cells"], "prompts": str(prompts)},
        {"name": "easy", "samples": ["easy"], "prompts": str(prompts), "ordered": True},
    ]

    _, measured, _ = run(
        config(prompts, 2, sets=sets), {"cells": samples_of(CONFUSION), "easy": easy}, tmp_path
    )

    assert [one.benchmark for one in measured.comparisons[::2]] == ["mean", "hard", "easy"]
    assert {one.difference for one in measured.comparisons} == {0.0}  # the second encoder sees the same
    for board in measured.boards[:2]:
        for row in board.rows:
            *of_sets, mean = (value for value in row.values if value is not None)
            assert mean == pytest.approx(sum(of_sets) / 2)
    assert not any("independent" in note for note in measured.boards[0].notes)
    assert measured.boards[2].columns == ("easy",)  # kappa for the ordered set only
    assert measured.boards[2].rows[0].values[0] == 1.0


def test_a_mean_over_sets_that_share_groups_is_said_to_be_too_sure(tmp_path, prompts, use):
    use(sees_blue())
    sets = [{"name": name, "samples": ["cells"], "prompts": str(prompts)} for name in ("one", "same")]

    _, measured, _ = run(config(prompts, sets=sets), {"cells": samples_of(CONFUSION)}, tmp_path)

    assert any("too narrow" in note for note in measured.boards[0].notes)


def test_the_same_seed_gives_the_same_file(tmp_path, prompts, use):
    use(sees_blue())
    samples = {"cells": samples_of(CONFUSION)}

    _, first, _ = run(config(prompts), samples, tmp_path)
    _, second, _ = run(config(prompts), samples, tmp_path)
    _, other, _ = run(config(prompts, seed=1), samples, tmp_path)

    assert first == second
    assert first != other


# ---------------------------------------------------------------------------------------------- real data
@needs_open_clip
@pytest.mark.slow
def test_lc25000_runs_through_the_shipped_prompts(tmp_path, data_root, clip_folder):  # noqa: F811
    from pathloom.ingest.tiles import TilesConfig
    from pathloom.shards import run_ingest

    tiles = TilesConfig(
        name="tiles",
        kind="ingest",
        source="tiles",
        root=data_root / "tiles" / "lc25000_lung" / "tiles",
        dataset="lc25000_lung",
    )
    run_ingest(tiles, tmp_path / "tiles")
    entry = ZeroShotConfig(
        name="zero",
        kind="zero_shot",
        encoders={"untrained": f"open_clip:local-dir:{clip_folder}"},
        sets=[{"name": "LC-Lung", "samples": ["tiles"], "prompts": "lc_lung", "which": "all"}],
    )
    entry.check()
    (tmp_path / "out").mkdir()

    counts = run_zero_shot(entry, {"tiles": tmp_path / "tiles"}, tmp_path / "out")

    measured = Measured.model_validate_json((tmp_path / "out" / BOARDS_FILE).read_text())
    low, _, _ = bounds(measured.boards[1].rows[0].cells[0])
    assert counts["samples_measured"] == 568
    assert low < 55  # balanced accuracy of weights that have seen nothing: about a third
