import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pathloom.models.presets import PRESETS, find_preset
from pathloom.recipe import KINDS, Recipe, load_recipe
from pathloom.run import RUNNERS
from pathloom.stage import ModelRef, StageConfig, UserError
from pathloom.train.config import SftConfig
from pathloom.train.contrastive_config import ContrastiveConfig

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

# Vision tower included. 7B: 16584333312 bytes of bfloat16 in its model.safetensors.index.json; 3B: its hub page.
PUBLISHED_PARAMETERS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75e9,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29e9,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44e9,
}

PLAIN = """
name: plain
stages:
  - {name: phantoms, kind: ingest, source: phantom, train: {diagnosis: 4}, test: {diagnosis: 4}}
  - {name: untrained, kind: init, samples: [phantoms]}
  - {name: sft, kind: sft, samples: [phantoms], model: {stage: untrained}, trainer: {max_steps: 3}}
"""


def recipe_files() -> list[Path]:
    return sorted(path for path in RECIPES.rglob("*") if path.suffix in (".yaml", ".yml"))


def load(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def error_of(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def hub_models(value: Any) -> Iterator[str]:
    """Every `hub` anywhere in a stage, whatever key holds it."""
    if isinstance(value, ModelRef) and value.hub:
        yield value.hub
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from hub_models(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from hub_models(item)
    elif isinstance(value, dict):
        yield from hub_models(list(value.values()))


def test_every_recipe_is_read_and_type_checked():
    recipes = [load_recipe(path) for path in recipe_files()]

    assert len(recipes) == len(list(RECIPES.rglob("*.yaml"))) + len(list(RECIPES.rglob("*.yml"))) > 0
    assert len(recipes) == sum(path.is_file() for path in RECIPES.rglob("*")), "not every file is a recipe"
    for recipe, path in zip(recipes, recipe_files(), strict=True):
        assert recipe.name == path.stem
        assert recipe.description
        for stage in recipe.stages:
            assert isinstance(stage, StageConfig)
            assert stage.kind in RUNNERS


def test_pathoclip_and_patho_r1_read_the_same_joint_corpus():
    corpora = {
        name: [stage for stage in load_recipe(RECIPES / f"{name}.yaml").stages if stage.kind == "ingest"]
        for name in ("pathoclip", "patho_r1")
    }

    joint = [stage.name for stage in corpora["patho_r1"]]
    assert joint == ["pathgen", "quilt", "pathcap", "books"]
    assert [stage for stage in corpora["pathoclip"] if stage.name in joint] == corpora["patho_r1"]


def test_stage_two_of_pathoclip_goes_on_from_stage_one_with_more_and_learns_from_no_benchmark():
    recipe = load_recipe(RECIPES / "pathoclip.yaml")
    one, two = recipe.stage("stage_one"), recipe.stage("stage_two")
    assert isinstance(one, ContrastiveConfig)
    assert isinstance(two, ContrastiveConfig)

    def sources(stage: StageConfig) -> set[str]:
        """The ingest stages whose Samples, not merely features, reach that stage."""
        names = getattr(stage, "samples", getattr(stage, "shards", ()))
        return {name for each in names for name in sources(recipe.stage(each))} or {stage.name}

    assert two.model.stage == one.name
    assert sources(one) == {"pathgen"}
    assert sources(two) == {"pathgen", "quilt", "pathcap", "books"}
    measured = {
        name for stage in ("retrieval", "zero_shot", "few_shot") for name in recipe.stage(stage).needs()
    }
    benchmarks = {"arch", "lc_lung", "lc_colon", "wsss4luad", "sicapv2", "bmt"}
    assert measured - {"stage_one", "stage_two"} == benchmarks
    for name in benchmarks:
        entry = recipe.stage(name).model_dump()
        assert entry.get("folds", 0) >= 2 or entry["test_share"] > 0.999, f"not all of {name} is held out"
    for name in ("tissue", "mixture"):
        assert benchmarks <= set(recipe.stage(name).needs()), f"{name} is not kept apart from all benchmarks"


def test_every_trainer_block_fits_the_trainer():
    blocks = [
        stage
        for path in recipe_files()
        for stage in load_recipe(path).stages
        if isinstance(stage, SftConfig) and stage.trainer
    ]

    assert blocks
    for stage in blocks:
        stage.check()


def test_every_hub_model_that_a_recipe_names_has_its_published_size(capsys):
    from pathloom.models.nano import count_parameters

    named = {
        hub for path in recipe_files() for stage in load_recipe(path).stages for hub in hub_models(stage)
    }

    for hub in sorted(named):
        number = count_parameters(find_preset(hub))
        with capsys.disabled():
            print(f" {hub}: {number:,} parameters ", end="")
        assert number == pytest.approx(PUBLISHED_PARAMETERS[hub], rel=0.02)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset.hub_id], ids=lambda p: p.name)
def test_published_shapes_have_their_published_size(preset):
    from pathloom.models.nano import count_parameters

    assert count_parameters(preset) == pytest.approx(PUBLISHED_PARAMETERS[preset.hub_id], rel=0.02)


def test_hub_models_are_found_wherever_they_stand(tmp_path):
    recipe = load(tmp_path, PLAIN.replace("{stage: untrained}", "{hub: some/model}"))

    assert list(hub_models(recipe.stages)) == ["some/model"]


def test_every_kind_has_a_runner_and_the_other_way_round():
    assert {"ingest", *KINDS} == set(RUNNERS)


def test_a_recipe_keeps_the_order_of_its_stages_and_finds_them_by_name(tmp_path):
    recipe = load(tmp_path, PLAIN)

    assert [stage.name for stage in recipe.stages] == ["phantoms", "untrained", "sft"]
    assert recipe.stage("sft").needs() == ("phantoms", "untrained")
    with pytest.raises(UserError, match="no stage 'stf'; it has phantoms, untrained, sft"):
        recipe.stage("stf")


def test_the_name_of_a_recipe_falls_back_to_its_file(tmp_path):
    assert load(tmp_path, PLAIN.replace("name: plain\n", "")).name == "recipe"


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".partial", "/tmp"])
def test_a_name_that_leads_out_of_the_runs_folder_is_refused(tmp_path, name):
    assert repr(name) in error_of(tmp_path, PLAIN.replace("name: plain", f"name: {name}"))


