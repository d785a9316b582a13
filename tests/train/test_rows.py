import itertools
import re

import numpy as np
import pytest
from tests.fixtures import FAMILIES, grouped, make_sample
from trl.data_utils import apply_chat_template, prepare_multimodal_messages

from pathloom.benchmarks import BENCHMARKS, training_templates
from pathloom.evaluate.generative import render_text
from pathloom.images import load_pixels
from pathloom.schema import Region, Turn
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.tasks import TASKS, find_task
from pathloom.train.config import Replay
from pathloom.train.rows import (
    LeakError,
    Replayed,
    Rows,
    mix,
    refuse_held_out,
    refuse_shared_groups,
    replayed,
    training_samples,
)


def test_training_takes_the_training_split_and_nothing_else():
    samples = [make_sample(split, split=split) for split in ("train", "val", "test")]

    assert [sample.id for sample in training_samples(samples, None)] == ["train"]


def test_cross_validation_leaves_out_the_held_out_fold():
    samples = [make_sample(split, split=split) for split in ("fold-0", "fold-1", "fold-2", "test")]

    assert [sample.id for sample in training_samples(samples, "fold-1")] == ["fold-0", "fold-2"]


@pytest.mark.parametrize(("split", "fold"), [("test", None), ("test", "fold-0"), ("fold-0", "fold-0")])
def test_a_held_out_sample_is_refused_by_name(split, fold):
    samples = [make_sample("good"), make_sample("leaked", split=split)]

    with pytest.raises(LeakError, match=f"sample leaked is of split '{split}'"):
        refuse_held_out(samples, fold)


def test_other_folds_may_be_trained_on():
    refuse_held_out([make_sample(split="fold-1"), make_sample(split="train")], "fold-0")


def test_a_patient_on_both_sides_is_refused_by_name():
    with pytest.raises(LeakError, match="group 'patient 7'"):
        refuse_shared_groups(
            [grouped("a", "patient 3"), grouped("b", "patient 7")], [grouped("c", "patient 7", split="test")]
        )
    refuse_shared_groups([grouped("a", "patient 3")], [grouped("c", "patient 7", split="test")])


def test_without_weights_samples_come_as_they_are():
    samples = [make_sample(str(index)) for index in range(3)]

    assert mix(samples, {}, 0) == samples


def test_a_mixture_follows_its_weights_and_uses_all_of_a_small_task():
    samples = [make_sample(f"y{i}") for i in range(2)] + [
        make_sample(f"c{i}", task="count", answer="1") for i in range(8)
    ]

    mixed = mix(samples, {"yes_no": 1, "count": 1}, 0)

    assert len(mixed) == 10
    small = [sample.id for sample in mixed if sample.task == "yes_no"]
    assert sorted(small) == sorted(["y0", "y1"] * 2 + [small[-1]])
    assert mixed == mix(samples, {"yes_no": 1, "count": 1}, 0)
    assert mixed != mix(samples, {"yes_no": 1, "count": 1}, 1)


def test_a_weight_for_a_task_without_samples_is_named():
    with pytest.raises(UserError, match=r"tasks\.count: there is no training Sample"):
        mix([make_sample()], {"yes_no": 1, "count": 1}, 0)


def replay(**fields):
    return Replay.model_validate({"samples": ["general"], "share": 0.2, **fields})


@pytest.mark.parametrize(("share", "count"), [(0.2, 20), (0.5, 80), (0.9, 720), (0.001, 1)])
def test_replay_is_its_share_of_all_rows(share, count):
    samples = [make_sample(f"g{index}") for index in range(30)]

    chosen = replayed(samples, 80, replay(share=share), 0)

    assert len(chosen) == count
    times = {sample.id: chosen.count(sample) for sample in samples}
    assert max(times.values()) - min(times.values()) <= 1


def test_what_is_replayed_hangs_on_the_seed_alone():
    samples = [make_sample(f"g{index}") for index in range(100)]

    assert replayed(samples, 80, replay(), 3) == replayed(samples, 80, replay(), 3)
    assert replayed(samples, 80, replay(), 3) != replayed(samples, 80, replay(), 4)


def test_replay_follows_the_weights_of_its_tasks():
    samples = [make_sample(f"y{i}") for i in range(90)] + [
        make_sample(f"c{i}", task="count", answer="1") for i in range(10)
    ]

    chosen = replayed(samples, 300, replay(share=0.25, tasks={"yes_no": 1, "count": 1}), 0)

    assert len(chosen) == 100
    assert sum(sample.task == "count" for sample in chosen) == 50


