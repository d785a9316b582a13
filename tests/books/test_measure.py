"""The measures on hand-made books, with numbers worked out by hand."""

import json
import math
import time

import pytest
from tests.books.by_eye import listed

from pathloom.books.measure import folded, measure, mistakes, similarity
from pathloom.figures import Book, Figure, Panel, Reference
from pathloom.schema import Box

UPPER: Box = (100, 100, 300, 200)
LOWER: Box = (100, 400, 300, 500)
LEFT: Box = (100, 100, 195, 200)
RIGHT: Box = (205, 100, 300, 200)


def figure(number: str = "1", box: Box = UPPER, *, page: int = 1, caption: str | None = None) -> Figure:
    text = f"Figure {number}. A drawing of the {number}th cell." if caption is None else caption
    return Figure(page=page, box_pt=box, number=number, caption=text, panels=(Panel(box_pt=box),))


def two_panels(*panels: Panel) -> Book:
    return book(Figure(page=1, box_pt=UPPER, number="1", caption="Figure 1. Cells.", panels=panels))


def book(
    *figures: Figure, references: tuple[Reference, ...] = (), name: str = "book", pages: int = 4
) -> Book:
    return Book(name=name, num_pages=pages, figures=figures, references=references)


A = Panel(box_pt=LEFT, label="A", text="A mitosis in the middle of the field.")
B = Panel(box_pt=RIGHT, label="B", text="Necrosis at the border, without any nuclei.")


def test_a_book_measured_against_itself_is_perfect():
    own = two_panels(A, B)
    result = measure([own], [own])
    for rates in (result.figure_box, result.caption_binding, result.caption_part):
        assert rates.precision.value == rates.recall.value == rates.f1.value == 1
    assert result.panel_ap50.value == result.panel_ap75.value == result.figure_iou.value == 1
    assert result.caption_distance.value == 0
    assert mistakes([own], [own]) == []


def test_a_missed_figure_costs_recall_only():
    truth = book(figure("1"), figure("2", LOWER))
    result = measure([book(figure("1"))], [truth])
    assert (result.figure_box.precision.value, result.figure_box.recall.value) == (1, 0.5)
    assert result.figure_box.f1.value == pytest.approx(2 / 3)
    assert (result.caption_binding.right, result.caption_binding.found, result.caption_binding.true) == (
        1,
        1,
        2,
    )
    assert result.panel_ap50.value == 0.5
    lines = mistakes([book(figure("1"))], [truth])
    assert len(lines) == 3  # the box, its panel, its caption
    assert (
        lines[0]
        == "book p. 1: figure 2 at (100, 400, 300, 500) missed; (100, 100, 300, 200), IoU 0.00, is found"
    )


def test_a_box_too_small_is_wrong_but_its_caption_is_still_bound():
    # 140 of 200 points wide: IoU 0.7, below 0.8 for the box and above 0.5 for the binding.
    found = book(figure("1", (100, 100, 240, 200)))
    result = measure([found], [book(figure("1"))])
    assert (result.figure_box.right, result.figure_box.found, result.figure_box.true) == (0, 1, 1)
    assert math.isnan(result.figure_iou.value)
    assert result.caption_binding.f1.value == 1
    assert (result.panel_ap50.value, result.panel_ap75.value) == (1, 0)


def test_the_mean_overlap_is_over_matched_boxes():
    truth = book(figure("1"), figure("2", LOWER))
    found = book(figure("1", (100, 100, 280, 200)), figure("2", LOWER))
    assert measure([found], [truth]).figure_iou.value == pytest.approx((0.9 + 1) / 2)


def test_a_box_on_the_next_page_is_no_match():
    result = measure([book(figure(page=2))], [book(figure(page=1))])
    assert (result.figure_box.right, result.figure_box.found, result.figure_box.true) == (0, 1, 1)


def test_two_boxes_for_one_figure_are_one_too_many():
    found = book(figure("1"), figure("1", (100, 100, 290, 200)))
    result = measure([found], [book(figure("1"))])
    assert (result.figure_box.precision.value, result.figure_box.recall.value) == (0.5, 1)


def test_swapped_captions_bind_nothing_though_all_boxes_are_right():
    truth = book(figure("1"), figure("2", LOWER))
    found = book(figure("1", LOWER), figure("2", UPPER))
    result = measure([found], [truth])
    assert result.figure_box.f1.value == 1
    assert (result.caption_binding.right, result.caption_binding.found, result.caption_binding.true) == (
        0,
        2,
        2,
    )
    assert result.caption_binding.f1.value == 0
    assert len(mistakes([found], [truth])) == 2


def test_a_caption_given_to_a_figure_that_has_none_is_a_false_pair():
    truth = book(figure("", caption=""), figure("2", LOWER))
    found = book(figure("2"), figure("2", LOWER))
    result = measure([found], [truth])
    assert (result.caption_binding.precision.value, result.caption_binding.recall.value) == (0.5, 1)
    none_found = measure([book(figure("", caption=""), figure("2", LOWER))], [truth])
    assert none_found.caption_binding.f1.value == 1