@pytest.mark.parametrize(
    ("old", "new", "key", "nearest"),
    [
        ("name: plain", "nmae: plain", ".nmae", "'name'"),
        ("samples: [phantoms]}", "sample: [phantoms]}", "stage untrained.sample", "'samples'"),
        ("trainer: {", "trianer: {", "stage sft.trianer", "'trainer'"),
        ("kind: init", "kind: innit", "stage untrained.kind", "'init'"),
        ("source: phantom,", "source: phantoms,", "stage phantoms.source", "'phantom'"),
    ],
)
def test_an_unknown_word_is_named_with_the_nearest_known_one(tmp_path, old, new, key, nearest):
    message = error_of(tmp_path, PLAIN.replace(old, new))

    assert key in message
    assert f"did you mean {nearest}" in message


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("{stage: untrained}", "{stag: untrained}", "sft.model.stag"),
        ("{stage: untrained}", "{stage: untrained, hub: a/b}", "exactly one of stage, base, folder and hub"),
        ("{stage: untrained}", "{}", "exactly one of stage, base, folder and hub"),
        ("train: {diagnosis: 4}, ", "", "phantoms.train"),
        ("train: {diagnosis: 4}", "train: {diagnose: 4}", "no phantom question 'diagnose'"),
        ("train: {diagnosis: 4}", "train: {diagnosis: many}", "phantoms.train.diagnosis"),
        ("name: sft", "name: SFT run", "name"),
        ("trainer: {max_steps: 3}", "trainer: {output_dir: x}", "output_dir is set by the stage"),
        ("trainer: {max_steps: 3}", "tasks: {chess: 1}", "no task 'chess'"),
        ("trainer: {max_steps: 3}", "lora: {rank: 4}", "sft.lora.rank"),
        ("kind: init", "kind: init, preset: qwen9", "no preset 'qwen9'"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, old, new, key):
    assert old in PLAIN

    assert key in error_of(tmp_path, PLAIN.replace(old, new))


def test_a_stage_may_only_name_earlier_ones(tmp_path):
    text = PLAIN.replace("samples: [phantoms]}", "samples: [sft]}")

    assert "stage untrained names the stage 'sft', which comes later; move it up" in error_of(tmp_path, text)


def test_a_stage_that_does_not_exist_is_named_with_the_nearest(tmp_path):
    message = error_of(tmp_path, PLAIN.replace("samples: [phantoms]}", "samples: [phantom]}"))

    assert "'phantom', which does not exist, did you mean 'phantoms'" in message


def test_two_stages_of_one_name_are_refused(tmp_path):
    assert "two stages are called 'phantoms'" in error_of(
        tmp_path, PLAIN.replace("name: sft", "name: phantoms")
    )