def test_a_replayed_row_is_asked_as_it_was_learnt_and_not_turned():
    new, old = make_sample("cell"), make_sample("shape")
    told = old.model_copy(update={"reasoning": "Seen."})
    general = Replayed((told, *[old] * 20), "cot", augment=False)
    rows = Rows([new] * 20, "direct", augment=True, seed=0, replayed=general)

    first, replayed_one = rows.row(0), rows.row(20)
    assert first["completion"][0]["content"][0]["text"] == "<answer>yes</answer>"
    assert replayed_one["completion"][0]["content"][0]["text"] == "<think>Seen.</think><answer>yes</answer>"
    assert first["prompt"][0] != replayed_one["prompt"][0], "the system prompt"
    upright = np.asarray(load_pixels(new.images[0]))
    as_they_are = [np.array_equal(np.asarray(rows.row(index)["images"][0]), upright) for index in range(41)]
    assert len(rows.samples) == 41
    assert not all(as_they_are[:20])
    assert all(as_they_are[20:])


def test_every_task_leaves_training_a_template_that_no_benchmark_pins():
    for task in TASKS:
        pinned = {benchmark.template for benchmark in BENCHMARKS if benchmark.task == task.name}
        names = {template.name for template in training_templates(task.name)}
        assert names
        assert names & pinned == set()


def test_a_pinned_template_is_made_of_words_that_training_reads_for_the_same_task():
    """In the same frame, too: a small model takes a phrase that it knows from another frame for that frame."""
    pinned = {(benchmark.task, benchmark.template) for benchmark in BENCHMARKS}
    for task in TASKS:
        for template in (task.template(name) for of, name in sorted(pinned) if of == task.name):
            like = [
                other
                for other in training_templates(task.name)
                if (other.frame, other.option_as) == (template.frame, template.option_as)
            ]
            read = {word for other in like for word in re.findall(r"\w+", other.text.lower())}
            assert set(re.findall(r"\w+", template.text.lower())) <= read, f"{task.name}: {template.name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_evaluation_render_the_same_bytes(phantom_folder, model_folders, family):
    """Through TRL's collator on one side and evaluation's own path on the other."""
    from pathloom.models.load import load_model

    _, processor = load_model(str(model_folders[family]))
    samples = list(read_samples(phantom_folder))
    rows = Rows(samples, "cot", augment=False, seed=0)
    assert len({sample.task for sample in samples}) == 5
    for index, sample in enumerate(samples):
        row = rows.row(index)
        example = {
            "prompt": prepare_multimodal_messages(row["prompt"], images=row["images"]),
            "completion": prepare_multimodal_messages(row["completion"]),
        }
        trained = apply_chat_template(example, processor)
        task = find_task(sample.task)
        rendered = {
            render_text(processor, task.render(sample, template, "cot")): task.target(sample, template, "cot")
            for template in training_templates(sample.task)
        }

        assert trained["prompt"] in rendered
        assert trained["completion"].removesuffix("\n") == rendered[trained["prompt"]] + "<|im_end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_evaluation_give_the_model_the_same_tensors(phantom_folder, model_folders, family):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from pathloom.models.load import load_model

    _, processor = load_model(str(model_folders[family]))
    sample = next(sample for sample in read_samples(phantom_folder) if sample.task == "choice")
    row = Rows([sample], "cot", augment=False, seed=0).row(0)
    prompts = [
        find_task(sample.task).render(sample, template, "cot") for template in training_templates(sample.task)
    ]
    (prompt,) = [prompt for prompt in prompts if prompt.messages() == row["prompt"]]

    trained = DataCollatorForVisionLanguageModeling(
        processor=processor, max_length=None, completion_only_loss=True
    )([row])
    asked = processor(
        text=[render_text(processor, prompt)], images=[[load_pixels(sample.images[0])]], return_tensors="pt"
    )

    length = asked["input_ids"].shape[1]
    assert trained["input_ids"][0, :length].tolist() == asked["input_ids"][0].tolist()
    assert (trained["labels"][0, :length] == -100).all(), "nothing of the prompt is learnt"
    learnt = trained["labels"][0, length:]
    assert (learnt == trained["input_ids"][0, length:]).all()
    assert "<answer>" in processor.decode(learnt)
    assert trained["pixel_values"].equal(asked["pixel_values"])