def test_a_caption_with_the_right_number_and_the_text_of_the_body_is_wrong():
    truth = book(figure("1", caption="Figure 1. A gland."))
    found = book(figure("1", caption="Figure 1. A gland. The next paragraph of the body runs into it."))
    result = measure([found], [truth])
    assert result.caption_binding.right == 0
    assert "expected 1 'Figure 1. A gland.', found 1" in mistakes([found], [truth])[0]


def test_the_caption_distance_is_edits_over_length():
    # 20 characters as folded, 2 of them read wrongly: still the caption, at a distance of 0.1.
    truth = book(figure("1", caption="Figure 1. Abcdefghi jklm"))
    found = book(figure("1", caption="Figure 1. Abcdefghi jkxx"))
    assert len(folded("Figure 1. Abcdefghi jklm")) == 21
    result = measure([found], [truth])
    assert result.caption_distance.value == pytest.approx(2 / 21)
    assert result.caption_binding.f1.value == 1


def test_a_truth_that_ends_in_an_ellipsis_is_compared_as_a_beginning():
    truth = book(figure("1", caption="Figure 1. Cells of the …"))
    assert measure(
        [book(figure("1", caption="FIGURE 1. Cells of the lung, from a puncture."))], [truth]
    ).caption_binding.right
    other = book(figure("1", caption="Figure 1. Glands in the colon after treatment."))
    assert not measure([other], [truth]).caption_binding.right


def test_a_merged_pair_of_panels_is_one_false_panel_and_two_missed():
    merged = Panel(box_pt=UPPER, label="A", text=A.text)
    result = measure([two_panels(merged)], [two_panels(A, B)])
    # IoU of the merged box with each panel is 95 / 200.
    assert result.panel_ap50.value == 0
    assert (result.caption_part.right, result.caption_part.found, result.caption_part.true) == (0, 1, 2)
    lines = mistakes([two_panels(merged)], [two_panels(A, B)])
    assert sum("panel" in line for line in lines) == 3
    assert sum("part" in line for line in lines) == 3


def test_swapped_parts_of_a_caption_are_wrong_though_both_panels_are_found():
    swapped = (A.model_copy(update={"text": B.text}), B.model_copy(update={"text": A.text}))
    result = measure([two_panels(*swapped)], [two_panels(A, B)])
    assert result.panel_ap50.value == 1
    assert (result.caption_part.right, result.caption_part.found, result.caption_part.true) == (0, 2, 2)


def test_a_panel_without_text_is_no_part_of_a_caption():
    bare = B.model_copy(update={"text": ""})
    result = measure([two_panels(A, bare)], [two_panels(A, bare)])
    assert (result.caption_part.right, result.caption_part.found, result.caption_part.true) == (1, 1, 1)


def test_average_precision_is_the_area_below_the_envelope():
    # By score: right, wrong, right, right of 4 true. Precision 1, 2/3, 3/4 where recall grows; the envelope lifts 2/3.
    truth = book(*(figure(str(n), (50, 100 * n, 150, 100 * n + 80)) for n in (1, 2, 3, 4)))
    by_score = [((50, 100, 150, 180), 0.9), ((300, 100, 400, 180), 0.8)]
    by_score += [((50, 200, 150, 280), 0.7), ((50, 300, 150, 380), 0.6)]
    panels = tuple(Panel(box_pt=box, score=score) for box, score in reversed(by_score))
    found = book(Figure(page=1, box_pt=UPPER, panels=panels))
    assert measure([found], [truth]).panel_ap50.value == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)


def test_equal_scores_are_one_point_of_the_curve_in_whatever_order_they_stand():
    wrong = Panel(box_pt=LOWER)
    truth = two_panels(A, B)
    first, last = measure([two_panels(wrong, A)], [truth]), measure([two_panels(A, wrong)], [truth])
    assert first.panel_ap50.value == last.panel_ap50.value == 0.25  # precision 1/2 at recall 1/2


def test_a_second_detection_of_a_panel_is_false_even_where_it_scores_less():
    again = A.model_copy(update={"score": 0.5})
    found = two_panels(A, again, B.model_copy(update={"score": 0.4}))
    # Precision 1 at recall 1/2, then 2/3 at recall 1.
    assert measure([found], [two_panels(A, B)]).panel_ap50.value == pytest.approx(1 / 2 + 1 / 3)


SENTENCE = "The nuclei are large and hyperchromatic (Fig. 1A and B)."
REFERENCE = Reference(page=2, sentence=SENTENCE, number="1", panels=("A", "B"))


def test_a_reference_counts_on_the_next_page_and_not_on_the_one_after():
    truth = book(references=(REFERENCE,))
    for page, right in ((1, 1), (2, 1), (3, 1), (4, 0)):
        found = book(references=(REFERENCE.model_copy(update={"page": page}),))
        assert measure([found], [truth]).reference_panels.right == right


def test_wrong_panels_spoil_a_reference_only_where_panels_count():
    found = book(references=(REFERENCE.model_copy(update={"panels": ("A",)}),))
    result = measure([found], [book(references=(REFERENCE,))])
    assert result.reference.f1.value == 1
    assert (result.reference_panels.right, result.reference_panels.found, result.reference_panels.true) == (
        0,
        1,
        1,
    )


