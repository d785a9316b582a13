"""Recipes: plain YAML, typed, checked whole before anything runs.

No interpolation, anchors, expressions or class paths: a recipe is data that a clinician can read and diff. A stage
may name earlier stages only, so data flow one way by construction. `seeds: [0, 1, 2]` is the one key that stands for
several stages.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pathloom.curate.annotate_config import AnnotateConfig, InstructConfig, ReleaseConfig
from pathloom.curate.config import CurateConfig, ReasonConfig
from pathloom.curate.features import EmbedConfig
from pathloom.curate.slide_features import EmbedSlidesConfig
from pathloom.evaluate.config import EvaluateConfig, ProbeConfig, ReportConfig
from pathloom.evaluate.encoders_config import FewShotConfig, RetrievalConfig, ZeroShotConfig
from pathloom.evaluate.single_choice_config import BenchmarkConfig
from pathloom.ingest import SOURCES
from pathloom.models.export import ExportConfig
from pathloom.models.init import InitConfig
from pathloom.stage import ModelRef, StageConfig, UserError
from pathloom.train.config import PretrainConfig, ReinforceConfig, SftConfig, VisionConfig
from pathloom.train.contrastive_config import ContrastiveConfig, WebdatasetConfig
from pathloom.train.experts_config import ExpertsConfig

KINDS: Mapping[str, type[StageConfig]] = {
    "embed": EmbedConfig,
    "embed_slides": EmbedSlidesConfig,
    "curate": CurateConfig,
    "reason": ReasonConfig,
    "annotate": AnnotateConfig,
    "instruct": InstructConfig,
    "release": ReleaseConfig,
    "benchmark": BenchmarkConfig,
    "init": InitConfig,
    "export": ExportConfig,
    "webdataset": WebdatasetConfig,
    "contrastive": ContrastiveConfig,
    "vision": VisionConfig,
    "pretrain": PretrainConfig,
    "sft": SftConfig,
    "reinforce": ReinforceConfig,
    "experts": ExpertsConfig,
    "evaluate": EvaluateConfig,
    "probe": ProbeConfig,
    "zero_shot": ZeroShotConfig,
    "retrieval": RetrievalConfig,
    "few_shot": FewShotConfig,
    "report": ReportConfig,
}
"""Kinds of stage but ingest, whose entry depends on its source."""


_SEEDED = ("init", "contrastive", "vision", "pretrain", "sft", "reinforce", "experts")
_LISTS_OF_STAGES = ("samples", "stages", "repeats")


@dataclass(frozen=True)
class Recipe:
    """A name and its stages in order."""

    name: str
    description: str
    stages: tuple[StageConfig, ...]

    def stage(self, name: str) -> StageConfig:
        """The stage of that name. Raises UserError that lists the recipe's stages."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(
            f"recipe {self.name} has no stage {name!r}; it has {', '.join(s.name for s in self.stages)}"
        )