@pytest.mark.parametrize(
    "text", [PLAIN + "name: again\n", PLAIN.replace("name: sft,", "name: sft, seed: 1, seed: 2,")]
)
def test_a_key_given_twice_is_refused(tmp_path, text):
    assert "stands twice" in error_of(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("train: {diagnosis: 4}", "train: &n {diagnosis: 4}").replace(
            "test: {diagnosis: 4}", "test: *n"
        ),
        PLAIN.replace("train: {diagnosis: 4}", "train: &n {diagnosis: 4}"),
        PLAIN.replace("[phantoms]}", "&n [phantoms]}"),
    ],
)
def test_anchors_are_refused(tmp_path, text):
    assert "anchors and aliases are not used in recipes" in error_of(tmp_path, text)


@pytest.mark.parametrize("text", ["stages: [", "a: b: c", "stages:\n\t- x", "!!python/object:os.system {}"])
def test_what_is_not_plain_yaml_is_refused_in_one_line(tmp_path, text):
    assert "recipe.yaml: not readable as YAML" in error_of(tmp_path, text)


def test_a_file_in_another_encoding_is_refused_in_one_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(PLAIN.replace("plain", "präparat").encode("latin-1"))

    with pytest.raises(UserError, match=r"recipe\.yaml: not readable as YAML"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["", "[]", "name: x", "stages: []", "stages: [a]", "stages: {a: b}"])
def test_a_file_without_stages_is_refused(tmp_path, text):
    assert "stages" in error_of(tmp_path, text)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: No such file.*pathloom list recipes"):
        load_recipe(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("number", "value"), [("1e-3", 1e-3), ("1E5", 1e5), ("2.5e-4", 2.5e-4), (".5e2", 50.0), ("-1e+2", -100.0)]
)
def test_numbers_with_an_exponent_are_numbers(tmp_path, number, value):
    # YAML 1.1, which PyYAML speaks, would read 1e-3 as text, and the trainer would fail an hour later.
    recipe = load(tmp_path, PLAIN.replace("max_steps: 3", f"learning_rate: {number}"))
    overridden = load(tmp_path, PLAIN, [f"sft.trainer.learning_rate={number}"])

    for stage in (recipe.stage("sft"), overridden.stage("sft")):
        assert isinstance(stage, SftConfig)
        assert stage.trainer["learning_rate"] == value


def test_words_that_only_look_like_numbers_stay_words(tmp_path):
    text = PLAIN.replace("name: plain", "name: plain\ndescription: 4e")

    assert load(tmp_path, text).description == "4e"


def test_set_changes_one_key_and_makes_the_mappings_on_its_way(tmp_path):
    overrides = ["sft.trainer.max_steps=50", "sft.lora.r=4", "phantoms.test.diagnosis=8", "sft.style=direct"]
    recipe = load(tmp_path, PLAIN, overrides)

    sft = recipe.stage("sft")
    assert isinstance(sft, SftConfig)
    assert sft.lora is not None
    assert (sft.trainer, sft.lora.r, sft.style) == ({"max_steps": 50}, 4, "direct")
    assert recipe.stage("phantoms").model_dump()["test"] == {"diagnosis": 8}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft", "write stage.key=value"),
        ("sft=3", "write stage.key=value"),
        ("=3", "write stage.key=value"),
        ("stf.seed=3", "no stage 'stf'; the recipe has phantoms, untrained, sft"),
        ("sft.sead=3", "sft.sead: unknown key, did you mean 'seed'"),
        ("sft.seed=three", "sft.seed"),
        ("sft.seed.deeper=3", "no mapping|not a mapping|sft.seed"),
        ("sft.kind.deeper=3", "kind is a value, not a mapping"),
        ("sft.seed=[1", "the value is not YAML"),
        ("sft.tasks={choice: 1, choice: 2}", "stands twice"),
        ("sft.tasks=*all", "anchors"),
    ],
)
def test_a_wrong_set_is_named(tmp_path, override, message):
    found = error_of(tmp_path, PLAIN, [override])

    assert any(part in found for part in message.split("|"))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"learning_rat": 1e-3}, "sft.trainer.learning_rat: unknown key; did you mean 'learning_rate'"),
        ({"learning_rate": "fast"}, "sft.trainer.learning_rate: 'fast' is text"),
        ({"max_steps": "ten"}, "sft.trainer.max_steps: 'ten' is text"),
        ({"lr_scheduler_type": "cosinus"}, "sft.trainer: cosinus is not a valid SchedulerType"),
    ],
)
def test_a_trainer_block_is_checked_before_the_first_stage_runs(tmp_path, block, message):
    recipe = load(
        tmp_path, PLAIN.replace("{max_steps: 3}", yaml.safe_dump(block, default_flow_style=True).strip())
    )

    with pytest.raises(UserError) as caught:
        recipe.stage("sft").check()
    assert message in str(caught.value)