def test_the_order_of_panels_in_a_reference_does_not_matter():
    found = book(references=(REFERENCE.model_copy(update={"panels": ("B", "A")}),))
    assert measure([found], [book(references=(REFERENCE,))]).reference_panels.f1.value == 1


def test_a_reference_to_another_figure_is_missed_and_invented():
    found = book(references=(REFERENCE.model_copy(update={"number": "2"}), REFERENCE))
    result = measure([found], [book(references=(REFERENCE,))])
    assert (result.reference.precision.value, result.reference.recall.value) == (0.5, 1)
    assert mistakes([found], [book(references=(REFERENCE,))]) == [
        f"book p. 2: no such reference: 2 A/B in {SENTENCE!r}"
    ]


def test_counts_are_pooled_over_books_and_not_averaged():
    many = book(*(figure(str(n), (50, 100 * n, 150, 100 * n + 80)) for n in (1, 2, 3)), name="many")
    one = book(figure("1"), name="one")
    result = measure([many], [many, one])
    assert result.figure_box.recall.value == 3 / 4
    assert (result.num_books, result.num_pages, result.num_panels) == (2, 8, 4)


def test_the_interval_spans_what_pages_drawn_again_would_give():
    truth = book(*(figure(str(page), page=page) for page in range(1, 21)), pages=20)
    found = book(*truth.figures[:10], pages=20)
    recall = measure([found], [truth], seed=3).figure_box.recall
    # 20 pages, half of them right: a binomial share with standard error 0.11.
    assert recall.value == 0.5
    assert 0.2 <= recall.low <= 0.35
    assert 0.65 <= recall.high <= 0.8
    assert measure([found], [truth], seed=3).figure_box.recall == recall


def test_nothing_to_measure_is_neither_zero_nor_one():
    result = measure([book()], [book()])
    assert math.isnan(result.figure_box.f1.value)
    assert result.to_dict()["panel_ap50"] == {"value": None, "low": None, "high": None}
    assert any("nothing to measure" in line for line in result.table())


def test_the_table_is_aligned_and_the_dict_is_json():
    result = measure([two_panels(A)], [two_panels(A, B)])
    lines = result.table()
    assert len({len(line) for line in lines}) == 1
    assert any(line.startswith("| caption part f1") and "1 / 1 / 2" in line for line in lines)
    assert json.loads(json.dumps(result.to_dict()))["caption_part"]["true"] == 2


def test_books_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="no truth for 1 found books, first 'other'"):
        measure([book(name="other")], [book()])
    with pytest.raises(ValueError, match="a name stands twice"):
        measure([book(), book()], [book()])
    with pytest.raises(ValueError, match="no books"):
        measure([], [])


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ("kitten", "sitting", 1 - 3 / 7),
        ("", "abc", 0.0),
        ("abc", "", 0.0),
        ("", "", 1.0),
        ("\uff21  cell\u2013wall", "a cell-wall", 1.0),
        ("\u201cx\u201d", "'x'", 1.0),
        ("图13-2 细胞", "图 13\u20132细胞", 1.0),
        ("abcdefgh", "abxd …", 0.75),
        ("", "ab…", 0.0),
    ],
)
def test_similarity_is_the_edit_distance_of_the_folded_texts(found: str, true: str, expected: float):
    assert similarity(found, true) == pytest.approx(expected)


def test_long_captions_are_compared_in_little_time():
    one = "The nuclei are enlarged and irregular. " * 60
    start = time.perf_counter()
    assert similarity(one, one.replace("nuclei", "nuclel") + "x") > 0.9
    assert time.perf_counter() - start < 1


def test_the_list_made_by_eye_agrees_with_itself_and_holds_only_beginnings():
    documents = listed()
    truth = [document.book for document in documents.values()]
    result = measure(truth, truth)
    assert result.figure_box.f1.value == result.reference_panels.f1.value == result.caption_part.f1.value == 1
    assert {
        name: len(document.book.figures) for name, document in documents.items() if document.book.figures
    } == {
        "eiph_1908.04767": 5,
        "f63cb20759fab2514802c3ef2a743c76bf9dc9f1": 4,
        "herlev_martin2003_thesis": 72,
        "patho_r1_pages": 3,
        "PMC3777717_00006": 1,
        "PMC4972521_00010": 1,
        "PMC3976938_00002": 1,
        "PMC4527132_00004": 1,
        "PMC4954804_00001": 1,
        "PMC3654277_00006": 1,
    }
    texts = [figure.caption for document in truth for figure in document.figures]
    texts += [reference.sentence for document in truth for reference in document.references]
    assert max(len(text.split()) for text in texts) <= 9
    for document in truth:
        for one in document.figures:
            assert 1 <= one.page <= document.num_pages
            for panel in one.panels:
                union = (
                    *map(min, one.box_pt[:2], panel.box_pt[:2]),
                    *map(max, one.box_pt[2:], panel.box_pt[2:]),
                )
                assert union == pytest.approx(one.box_pt, abs=1)