class _Loader(yaml.SafeLoader):
    """Safe YAML without anchors, with an error for a key given twice, and with 1e-3 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent) or getattr(self.peek_event(), "anchor", None):  # type: ignore[no-untyped-call]
            raise yaml.YAMLError("anchors and aliases are not used in recipes: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(
                    f"key {key!r} stands twice in one mapping (line {node.start_mark.line + 1})"
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a point and a signed exponent, and reads 1e-3 as text; YAML 1.2 and everybody else read a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; `overrides` are `stage.key=value` (value as YAML). Raises UserError naming the key."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; `pathloom list recipes` shows the recipes at hand"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {_one_line(error)}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe has the keys name and stages")
    _refuse_unknown(data, ("name", "description", "stages"), str(path))
    stages = data.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise UserError(f"{path}: stages: a list of mappings with name and kind is needed")
    for override in overrides:
        _override(stages, override)
    checked = tuple(_check_stage(stage, str(path)) for stage in _each_seed(stages, str(path)))
    _check_references(checked, str(path))
    name = str(data.get("name") or path.stem)
    if re.fullmatch(r"\w[\w. -]*", name) is None:  # it becomes a folder under runs/
        raise UserError(
            f"{path}: name: {name!r} has other signs than letters, digits, '_', '-', '.' and spaces"
        )
    return Recipe(name=name, description=str(data.get("description", "")).strip(), stages=checked)


def load_entry(entry: dict[str, Any], overrides: Sequence[str] = ()) -> StageConfig:
    """One stage without a recipe, as the command line has it; `overrides` are `key=value`. Raises UserError."""
    stages = [entry]
    for override in overrides:
        _override(stages, f"{entry['name']}.{override}")
    return _check_stage(entry, "--set")


def _override(stages: list[dict[str, Any]], override: str) -> None:
    """Set one key of one stage, nested keys by dots: `sft.trainer.max_steps=50`."""
    target, equals, text = override.partition("=")
    stage_name, *keys = target.strip().split(".")
    if not equals or not keys:
        raise UserError(
            f"--set {override}: write stage.key=value, for example --set sft.trainer.max_steps=50"
        )
    named = [stage for stage in stages if stage.get("name") == stage_name]
    if not named:
        known = ", ".join(str(stage.get("name")) for stage in stages)
        raise UserError(f"--set {override}: no stage {stage_name!r}; the recipe has {known}")
    place: Any = named[0]
    for key in keys[:-1]:
        if isinstance(place, list):  # counted from 0, as in the messages about them
            if not key.isdecimal() or int(key) >= len(place):
                raise UserError(f"--set {override}: {key} is none of the places 0 to {len(place) - 1}")
            place = place[int(key)]
        else:
            place = place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise UserError(f"--set {override}: {key} is a value, not a mapping")
    if isinstance(place, list):
        raise UserError(f"--set {override}: {keys[-1]} stands in a list; name a key of one of its entries")
    try:
        place[keys[-1]] = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not YAML: {_one_line(error)}") from error


def _each_seed(stages: Sequence[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """Stages with `seeds` once for each, called name_seed, and in the same way the stages whose model they make.

    A list that names such a stage, in a report above all, names all of them; but `start_from` names that of the same
    seed. Only `seeds` sets a seed: a stage that is repeated for its model alone keeps its own.
    """
    seeds_of: dict[str, list[int]] = {}
    written: list[dict[str, Any]] = []
    for stage in stages:
        entry = {
            key: _name_all(value, seeds_of) if key in _LISTS_OF_STAGES else value
            for key, value in stage.items()
            if key != "seeds"
        }
        name = str(stage.get("name", "?"))
        model = entry.get("model")
        start = str(model.get("stage")) if isinstance(model, dict) else ""
        seeds = _seeds(stage, f"{path}: stage {name}.seeds")
        if seeds and start in seeds_of:
            raise UserError(
                f"{path}: stage {name}.seeds: its model {start} has seeds; give only one of the two seeds"
            )
        begun = [each for each in entry.get("start_from") or () if each in seeds_of]
        repeats = seeds or seeds_of.get(start, []) or (seeds_of[begun[0]] if begun else [])
        for each in begun:
            if seeds_of[each] != repeats:
                raise UserError(
                    f"{path}: stage {name}.start_from: {each} has the seeds {seeds_of[each]}, not {repeats}"
                )
        if not repeats:
            written.append(entry)
            continue
        seeds_of[name] = repeats
        for seed in repeats:
            again = {**entry, "name": f"{name}_{seed}"}
            if seeds:
                again["seed"] = seed
            if start in seeds_of:
                again["model"] = {**entry["model"], "stage": f"{start}_{seed}"}
            if begun:
                again["start_from"] = [
                    f"{each}_{seed}" if each in begun else each for each in entry["start_from"]
                ]
            written.append(again)
    return written


def _seeds(stage: Mapping[str, Any], where: str) -> list[int]:
    """The checked `seeds` of a stage as it was written; empty where it has none."""
    if "seeds" not in stage:
        return []
    seeds = stage["seeds"]
    if stage.get("kind") not in _SEEDED:
        raise UserError(f"{where}: only stages that make a model take seeds: {', '.join(_SEEDED)}")
    if "seed" in stage:
        raise UserError(f"{where}: the stage has a seed too; give only one of the two")
    if not isinstance(seeds, list) or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"{where}: a list of whole numbers from 0 is needed, for example [0, 1, 2]")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: at least one number is needed, and none twice")
    return seeds


def _name_all(value: Any, seeds_of: Mapping[str, Sequence[int]]) -> Any:
    """Lists in `value` with every repeated stage replaced by the names of all that it stands for."""
    if isinstance(value, dict):
        return {key: _name_all(each, seeds_of) for key, each in value.items()}
    if isinstance(value, list):
        named: list[Any] = []
        for each in value:
            seeds = seeds_of.get(each) if isinstance(each, str) else None
            named += [_name_all(each, seeds_of)] if seeds is None else [f"{each}_{seed}" for seed in seeds]
        return named
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_stage(entry: dict[str, Any], path: str) -> StageConfig:
    where = f"{path}: stage {entry.get('name', '?')}"
    kind = str(entry.get("kind"))
    if kind == "ingest":
        sources = {source.name: source.config for source in SOURCES}
        config = _pick(sources, str(entry.get("source")), f"{where}.source")
    else:
        config = _pick({**KINDS, "ingest": StageConfig}, kind, f"{where}.kind")
    _refuse_unknown(entry, tuple(config.model_fields), where)
    try:
        return config.model_validate(entry)
    except ValidationError as error:
        raise UserError("\n".join(_explain(item, config, where) for item in error.errors())) from error


def _explain(item: Mapping[str, Any], config: type[StageConfig], where: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(config, item["loc"][:-1])
        hint = f"{_nearest(str(item['loc'][-1]), known)}; known: {', '.join(known)}" if known else ""
        return f"{where}.{key}: unknown key{hint}"
    if item["type"] == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in str(item["ctx"]["expected_tags"]).split(",")]
        named = str(item["ctx"]["tag"])
        return f"{where}.{key}: unknown {named!r}{_nearest(named, tags)}; known: {', '.join(tags)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}.{key}: {message}" if key else f"{where}: {message}"


def _fields_at(config: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Keys of the block that an error's place leads to; a number leads into a list, a step's name to that step."""
    models = [config]
    for part in loc:
        if isinstance(part, int):
            continue
        inner = [
            each
            for model in models
            if part in model.model_fields
            for each in _models_in(model.model_fields[part].annotation)
        ]
        models = inner or [model for model in models if _tag_of(model) == part] or models
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _tag_of(model: type[BaseModel]) -> Any:
    """The word that names a step in a recipe."""
    field = model.model_fields.get("step")
    return next(iter(get_args(field.annotation)), None) if field else None


