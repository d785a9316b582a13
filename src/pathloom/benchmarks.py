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


def _phantom(question: str, task: str, template: str, suffix: str = "") -> Benchmark:
    return Benchmark(
        name=f"phantom_{question}{suffix}",
        source=f"phantom_{question}",
        task=task,
        template=template,
        version=1,
        size=None,
        citation="pathloom phantoms (synthetic)",
        licence="Apache-2.0",
    )


BENCHMARKS: tuple[Benchmark, ...] = (
    _phantom("diagnosis", "choice", "letter"),
    _phantom("diagnosis", "choice", "words", suffix="_words"),
    _phantom("presence", "yes_no", "plain"),
    _phantom("stain", "yes_no", "plain"),
    _phantom("mitoses", "count", "number"),
    _phantom("structure_count", "count", "number"),
    _phantom("structures", "boxes", "list_1000"),
    _phantom("caption", "caption", "describe"),
    _phantom("bethesda", "label", "classify"),
    _phantom("cell_caption", "caption", "describe"),
    Benchmark("tiles_label", "*", "label", "classify", 1, None, "the folder's own", "the folder's own"),
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
