"""Run a recipe. A stage is a folder made from folders: `runs/<stage>-<key>/`, whole or absent.

The key is the hash of kind, version, entry, fingerprint (what else is read) and input keys, so an unchanged stage is
skipped and a changed one, with all that follows from it, is made anew. Work goes on in `runs/.partial/`, where a
killed run finds what it had.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from pathloom import __version__
from pathloom.recipe import Recipe
from pathloom.shards import run_ingest
from pathloom.stage import MANIFEST_FILE, StageConfig, UserError, write_json

PARTIAL = ".partial"
KEY_LENGTH = 12
_FULL_BYTES = 2**20
_RECORDED_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "pillow", "scikit-learn")
_RECORDED_EXTRAS = ("open_clip_torch", "timm", "opencv-python-headless")
"""Recorded where they are installed."""

StageRunner = Callable[[Any, Mapping[str, Path], Path], dict[str, Any]]


def _ingest(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    return run_ingest(config, out)


def _curate(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.curate import run_curate

    return run_curate(config, inputs, out)


def _embed(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.features import run_embed

    return run_embed(config, inputs, out)


def _embed_slides(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.slide_features import run_embed_slides

    return run_embed_slides(config, inputs, out)


def _reason(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.reason import run_reason

    return run_reason(config, inputs, out)


def _annotate(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.annotate import run_annotate

    return run_annotate(config, inputs, out)


def _instruct(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.instruct import run_instruct

    return run_instruct(config, inputs, out)


def _release(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.curate.release import run_release

    return run_release(config, inputs, out)


def _benchmark(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.single_choice import run_benchmark

    return run_benchmark(config, inputs, out)


def _init(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.models.init import run_init

    return run_init(config, inputs, out)


def _export(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.models.export import run_export

    return run_export(config, inputs, out)


def _webdataset(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.train.pack import run_pack

    return run_pack(config, inputs, out)


def _contrastive(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.train.contrastive import run_contrastive

    return run_contrastive(config, inputs, out)


def _vision(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.train.vision import run_vision

    return run_vision(config, inputs, out)


def _sft(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.train.sft import run_sft

    return run_sft(config, inputs, out)


def _reinforce(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.train.reinforce import run_reinforce

    return run_reinforce(config, inputs, out)


def _experts(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.train.experts import run_experts

    return run_experts(config, inputs, out)


def _evaluate(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.generative import run_evaluate

    return run_evaluate(config, inputs, out)


def _probe(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.probe import run_probe

    return run_probe(config, inputs, out)


def _zero_shot(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.zero_shot import run_zero_shot

    return run_zero_shot(config, inputs, out)


def _retrieval(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.retrieval import run_retrieval

    return run_retrieval(config, inputs, out)


def _few_shot(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.few_shot import run_few_shot

    return run_few_shot(config, inputs, out)


def _report(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    from pathloom.evaluate.summary import run_report

    return run_report(config, inputs, out)


RUNNERS: Mapping[str, StageRunner] = {
    "ingest": _ingest,
    "embed": _embed,
    "embed_slides": _embed_slides,
    "curate": _curate,
    "reason": _reason,
    "annotate": _annotate,
    "instruct": _instruct,
    "release": _release,
    "benchmark": _benchmark,
    "init": _init,
    "export": _export,
    "webdataset": _webdataset,
    "contrastive": _contrastive,
    "vision": _vision,
    "pretrain": _sft,
    "sft": _sft,
    "reinforce": _reinforce,
    "experts": _experts,
    "evaluate": _evaluate,
    "probe": _probe,
    "zero_shot": _zero_shot,
    "retrieval": _retrieval,
    "few_shot": _few_shot,
    "report": _report,
}
"""Imports are inside: a recipe without training never loads trl."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its key and folder; `done` when the folder is there."""

    config: StageConfig
    key: str
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / MANIFEST_FILE).is_file()