SEEDED = """
name: seeded
stages:
  - {name: phantoms, kind: ingest, source: phantom, train: {diagnosis: 4}, test: {diagnosis: 4}}
  - {name: untrained, kind: init, samples: [phantoms]}
  - {name: sft, kind: sft, seeds: [0, 4], samples: [phantoms], model: {stage: untrained}}
  - {name: dapo, kind: reinforce, samples: [phantoms], model: {stage: sft}, seed: 9, trainable: [vision]}
  - {name: measured, kind: evaluate, model: {stage: dapo}, samples: [phantoms], benchmarks: [phantom_diagnosis]}
  - {name: report, kind: report, stages: [sft, measured], samples: [phantoms], repeats: {all: [measured]}}
"""


def test_seeds_repeat_a_stage_and_what_its_models_go_into(tmp_path):
    recipe = load(tmp_path, SEEDED, ["sft.trainer.max_steps=5"])

    assert [stage.name for stage in recipe.stages] == [
        *("phantoms", "untrained", "sft_0", "sft_4", "dapo_0", "dapo_4", "measured_0", "measured_4", "report")
    ]
    stages = {stage.name: stage.model_dump() for stage in recipe.stages}
    assert [stages[name]["seed"] for name in ("sft_0", "sft_4", "dapo_0", "dapo_4")] == [0, 4, 9, 9]
    assert [stages[f"sft_{seed}"]["trainer"] for seed in (0, 4)] == [{"max_steps": 5}] * 2
    assert stages["dapo_4"]["model"]["stage"] == "sft_4"
    assert stages["measured_4"]["model"]["stage"] == "dapo_4"
    assert stages["report"]["stages"] == ("sft_0", "sft_4", "measured_0", "measured_4")
    assert stages["report"]["repeats"] == {"all": ("measured_0", "measured_4")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0, 4]", "3", r"stage sft\.seeds: a list of whole numbers from 0 is needed"),
        ("[0, 4]", "[0, -1]", "a list of whole numbers from 0"),
        ("[0, 4]", "[0, true]", "a list of whole numbers from 0"),
        ("[0, 4]", "[]", "at least one number is needed"),
        ("[0, 4]", "[4, 4]", "none twice"),
        (
            "source: phantom,",
            "source: phantom, seeds: [1, 2],",
            "only stages that make a model take seeds: init",
        ),
        ("model: {stage: sft}", "model: {stage: sft, hub: x/y}", r"stage dapo_0\.model: give exactly one of"),
        (
            "model: {stage: untrained}",
            "model: {stage: [untrained]}",
            r"stage sft_0\.model\.stage: Input should be",
        ),
        ("seed: 9", "seeds: [1]", r"stage dapo\.seeds: its model sft has seeds; give only one of the two"),
        ("seeds: [0, 4]", "seeds: [0, 4], seed: 1", "the stage has a seed too; give only one of the two"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(tmp_path, old, new, message):
    assert re.search(message, error_of(tmp_path, SEEDED.replace(old, new)))


MIXED = """
name: mixed
stages:
  - {name: phantoms, kind: ingest, source: phantom, train: {diagnosis: 4}, test: {diagnosis: 4}}
  - {name: untrained, kind: init, samples: [phantoms]}
  - {name: region, kind: sft, seeds: [0, 4], samples: [phantoms], model: {stage: untrained}}
  - {name: slide, kind: sft, seeds: [0, 4], samples: [phantoms], model: {stage: untrained}}
  - {name: plain, kind: sft, samples: [phantoms], model: {stage: untrained}}
  - {name: soft, kind: experts, samples: [phantoms], model: {stage: untrained}, num_experts: 3,
     start_from: [region, slide, plain]}
"""


def test_experts_begin_as_the_stages_of_their_own_seed(tmp_path):
    stages = {stage.name: stage.model_dump() for stage in load(tmp_path, MIXED).stages}

    assert stages["soft_0"]["start_from"] == ("region_0", "slide_0", "plain")
    assert stages["soft_4"]["start_from"] == ("region_4", "slide_4", "plain")
    assert (stages["soft_4"]["seed"], "soft" in stages) == (0, False)
    seeded = {stage.name: stage for stage in load(tmp_path, MIXED, ["soft.seeds=[0, 4]"]).stages}
    assert seeded["soft_4"].model_dump()["seed"] == 4
    message = error_of(tmp_path, MIXED, ["soft.seeds=[0, 1]"])
    assert "stage soft.start_from: region has the seeds [0, 4], not [0, 1]" in message


def test_experts_begin_as_stages_of_the_model_that_they_are_put_beside(tmp_path):
    plain = "{name: plain, kind: sft, samples: [phantoms], model: {stage: %s}}"
    two_later = f"{plain.replace('plain', 'first') % 'untrained'}\n  - {plain % 'first'}"
    load(tmp_path, MIXED.replace(plain % "untrained", two_later))
    for start in ("stage: other", "base: qwen2.5-vl-nano"):
        elsewhere = MIXED.replace(plain % "untrained", plain.replace("stage: %s", start))
        elsewhere = elsewhere.replace(
            "  - {name: region", "  - {name: other, kind: init, samples: [phantoms]}\n  - {name: region"
        )
        message = error_of(tmp_path, elsewhere)
        assert "stage soft_0.start_from: plain did not begin at this stage's `model`" in message


def test_the_comparison_of_reinforcement_starts_from_the_stages_of_the_quickstart():
    quickstart, comparison = (
        load_recipe(RECIPES / f"{name}.yaml") for name in ("quickstart", "reinforcement")
    )

    for name in ("phantoms", "seeing", "pretrain", "sft"):
        assert comparison.stage(name) == quickstart.stage(name)


ENGINE = """
name: engine
stages:
  - {name: pairs, kind: ingest, source: pairs, table: pairs.csv}
  - name: levels
    kind: curate
    samples: [pairs]
    steps: [{step: organ}, {step: draw, count: 5}]
  - name: reasoning
    kind: reason
    samples: [levels]
    teacher: {generator: {endpoint: {url: "http://h/v1", model: m}}}
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "reasoning.teacher.max_costs=1",
            r"teacher.max_costs: unknown key, did you mean 'max_cost'\?; known: ",
        ),
        ("reasoning.teacher.generator.endpoint.settings.conections=1", r"did you mean 'connections'\?"),
        ("levels.steps.1.cuont=1", r"steps.1.draw.cuont: unknown key, did you mean 'count'\?"),
        (
            "levels.steps.0.step=organs",
            r"steps.0: unknown 'organs', did you mean 'organ'\?; known: subfield, ",
        ),
        ("levels.steps.7.count=1", "7 is none of the places 0 to 1"),
        ("levels.steps.draw.count=1", "draw is none of the places 0 to 1"),
        ("levels.steps.0=1", "0 stands in a list"),
        ("levels.steps.1.count.x=1", "count is a value, not a mapping"),
    ],
)
def test_a_wrong_key_inside_a_block_or_a_list_is_named_with_the_nearest(tmp_path, override, message):
    path = tmp_path / "engine.yaml"
    path.write_text(ENGINE)
    with pytest.raises(UserError, match=message):
        load_recipe(path, [override])


def test_an_entry_of_a_list_can_be_set_by_its_place(tmp_path):
    path = tmp_path / "engine.yaml"
    path.write_text(ENGINE)
    levels = load_recipe(path, ["levels.steps.1.count=7"]).stage("levels")
    assert levels.model_dump()["steps"][1]["count"] == 7


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "{kind: contrastive, shards: [pairs], model: {preset: clip-nano}, max_steps: 1}",
            "a stage webdataset is needed",
        ),
        (
            "{kind: embed, samples: [pairs], encoder: 'stage:tars', of: image}",
            "a stage contrastive is needed",
        ),
        (
            "{kind: retrieval, encoders: {it: 'stage:pairs'}, sets: [{name: a, samples: [pairs]}]}",
            "none before it",
        ),
    ],
)
def test_a_stage_of_the_wrong_kind_is_refused_before_anything_runs(tmp_path, stage, message):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nstages:\n"
        "  - {name: pairs, kind: ingest, source: phantom, train: {caption: 2}}\n"
        "  - {name: tars, kind: webdataset, samples: [pairs]}\n"
        f"  - {stage.replace('{', '{name: last, ', 1)}\n"
    )
    with pytest.raises(UserError, match=message):
        load_recipe(recipe)
