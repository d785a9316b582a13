"""What `pathloom list`, `show` and `explain` print: lines about recipes, stages and Samples, read from the disk."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from pathloom.attributes import load_schema, shipped_schemas
from pathloom.benchmarks import BENCHMARKS
from pathloom.curate.annotation_prompts import annotation_prompt_lines
from pathloom.curate.config import AnyStep
from pathloom.curate.expert_rules import rule_lines, shipped_rules
from pathloom.curate.prompts import prompt_lines
from pathloom.curate.step import StepConfig
from pathloom.evaluate.class_prompts import read_prompts, shipped_prompts
from pathloom.ingest import SOURCES
from pathloom.ingest.corpora import corpora
from pathloom.ingest.phantom import QUESTIONS
from pathloom.ingest.source import Source
from pathloom.models.clip_presets import CLIP_PRESETS
from pathloom.models.presets import PRESETS
from pathloom.recipe import KINDS, load_recipe
from pathloom.run import plan
from pathloom.schema import Sample
from pathloom.stage import MANIFEST_FILE, UserError, find_stage, read_jsonl
from pathloom.store import read_samples
from pathloom.tasks import TASKS


def list_lines(what: str, runs: Path) -> list[str]:
    """The entries of one list, a line each."""
    if what == "recipes":
        return [f"{path}  {load_recipe(path).description}" for path in sorted(Path("recipes").glob("*.yaml"))]
    if what == "kinds":
        return ["ingest", *KINDS]
    if what == "sources":
        return [line for source in SOURCES for line in _source_lines(source)]
    if what == "corpora":
        return [corpus.line() for corpus in corpora().values()]
    if what == "steps":
        return [line for step in get_args(AnyStep) for line in _step_lines(step)]
    if what == "attributes":
        return [line for name in shipped_schemas() for line in _attribute_lines(name)]
    if what == "tasks":
        return [
            f"{task.name}: {task.metric}, templates {', '.join(t.name for t in task.templates)}"
            f"{'' if task.checkable else ' (no rule decides; needs a judge)'}"
            for task in TASKS
        ]
    if what == "benchmarks":
        return [
            f"{b.name}: {b.task}, asked as {b.template!r}, version {b.version}, {b.licence}"
            for b in BENCHMARKS
        ]
    if what == "presets":
        return [
            f"{preset.name}: {preset.family}{f', {preset.hub_id}' if preset.hub_id else ''}"
            for preset in PRESETS
        ] + [f"{preset.name}: open_clip" for preset in CLIP_PRESETS]
    if what == "prompts":
        return [_prompts_line(name) for name in shipped_prompts()]
    if what == "rules":
        return [line for name in shipped_rules() for line in rule_lines(name)]
    if what == "phantoms":
        return [f"{question.name}: {question.task}, e.g. {question.seen[0]!r}" for question in QUESTIONS]
    return [f"{folder.name}  {_seconds(folder)}" for folder in _stage_folders(runs)]


def _step_lines(step: type[StepConfig]) -> Iterator[str]:
    """A step's first words, then each of its keys with what it takes by default."""
    words = " ".join((step.__doc__ or "").split()).removeprefix("Entry of `steps`: ")
    yield f"{get_args(step.model_fields['step'].annotation)[0]}: {words.partition('. ')[0].rstrip('.')}"
    yield from _key_lines(step, ("step",))


def _source_lines(source: Source) -> Iterator[str]:
    """A source's summary, then each of its own keys."""
    yield f"{source.name}: {source.summary}"
    yield from _key_lines(source.config, ("name", "kind", "source"))


def _key_lines(entry: type[BaseModel], besides: Collection[str]) -> Iterator[str]:
    """Each key with what it takes by default."""
    for name, field in entry.model_fields.items():
        if name not in besides:
            default = field.get_default(call_default_factory=True)
            taken = "needed" if field.is_required() else f"default {default!r}"
            yield f"    {name} ({taken}){f': {field.description}' if field.description else ''}"


def _attribute_lines(name: str) -> Iterator[str]:
    """A shipped attribute schema, then each attribute with its values; "<" where they rise."""
    schema = load_schema(name)
    yield f"{name}: version {schema.version}, {schema.subject['en']} ({schema.subject['zh']})"
    for kind in schema.attributes.values():
        yield f"    {kind.name} ({kind.title['zh']}): {(' < ' if kind.ordered else ', ').join(kind.values)}"


def _prompts_line(name: str) -> str:
    """A shipped file of class prompts: its classes in order, and how many sentences each class stands in."""
    prompts = read_prompts(name)
    return f"{name}: {', '.join(prompts.classes)}; {len(prompts.templates)} templates"


def _seconds(folder: Path) -> str:
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    return f"{manifest['kind']}, {manifest['seconds']} s"


def _stage_folders(runs: Path) -> list[Path]:
    """Finished stage folders, oldest first."""
    return sorted(
        (path.parent for path in runs.glob(f"*/{MANIFEST_FILE}")), key=lambda folder: folder.stat().st_mtime
    )