def plan(recipe: Recipe, root: Path) -> list[PlannedStage]:
    """Every stage's key and folder, in order. Nothing is run; folders of labelled tiles are listed."""
    keys: dict[str, str] = {}
    planned = []
    for config in recipe.stages:
        keys[config.name] = _key(config, [keys[name] for name in config.needs()])
        planned.append(PlannedStage(config, keys[config.name], root / f"{config.name}-{keys[config.name]}"))
    return planned


def _key(config: StageConfig, input_keys: Iterable[str]) -> str:
    content = {
        "kind": config.kind,
        "version": config.version,
        "config": config.keyed(),
        "inputs": list(input_keys),
        "fingerprint": config.fingerprint(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def run_recipe(recipe: Recipe, root: Path, say: Callable[[str], None] = print) -> Path | None:
    """Run what is not yet there; returns the folder of the published report, or None for a recipe without one.

    Raises UserError for anything the user can mend: wrong entries, missing data, a full disk, a read-only folder.
    """
    _check_all(recipe.stages)
    stages = plan(recipe, root)
    try:
        with _lock(root / PARTIAL):
            return _run_stages(recipe, stages, root, say)
    except OSError as error:
        raise UserError(_explain_os_error(error, root)) from error
    except Exception as error:  # the stage boundary: libraries wrap a full disk in errors of their own
        # safetensors quotes the disk's error, torch.save ("unexpected pos") does not
        if "No space left on device" not in str(error) and shutil.disk_usage(root).free > _FULL_BYTES:
            raise
        raise UserError(_explain_os_error(OSError(errno.ENOSPC, str(error)), root)) from error


def _check_all(stages: Sequence[StageConfig]) -> None:
    """Raise one UserError with all that the stages refuse, so that nobody mends a recipe one error at a time."""
    refused: dict[str, None] = {}
    for config in stages:
        try:
            config.check()
        except UserError as error:
            refused[str(error)] = None
    if len(refused) == 1:
        raise UserError(*refused)
    if refused:
        raise UserError(
            "\n".join([f"{len(refused)} things are to be mended before anything runs:", *refused])
        )


def _run_stages(
    recipe: Recipe, stages: Sequence[PlannedStage], root: Path, say: Callable[[str], None]
) -> Path | None:
    folders = {stage.config.name: stage.folder for stage in stages}
    report: Path | None = None
    for number, stage in enumerate(stages, start=1):
        head = f"[{number}/{len(stages)}] {stage.config.name} ({stage.config.kind})"
        if stage.done:
            say(f"{head}: done before, {stage.folder.name}")
        else:
            say(f"{head}: running")
            inputs = {name: folders[name] for name in stage.config.needs()}
            seconds, counts = _run_stage(stage, inputs, root / PARTIAL / stage.folder.name)
            say(f"{head}: {seconds:.1f} s, {stage.folder.name}{_kept_and_dropped(counts)}")
            for warning in counts.get("warnings", ()):
                say(f"  warning: {warning}")
        if stage.config.kind == "report":
            report = _publish(stage.folder, root / recipe.name)
    return report


def _lock(work: Path) -> TextIO:
    """Hold a folder of unfinished work for this process; a killed process lets go of it by itself."""
    work.mkdir(parents=True, exist_ok=True)
    lock = (work / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            f"{work}: another pathloom run is working here; wait for it, or choose another folder with --runs or --out"
        ) from error
    return lock


def _kept_and_dropped(counts: Mapping[str, Any]) -> str:
    """`; 43 kept, 13 dropped (too_few_for_levels 13)`: what is kept only of a stage that makes or sorts Samples."""
    drops = counts.get("drops", {})
    most = sorted(drops, key=lambda reason: -drops[reason])[:4]
    reasons = ", ".join(f"{reason} {drops[reason]}" for reason in most) + (
        ", ..." if len(drops) > len(most) else ""
    )
    told = [f"{counts['samples']} kept"] if "samples" in counts else []
    told += [f"{sum(drops.values())} dropped ({reasons})"] if drops else []
    return f"; {', '.join(told)}" if told else ""


def run_into(
    config: StageConfig,
    folder: Path,
    say: Callable[[str], None] = print,
    inputs: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Run one stage into a folder of the user's choice; work goes on in `FOLDER.partial`.

    `inputs` are the finished stages that it needs, each under the name that its entry has for it.
    Raises UserError for anything the user can mend, a folder that holds something else among it.
    """
    config.check()
    folder = folder.resolve()
    stage = PlannedStage(config, _key(config, [_key_of(inputs[name]) for name in config.needs()]), folder)
    partial = folder.with_name(folder.name + PARTIAL)
    if stage.done:
        if _key_of(folder) != stage.key:
            raise UserError(
                f"{folder}: holds the result of other settings or files; choose another --out or remove it"
            )
        say(f"{folder}: done before")
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; choose another --out")
    try:
        with _lock(partial):
            folder.parent.mkdir(parents=True, exist_ok=True)
            seconds, counts = _run_stage(stage, inputs, partial / stage.key)
            shutil.rmtree(partial)  # also what other settings had begun
    except OSError as error:
        raise UserError(_explain_os_error(error, folder)) from error
    say(f"{folder}: {seconds:.1f} s{_kept_and_dropped(counts)}")


def _key_of(folder: Path) -> str:
    """Of a finished stage."""
    return str(json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["key"])


def _run_stage(
    stage: PlannedStage, inputs: Mapping[str, Path], partial: Path
) -> tuple[float, Mapping[str, Any]]:
    """One stage into its partial folder, its manifest, then the rename that makes it appear; seconds and counts."""
    partial.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    counts = RUNNERS[stage.config.kind](stage.config, inputs, partial)
    seconds = time.monotonic() - start
    write_json(_manifest(stage, inputs, counts, seconds), partial / MANIFEST_FILE)
    _sync_tree(partial)
    partial.rename(stage.folder)
    _sync_folder(stage.folder.parent)
    return seconds, counts


def _manifest(
    stage: PlannedStage, inputs: Mapping[str, Path], counts: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    return {
        "stage": stage.config.name,
        "kind": stage.config.kind,
        "version": stage.config.version,
        "key": stage.key,
        "config": stage.config.model_dump(mode="json"),
        "inputs": {name: folder.name for name, folder in inputs.items()},
        "counts": dict(counts),
        "seconds": round(seconds, 2),
        "pathloom": __version__,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _RECORDED_PACKAGES} | _extras(),
        "source_hash": _source_hash(),
    }


def _extras() -> dict[str, str]:
    found = {}
    for name in _RECORDED_EXTRAS:
        with suppress(PackageNotFoundError):
            found[name] = package_version(name)
    return found


def _source_hash() -> str:
    """Hash of pathloom's own files: noted, never part of a key, so that an edited comment reruns nothing."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:KEY_LENGTH]


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    """fsync a file or folder: after a power cut the renamed folder must not hold empty files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(folder: Path, target: Path) -> Path:
    """Copy the report's files to `runs/<recipe name>/`, each whole or not at all."""
    target.mkdir(exist_ok=True)
    for path in sorted(folder.glob("report.*")):
        partial = target / f".{path.name}.partial"
        shutil.copyfile(path, partial)
        partial.replace(target / path.name)
    return target


def _explain_os_error(error: OSError, root: Path) -> str:
    place = error.filename or root
    cures = {
        errno.ENOSPC: "the disk is full: free some space and run the same command again, finished shards are kept",
        errno.EROFS: "the file system is read-only: choose another folder with --runs",
        errno.EACCES: "permission denied: choose a folder you may write to with --runs",
    }
    if error.errno == errno.ENOTEMPTY and error.filename2:  # the rename that makes a stage appear
        return f"{error.filename2} is there without a {MANIFEST_FILE}: remove that folder and run again"
    return f"{place}: {cures.get(error.errno or 0, error.strerror or str(error))}"
