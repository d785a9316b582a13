"""Questions on fields of tumour: evenly dealt, with masks that fit their boxes."""

from collections import Counter
from typing import Any

import numpy as np

from pathloom.images import load_pixels
from pathloom.ingest.phantom import PhantomConfig
from pathloom.masks import mask_of
from pathloom.phantom.shapes import reading_order
from pathloom.phantom.tumour import GRADES
from pathloom.schema import Sample
from pathloom.tasks import find_task


def asked(name: str, count: int, **fields: Any) -> list[Sample]:
    config = PhantomConfig(name="p", kind="ingest", source="phantom", train={}, test={name: count}, **fields)
    records = [record for unit in config.plan() for record in config.read(unit)]
    assert all(isinstance(record, Sample) for record in records)
    return [record for record in records if isinstance(record, Sample)]


def test_every_number_of_tumour_cells_and_every_grade_is_dealt_equally_often() -> None:
    cells = Counter(len(sample.regions) for sample in asked("tumour_cells", 16))
    assert cells == {1: 4, 2: 4, 3: 4, 4: 4}
    assert Counter(sample.answer for sample in asked("grade", 16)) == dict.fromkeys(GRADES, 4)


def test_every_tumour_cell_carries_a_mask_that_touches_its_box_and_is_darker_than_the_ground() -> None:
    for sample in asked("tumour_masks", 8):
        size_px = (sample.images[0].width_px, sample.images[0].height_px)
        pixels = np.asarray(load_pixels(sample.images[0]), np.float64).mean(2)
        masks = [mask_of(region, size_px) for region in sample.regions]
        for mask in masks:
            assert pixels[mask].mean() < pixels[~np.logical_or.reduce(masks)].mean()
        boxes = [region.box_px for region in sample.regions]
        assert boxes == sorted(boxes, key=lambda box: reading_order(box, size_px[0]))


def test_they_can_be_asked_answered_and_graded_as_their_tasks_say() -> None:
    for name, task_name in (("tumour_cells", "boxes"), ("tumour_masks", "mask"), ("grade", "ordinal")):
        task = find_task(task_name)
        for sample in asked(name, 4):
            assert sample.task == task_name
            assert sample.origin.source == f"phantom_{name}"
            assert task.write(sample, task.truth(sample), task.templates[0])


def test_grades_are_asked_in_their_order_and_the_context_names_the_answer() -> None:
    for sample in asked("grade", 8):
        assert sample.choices == GRADES
        assert sample.context.endswith(f"This is {sample.answer}.")
