"""Stage `init`: a model folder with random weights, built from a preset, its tokenizer trained on the recipe's text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pathloom import __version__
from pathloom.card import ModelCard, write_card
from pathloom.models.presets import find_preset
from pathloom.schema import FOLD_PREFIX
from pathloom.stage import StageConfig
from pathloom.store import read_samples
from pathloom.tasks import TASKS, find_task
from pathloom.tasks.task import SYSTEM_PROMPTS, Style


class InitConfig(StageConfig):
    """Entry of a recipe: `{name: untrained, kind: init, preset: qwen2.5-vl-nano, samples: [phantoms]}`."""

    version: ClassVar[int] = 5

    kind: Literal["init"]
    preset: str = "qwen2.5-vl-nano"
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages whose training text the tokenizer is made for"
    )
    vocab_size: int = Field(default=1500, ge=400, le=65536)
    number_tokens: bool = Field(
        default=False, description="each whole number from 0 to 1000 is one token; takes 991 of vocab_size"
    )
    max_pixels: int = Field(default=224 * 224, description="area to which larger pictures are resized")
    style: Style = "cot"
    seed: int = 0

    @field_validator("preset")
    @classmethod
    def _preset_is_known(cls, name: str) -> str:
        return find_preset(name).name

    @model_validator(mode="after")
    def _words_fit_beside_numbers(self) -> "InitConfig":
        if self.number_tokens and self.vocab_size < 1500:
            raise ValueError(
                "vocab_size: number_tokens needs at least 1500, or no word fits beside the numbers"
            )
        return self

    def needs(self) -> tuple[str, ...]:
        return self.samples


def run_init(config: InitConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the model folder; the manifest gets its size."""
    from pathloom.models.nano import save_nano

    preset = find_preset(config.preset)
    texts = _corpus([inputs[name] for name in config.samples], config.style)
    num_parameters = save_nano(
        preset,
        texts,
        config.vocab_size,
        config.seed,
        config.max_pixels,
        out,
        number_tokens=config.number_tokens,
    )
    card = ModelCard(
        name=config.name,
        base=f"{preset.name} (random weights with wired induction heads, seed {config.seed})",
        style=config.style,
        min_pixels=preset.min_pixels,
        max_pixels=config.max_pixels,
        num_parameters=num_parameters,
        seed=config.seed,
        pathloom_version=__version__,
    )
    write_card(card, out)
    return {"num_parameters": num_parameters}


def _corpus(folders: list[Path], style: Style) -> Iterator[str]:
    """All fixed wording of prompts, then the training Samples' own text and what reasoning will be written from.

    Held-out text is never read; in cross-validation every fold is training text of some model.
    """
    yield from SYSTEM_PROMPTS.values()
    yield from (template.text for task in TASKS for template in task.templates)
    for folder in folders:
        for sample in read_samples(folder):
            if sample.split == "train" or sample.split.startswith(FOLD_PREFIX):
                task = find_task(sample.task)
                template = task.templates[0]
                yield task.render(sample, template, style).user
                yield task.target(sample, template, style)
                yield sample.context