def show_lines(thing: str, runs: Path, overrides: Sequence[str]) -> Iterator[str]:
    """A recipe's stages, a stage's manifest, a Sample as the newest stage left it, or the prompts that ask."""
    path = Path(thing)
    if thing == "prompts":
        yield from prompt_lines()
        yield from annotation_prompt_lines()
    elif path.suffix in (".yaml", ".yml"):
        yield from _show_recipe(path, runs, overrides)
    elif (folder := find_stage(thing, runs)) is not None:
        yield (folder / MANIFEST_FILE).read_text(encoding="utf-8").rstrip()
    else:
        *_, (_, sample) = _find(thing, runs)
        yield sample.model_dump_json(indent=2, exclude={"images": {"__all__": {"data"}}})


def _show_recipe(path: Path, runs: Path, overrides: Sequence[str]) -> Iterator[str]:
    recipe = load_recipe(path, overrides)
    yield f"{recipe.name}: {recipe.description}"
    for stage in plan(recipe, runs):
        state = "done" if stage.done else "to do"
        needs = f" <- {', '.join(stage.config.needs())}" if stage.config.needs() else ""
        yield f"  {stage.config.name} ({stage.config.kind}){needs}: {state}, {stage.folder}"


def explain_lines(sample_id: str, runs: Path) -> Iterator[str]:
    """The chain from the outside world to every answer given about this Sample."""
    dropped = list(_drops(sample_id, runs))
    found = list(_find(sample_id, runs)) if not dropped or _is_kept(sample_id, runs) else []
    if not found:
        yield sample_id
        yield from dropped
        return
    _, sample = found[-1]
    origin = sample.origin
    yield f"{sample.id} ({sample.task}, split {sample.split})"
    yield f"  from {origin.source}: {origin.source_id}"
    places = {
        "page": origin.page,
        "box_pt": origin.box_pt,
        "box_l0": origin.box_l0,
        "panel": origin.panel,
        "caption_span": origin.caption_span,
    }
    for name, value in places.items():
        if value is not None:
            yield f"    {name} {value}"
    yield f"  licence {origin.licence}, group {origin.group}"
    for image in sample.images:
        mpp = f", {image.mpp} um/px" if image.mpp else ""
        yield f"  image {image.path}, {image.width_px}x{image.height_px} px{mpp}"
    for event in sample.history:
        by = f" by {event.model or event.reviewer}" if event.model or event.reviewer else ""
        yield f"  {event.step} v{event.version}{by}{f': {event.note}' if event.note else ''}"
    for folder, _ in found:
        yield f"  held by {folder.name}"
    yield from dropped
    if sample.finding is not None:
        yield f"  finding: {sample.finding}"
    yield f"  question: {sample.question}"
    if sample.choices:
        yield f"  options: {'; '.join(sample.choices)}"
    if sample.regions:
        yield f"  boxes: {[list(region.box_px) for region in sample.regions]}"
    if sample.answer or not sample.regions:
        yield f"  answer: {sample.answer or 'none'}"
    yield from _described(sample)
    if sample.reasoning:
        yield f"  reasoning: {sample.reasoning}"
    yield from _answers(sample_id, runs)


def _described(sample: Sample) -> Iterator[str]:
    """What each annotator said, then what is held to be true and who voted for it."""
    for annotation in sample.annotations:
        said = "; ".join(f"{each.name}: {each.text}" for each in annotation.said)
        caption = f"; caption: {annotation.caption}" if annotation.caption else ""
        yield f"  annotator {annotation.annotator}: {said or 'nothing'}{caption}"
    for attribute in sample.attributes:
        facts: list[str] = [attribute.resolver]
        if attribute.confidence is not None:
            facts.append(f"confidence {attribute.confidence:.2f}")
        if attribute.votes:
            votes = ", ".join(f"{vote.annotator} {vote.value or 'cannot tell'}" for vote in attribute.votes)
            facts.append(f"votes: {votes}")
        yield f"  {attribute.name}: {attribute.value} ({'; '.join(facts)})"


def _answers(sample_id: str, runs: Path) -> Iterator[str]:
    for folder in _stage_folders(runs):
        scores = folder / "scores.jsonl"
        for score in read_jsonl(scores) if scores.is_file() else ():
            if score["sample_id"] == sample_id:
                asked = [score[key] for key in ("encoder", "set") if key in score]
                asked += [score["control"]] if score["control"] != "none" else []
                how = f" ({', '.join(asked)})" if asked else ""
                yield f"  {folder.name}{how}: {score['answer']!r}, correct {score['correct']:g}"


def _drops(sample_id: str, runs: Path) -> Iterator[str]:
    """A line for each stage that dropped the Sample, or one that was to be written from it."""
    for folder in _stage_folders(runs):
        for path in (*sorted((folder / "drops").glob("*.jsonl")), *folder.glob("drops.jsonl")):
            for row in read_jsonl(path):
                if row["sample_id"] == sample_id:
                    yield f"  dropped by {folder.name}, {row['step']}: {row['reason']} ({row['detail'][:300]})"


def _is_kept(sample_id: str, runs: Path) -> bool:
    try:
        return next(_find(sample_id, runs), None) is not None
    except UserError:
        return False


def _find(sample_id: str, runs: Path) -> Iterator[tuple[Path, Sample]]:
    """(stage folder, Sample) wherever it is kept. Raises UserError when nowhere."""
    found = False
    for folder in _stage_folders(runs):
        if (folder / "samples").is_dir():
            for sample in read_samples(folder):
                if sample.id == sample_id:
                    found = True
                    yield folder, sample
    if not found:
        raise UserError(
            f"no sample {sample_id!r} under {runs}; `pathloom list runs` shows the stages that are there"
        )
