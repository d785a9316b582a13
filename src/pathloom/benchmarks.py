"""Benchmarks are rows of data: which Samples, asked how, how many there should be, and whom to cite.

A benchmark pins the task's template, so a published number and ours are asked in the same words; training draws
from the task's other templates.
"""

from dataclasses import dataclass

from pathloom.schema import Sample, Scale
from pathloom.tasks import find_task
from pathloom.tasks.task import Template

OF_BENCHMARK = "benchmark="
"""Begins the stratum of Samples that were made for one benchmark: no other one asks them."""
DIMENSION = "dimension="
"""Begins the stratum that says what a question is about, one of several sides of a picture that count alike."""


@dataclass(frozen=True)
class Benchmark:
    """One row. `source` is `Sample.origin.source` ("*" for any); `size` is the expected number, None when it depends.

    `stratum` is one that its Samples carry, where sources alone do not tell them; `scale` keeps it to regions or to
    slides. `metric` is the one it is reported
    by; "" for the task's own.

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
    stratum: str = ""
    metric: str = ""
    scale: Scale | None = None

    @property
    def primary_metric(self) -> str:
        """What it is reported and compared by."""
        return self.metric or find_task(self.task).metric

    def asks(self, sample: Sample) -> bool:
        """Whether the Sample is one of its own, whatever its split."""
        if sample.task != self.task or self.source not in ("*", sample.origin.source):
            return False
        if self.scale not in (None, sample.scale):
            return False
        made_for = [stratum for stratum in sample.strata if stratum.startswith(OF_BENCHMARK)]
        return self.stratum in sample.strata if self.stratum else not made_for

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
    _drawn("phantom", "diagnosis_label", "label", "classify"),
    _drawn("phantom", "tumour_cells", "boxes", "list_1000"),
    _drawn("phantom", "tumour_masks", "mask", "outline_1000"),
    _drawn("phantom", "grade", "ordinal", "grade"),
    _drawn("phantom", "slide_label", "label", "classify"),
    _drawn("phantom", "slide_presence", "yes_no", "plain"),
    _drawn("phantom", "slide_extent", "ordinal", "grade"),
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
    Benchmark(
        "morphopercept",
        "*",
        "choice",
        "letter",
        1,
        None,
        "after MorphoPercept-Bench, arXiv 2602.09523; its questions are not published",
        "that of the pictures",
        stratum=f"{OF_BENCHMARK}morphopercept",
        metric="macro_accuracy",
    ),
    Benchmark(
        "cytocell",
        "*",
        "choice",
        "words",
        1,
        None,
        "after CytoCell-Bench, arXiv 2602.09523; its questions are not published",
        "that of the pictures",
        stratum=f"{OF_BENCHMARK}cytocell",
        metric="balanced_accuracy",
    ),
    Benchmark(
        name="cytochat_choice",
        source="cytochat",
        task="choice",
        template="letter",
        version=1,
        size=296,
        citation="CytoChat, github.com/jaylinio/CytoChat, commit c1fafe6; its pictures are not published",
        licence="academic or non-commercial research",
    ),
    Benchmark(
        "bccd_boxes", "bccd", "boxes", "list_1000", 1, None, "BCCD, github.com/Shenggan/BCCD_Dataset", "MIT"
    ),
    Benchmark(
        "dsb2018_masks",
        "dsb2018",
        "mask",
        "outline_1000",
        1,
        None,
        "2018 Data Science Bowl, Caicedo et al. 2019, Nature Methods 16, 1247-1253",
        "CC0-1.0",
    ),
    Benchmark(
        "monuseg_masks",
        "monuseg",
        "mask",
        "outline_1000",
        1,
        None,
        "MoNuSeg, Kumar et al. 2017, IEEE Transactions on Medical Imaging 36, 1550-1560",
        "CC BY-NC-SA 4.0",
    ),
    Benchmark(
        "tiles_label",
        "*",
        "label",
        "classify",
        1,
        None,
        "the folder's own",
        "the folder's own",
        scale="region",
    ),
    Benchmark(
        "slides_label",
        "*",
        "label",
        "classify",
        1,
        None,
        "the folder's own",
        "the folder's own",
        scale="slide",
    ),
    Benchmark("boxes_found", "*", "boxes", "list_1000", 1, None, "the folder's own", "the folder's own"),
    Benchmark("masks_found", "*", "mask", "outline_1000", 1, None, "the folder's own", "the folder's own"),
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