def _pick(known: Mapping[str, type[StageConfig]], name: str, where: str) -> type[StageConfig]:
    if name not in known:
        raise UserError(f"{where}: unknown value {name!r}{_nearest(name, known)}; known: {', '.join(known)}")
    return known[name]


def _refuse_unknown(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise UserError(
                f"{where}.{key}: unknown key{_nearest(str(key), known)}; known: {', '.join(known)}"
            )


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _check_references(stages: Sequence[StageConfig], path: str) -> None:
    """Every stage name is unique and names earlier stages only, of the kind that it needs."""
    earlier: dict[str, str] = {}
    all_names = [stage.name for stage in stages]
    for stage in stages:
        if stage.name in earlier:
            raise UserError(f"{path}: two stages are called {stage.name!r}; rename one")
        for needed in stage.needs():
            if needed not in earlier:
                why = "comes later; move it up" if needed in all_names else "does not exist"
                raise UserError(
                    f"{path}: stage {stage.name} names the stage {needed!r}, which {why}"
                    f"{_nearest(needed, earlier)}; earlier stages: {', '.join(earlier) or 'none'}"
                )
        for needed, kind in stage.kinds_needed().items():
            if earlier[needed] != kind:
                fitting = [name for name, of in earlier.items() if of == kind]
                raise UserError(
                    f"{path}: stage {stage.name} names {needed!r}, which is of the kind {earlier[needed]}; a stage "
                    f"{kind} is needed here: {', '.join(fitting) or 'there is none before it'}"
                )
        if isinstance(stage, ExpertsConfig):
            _check_beginnings(stage, stages, path)
        earlier[stage.name] = stage.kind


def _check_beginnings(mixture: ExpertsConfig, stages: Sequence[StageConfig], path: str) -> None:
    """Every stage that an expert begins as goes back, model by model, to the one that the experts are put beside."""
    models = {stage.name: getattr(stage, "model", None) for stage in stages}
    for name in mixture.start_from:
        began = models[name]
        while isinstance(began, ModelRef) and began != mixture.model:
            began = models.get(began.stage or "")
        if began != mixture.model:
            raise UserError(
                f"{path}: stage {mixture.name}.start_from: {name} did not begin at this stage's `model`, so the "
                "difference between the two is not what it has learnt; name the model that all of them began at"
            )
