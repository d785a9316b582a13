"""Benchmarks are rows of data: which Samples, asked how, how many there should be, and whom to cite.

A benchmark pins the task's template, so a published number and ours are asked in the same words; training draws
from the task's other templates.
"""

from dataclasses import dataclass

from pathloom.tasks import find_task
from pathloom.tasks.task import Template


@dataclass(frozen=True)
class Benchmark:
    """One row. `source` is `Sample.origin.source` ("*" for any); `size` is the expected number, None when it depends.

    `version` is raised when the row changes so that older numbers are no longer comparable.
    """

    name: str
    source: str
    task: str
    template: str
    version: int
    size: int | None
    citation: str
    licence: str

    def pinned_template(self) -> Template:
        return find_task(self.task).template(self.template)


def _drawn(family: str, question: str, task: str, template: str, suffix: str = "") -> Benchmark:
    return Benchmark(
        name=f"{family}_{question}{suffix}",
        source=f"{family}_{question}",
        task=task,
        template=template,
        version=1,
        size=None,
        citation=f"pathloom {family} (synthetic)",
        licence="Apache-2.0",
    )


BENCHMARKS: tuple[Benchmark, ...] = (
    _drawn("phantom", "diagnosis", "choice", "letter"),
    _drawn("phantom", "diagnosis", "choice", "words", suffix="_words"),
    _drawn("phantom", "presence", "yes_no", "plain"),
    _drawn("phantom", "stain", "yes_no", "plain"),
    _drawn("phantom", "mitoses", "count", "number"),
    _drawn("phantom", "structure_count", "count", "number"),
    _drawn("phantom", "structures", "boxes", "list_1000"),
    _drawn("phantom", "caption", "caption", "describe"),
    _drawn("phantom", "bethesda", "label", "classify"),
    _drawn("phantom", "cell_caption", "caption", "describe"),
    _drawn("phantom", "patch_caption", "caption", "describe"),
    _drawn("phantom", "spoken_caption", "caption", "describe"),
    _drawn("phantom", "legend_caption", "caption", "describe"),
    _drawn("phantom", "reworded_caption", "caption", "describe"),
    _drawn("phantom", "unseen_caption", "caption", "describe"),
    _drawn("phantom", "stain_label", "label", "classify"),
    _drawn("phantom", "cellularity", "label", "classify"),
    _drawn("phantom", "mitoses_label", "label", "classify"),
    _drawn("phantom", "chromogen", "label", "classify"),
    _drawn("phantom", "pearl", "label", "classify"),
    _drawn("phantom", "nc_ratio", "label", "classify"),
    _drawn("phantom", "nuclear_size", "label", "classify"),
    _drawn("phantom", "cytoplasm", "label", "classify"),
    _drawn("phantom", "arrangement", "label", "classify"),
    _drawn("phantom", "background", "label", "classify"),
    _drawn("basics", "word_choice", "choice", "letter"),
    _drawn("basics", "phrase_choice", "choice", "letter"),
    _drawn("basics", "lookup", "choice", "letter"),
    _drawn("basics", "match", "yes_no", "plain"),
    _drawn("basics", "shape", "choice", "letter"),
    _drawn("basics", "is_shape", "yes_no", "plain"),
    _drawn("basics", "is_there", "yes_no", "plain"),
    _drawn("basics", "count", "count", "number"),
    _drawn("basics", "one_box", "boxes", "list_1000"),
    _drawn("basics", "boxes", "boxes", "list_1000"),
    _drawn("basics", "scene_caption", "caption", "describe"),
    Benchmark("tiles_label", "*", "label", "classify", 1, None, "the folder's own", "the folder's own"),
    Benchmark("boxes_found", "*", "boxes", "list_1000", 1, None, "the folder's own", "the folder's own"),
)


def find_benchmark(name: str) -> Benchmark:
    """The row of that name. Raises ValueError that lists the known ones."""
    for benchmark in BENCHMARKS:
        if benchmark.name == name:
            return benchmark
    raise ValueError(f"no benchmark {name!r}; known: {', '.join(benchmark.name for benchmark in BENCHMARKS)}")


def training_templates(task_name: str) -> tuple[Template, ...]:
    """The task's templates that no benchmark pins."""
    pinned = {benchmark.template for benchmark in BENCHMARKS if benchmark.task == task_name}
    return tuple(template for template in find_task(task_name).templates if template.name not in pinned)