def test_a_row_depends_on_seed_epoch_and_number_alone(phantom_folder):
    samples = training_samples(read_samples(phantom_folder), None)

    def prompts(seed: int, epoch: int) -> list[object]:
        rows = Rows(samples, "cot", augment=True, seed=seed)
        rows.epoch = epoch
        backwards = [rows.row(index) for index in reversed(range(len(samples)))]
        return [(row["prompt"], [np.asarray(one).tobytes() for one in row["images"]]) for row in backwards]

    assert prompts(0, 1) == prompts(0, 1)
    assert prompts(0, 1) != prompts(0, 2)
    assert prompts(0, 1) != prompts(1, 1)


def test_pictures_are_turned_in_all_eight_ways_when_no_place_is_named():
    rows = Rows([make_sample()], "cot", augment=True, seed=0)
    seen = set()
    for epoch in range(80):
        rows.epoch = epoch
        picture = rows.row(0)["images"][0]
        seen.add((picture.size, picture.tobytes()))

    assert len(seen) == 8


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "boxes", "answer": "", "regions": (Region(box_px=(1, 1, 5, 5)),)},
        {"reasoning": "The gland in the upper left."},
    ],
    ids=["boxes", "reasoning"],
)
def test_a_picture_whose_places_are_named_is_never_turned(fields):
    sample = make_sample(**fields)
    rows = Rows([sample], "cot", augment=True, seed=0)
    for epoch in range(40):
        rows.epoch = epoch
        assert rows.row(0)["images"][0].tobytes() == load_pixels(sample.images[0]).tobytes()


def test_labels_are_asked_in_every_order_and_options_in_their_own():
    def orders(task: str) -> set[tuple[str, ...]]:
        choices = ("benign", "atypical", "malignant")
        sample = make_sample("a", task=task, answer="atypical", choices=choices)
        rows = Rows([sample], "direct", augment=False, seed=0)
        found = set()
        for rows.epoch in range(60):
            row = rows.row(0)
            text = row["prompt"][1]["content"][-1]["text"]
            found.add(tuple(sorted(choices, key=text.index)))
            assert row["template"] in training_templates(task)
        return found

    assert orders("label") == set(itertools.permutations(("benign", "atypical", "malignant")))
    assert orders("choice") == {("benign", "atypical", "malignant")}


def test_a_sample_without_any_box_keeps_its_empty_answer():
    sample = make_sample(task="boxes", answer="", regions=())
    row = Rows([sample], "cot", augment=True, seed=0).row(0)

    assert row["completion"][0]["content"][0]["text"] == "<answer>[]</answer>"


def test_a_batch_is_its_rows_side_by_side(phantom_folder):
    samples = training_samples(read_samples(phantom_folder), None)
    rows = Rows(samples, "direct", augment=False, seed=3)

    batch = rows({"row": [2, 0]})

    assert batch["prompt"] == [rows.row(2)["prompt"], rows.row(0)["prompt"]]
    assert all("<think>" not in completion[0]["content"][0]["text"] for completion in batch["completion"])
    assert [len(images) for images in batch["images"]] == [1, 1]


def test_a_conversation_is_learnt_turn_by_turn_and_reasons_before_its_last_answer():
    earlier = (
        Turn(question="Which organ?", answer="The colon."),
        Turn(question="And?", answer="Fused glands."),
    )
    sample = make_sample(
        task="dialogue", earlier=earlier, question="So?", answer="Carcinoma.", reasoning="Glands are fused."
    )
    learnt = {}
    for epoch in range(40):
        rows = Rows([sample], "cot", augment=False, seed=0)
        rows.epoch = epoch
        row = rows.row(0)
        said = [message["content"][-1]["text"].splitlines()[0] for message in row["prompt"][1:]]
        learnt[tuple(said)] = row["completion"][0]["content"][0]["text"]
        pictures = [part["type"] for message in row["prompt"] for part in message["content"]].count("image")
        assert pictures == 1
        assert row["prompt"][1]["content"][0]["type"] == "image", "the picture stands in the first question"
    assert learnt == {
        ("Which organ?",): "<answer>The colon.</answer>",
        ("Which organ?", "The colon.", "And?"): "<answer>Fused glands.</answer>",
        ("Which organ?", "The colon.", "And?", "Fused glands.", "So?"): "<think>Glands are fused.</think>"
        "<answer>Carcinoma.</answer>",
    }


def test_a_picture_that_nobody_described_is_named():
    with pytest.raises(UserError, match="sample silent has no answer to learn"):
        Rows([make_sample("silent", task="caption", answer="")], "direct", augment=False, seed=0)
