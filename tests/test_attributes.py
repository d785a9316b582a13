import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pathloom.attributes import LANGUAGES, AttributeSchema, UnknownWords, load_schema
from pathloom.listing import list_lines
from pathloom.phantom.cytology import VALUES
from pathloom.stage import UserError

UNKNOWN = "unknown words"
SMALL: dict[str, Any] = {
    "name": "glands",
    "version": 1,
    "subject": {"en": "gland", "zh": "腺体"},
    "cannot_tell": {"en": ["cannot tell"], "zh": ["无法判断"]},
    "attributes": {
        "lumen": {
            "title": {"en": "lumen", "zh": "腺腔"},
            "question": {"en": "How wide is the lumen?", "zh": "腺腔多宽？"},  # noqa: RUF001
            "sentence": {"en": "The lumen is {}.", "zh": "腺腔：{}。"},  # noqa: RUF001
            "values": {"narrow": {"zh": ["狭窄"], "also": ["slit-like"]}, "wide": {"zh": ["宽大"]}},
        },
        "contents": {
            "title": {"en": "contents", "zh": "内容物"},
            "question": {"en": "What does it hold?", "zh": "有何内容物？"},  # noqa: RUF001
            "sentence": {"en": "It holds {}.", "zh": "内容物：{}。"},  # noqa: RUF001
            "none": {"en": ["nothing"], "zh": ["无"]},
            "flags": {"mucin": {"zh": ["粘液"]}, "debris": {"zh": ["碎屑"], "also": ["dirty necrosis"]}},
        },
    },
}


def cells() -> AttributeSchema:
    return load_schema("cervical_cell")


def reading(name: str, words: str, schema: AttributeSchema | None = None) -> str | None:
    try:
        return (schema or cells()).read(name, words)
    except UnknownWords:
        return UNKNOWN


def written(path: Path, change: Callable[[dict[str, Any]], object] = lambda data: None) -> Path:
    data = copy.deepcopy(SMALL)
    change(data)
    path.write_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def disguised(words: str, rng: np.random.Generator) -> str:
    """The words with other letter case, more spaces where there are some, and marks around them."""
    cased = "".join(sign.upper() if rng.random() < 0.5 else sign for sign in words)
    spaced = cased.replace(" ", " " * int(rng.integers(1, 4)))
    before, after = (["", " ", '"', "(", "  “"][int(rng.integers(5))], ["", ".", "。", " ", ";", '"', "\n"])
    return before + spaced + after[int(rng.integers(7))]


def test_every_listed_word_reads_to_its_value_in_any_case_spaces_and_marks():
    schema, rng = cells(), np.random.default_rng(0)
    count = 0
    for kind in schema.attributes.values():
        for value, language in itertools.product(kind.values, LANGUAGES):
            for words in (value, *kind.words[value][language]):
                assert schema.read(kind.name, words) == value
                for _ in range(5):
                    assert schema.read(kind.name, disguised(words, rng)) == value
                count += 1
    assert count > 500


def test_every_value_reads_back_from_the_words_it_is_said_in():
    schema = cells()
    for kind in schema.attributes.values():
        for value, language in itertools.product(kind.values, LANGUAGES):
            assert schema.read(kind.name, kind.say(value, language)) == value
            assert schema.read(kind.name, kind.say_each(value, language)) == value


def test_a_listed_word_in_a_plain_sentence_reads_to_its_value_or_not_at_all():
    """Never to another value: what stands around it says nothing."""
    schema = cells()
    for kind in schema.attributes.values():
        for value, words in ((v, w) for v in kind.values for w in (v, *kind.words[v]["en"])):
            assert reading(kind.name, f"The {kind.title['en']} of this cell: {words}.") in (value, UNKNOWN)
            assert reading(kind.name, f"该细胞{kind.title['zh']}为{words}") in (value, UNKNOWN)


def test_a_listed_word_that_is_denied_is_never_read_as_its_value():
    schema = cells()
    for kind in schema.attributes.values():
        for value, language in itertools.product(kind.values, LANGUAGES):
            for words in kind.words[value][language]:
                for denied in (f"it is not {words}", f"并非{words}", f"{words}?", f"possibly {words}"):
                    assert reading(kind.name, denied) != value, (kind.name, denied)


def test_words_of_two_values_are_never_read_as_one_of_them():
    rng = np.random.default_rng(0)
    kinds = [kind for kind in cells().attributes.values() if not kind.flags]
    frames = {
        "en": ("{} to {}", "{} or {}", "{} and {}", "{}, {}"),
        "zh": ("{}至{}", "{}或{}", "{}、{}", "{}{}"),
    }
    for _ in range(2000):
        kind = kinds[rng.integers(len(kinds))]
        language = LANGUAGES[rng.integers(2)]
        values = [kind.values[i] for i in rng.permutation(len(kind.values))[:2]]
        first, second = (
            kind.words[value][language][rng.integers(len(kind.words[value][language]))] for value in values
        )
        both = frames[language][rng.integers(4)].format(first, second)
        if first not in second and second not in first:
            assert reading(kind.name, both) == UNKNOWN, (kind.name, both)


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("nuclear_size", "markedly enlarged (>3x)", "markedly enlarged"),
        ("nuclear_size", "The nucleus is enlarged.", "moderately enlarged"),
        ("nuclear_size", "核增大明显", "markedly enlarged"),
        ("nuclear_size", "Moderately enlarged, 2.5-3x an intermediate nucleus", "moderately enlarged"),
        ("nuclear_size", "The nucleus is not enlarged", "normal"),
        ("nuclear_size", "not markedly enlarged", UNKNOWN),
        ("nuclear_size", "mildly to moderately enlarged", UNKNOWN),
        ("nuclear_size", "轻-中度增大", UNKNOWN),
        ("nuclear_size", "中重度增大", UNKNOWN),
        ("nuclear_size", "three times the normal size", UNKNOWN),
        ("nuclear_size", "3x normal", UNKNOWN),
        ("nuclear_size", "larger than normal", UNKNOWN),
        ("nuclear_size", "The nucleus is blue.", UNKNOWN),
        ("nuclear_size", "enlarged nucleoli", UNKNOWN),
        ("nuclear_size", "核轻度增大，约为正常中层细胞核的2倍", "mildly enlarged"),  # noqa: RUF001
        ("nuclear_size", "", UNKNOWN),
        ("chromatin", "hyperchromatic, evenly distributed", "dark even"),
        ("chromatin", "coarse and dark", "coarse dark"),
        ("chromatin", "fine but hyperchromatic", UNKNOWN),
        ("chromatin", "粗颗粒状、不均匀", UNKNOWN),
        ("num_nuclei", "1", "one"),
        ("num_nuclei", "12", UNKNOWN),
        ("num_nuclei", "more than one nucleus", UNKNOWN),
        ("nc_ratio", "偏高", UNKNOWN),
        ("nc_ratio", "高", "high"),
        ("nc_ratio", "markedly increased", UNKNOWN),
        ("nuclear_membrane", "mildly irregular to irregular", UNKNOWN),
        ("nuclear_membrane", "增厚，不规则", "irregular"),  # noqa: RUF001
        ("nucleoli", "未见明显核仁", UNKNOWN),
        ("nucleoli", "No nucleoli are seen.", "none"),
        ("nucleoli", "small nucleoli not seen", UNKNOWN),
        ("cytoplasm", "non-keratinised", UNKNOWN),
        ("cytoplasm", "scant, immature", "immature"),
        ("arrangement", "small cluster of three cells", "small group"),
        ("arrangement", "a cluster", UNKNOWN),
    ],
)
def test_free_words_mean_one_value_or_none(name, words, value):
    assert reading(name, words) == value


def test_the_words_of_the_cards_example_record_are_read():
    """The published record, word for word (Singpath_CytoText, commit 182dc7b)."""
    said = {
        "核大小": ("增大", "moderately enlarged"),
        "核染色质": ("不均匀,颗粒粗,聚集明显", "coarse dark"),
        "核数量": ("单核", "one"),
        "核质比": ("增高", "increased"),
        "核膜": ("不规则", "irregular"),
        "核仁": ("未见", "none"),
        "胞质状态": (
            "胞浆量少,着色浅,无特殊结构",
            UNKNOWN,
        ),  # scant and pale: of metaplastic and of immature cells
        "异常病理指征": ("细胞核异型性:存在;角化异常:未见,不存在挖空细胞", "nuclear atypia"),
        "细胞空间构型": ("未见聚集成团", "single"),
    }
    for key, (words, value) in said.items():
        name = cells().name_of(key)
        assert name is not None
        assert reading(name, words) == value, key


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("核异型性：有；角化异常：无；挖空细胞：无", "nuclear atypia"),  # noqa: RUF001
        ("nuclear atypia: present; koilocyte: absent", "nuclear atypia"),
        ("atypia present, others absent", "nuclear atypia"),
        ("Nuclear atypia is present and koilocytes are absent.", "nuclear atypia"),
        ("koilocyte + nuclear atypia", "nuclear atypia + koilocyte"),
        ("核异型性、挖空细胞", "nuclear atypia + koilocyte"),
        ("No atypia or koilocytes", "none"),
        ("未见核异型性及挖空细胞", "none"),
        ("Nuclear atypia: no\nKoilocyte: no\nKeratinization abnormality: yes", "keratinisation abnormality"),
        ("Abnormal signs: none", "none"),
        ("atypia, koilocyte absent", UNKNOWN),  # is the atypia absent too?
        ("no atypia and koilocytes", UNKNOWN),
        ("无核异型性、挖空细胞", UNKNOWN),
        ("atypia or koilocyte", UNKNOWN),
        ("atypia present; atypia absent", UNKNOWN),
        ("koilocyte (-)", UNKNOWN),
        ("koilocyte?", UNKNOWN),
        ("perinuclear halo", UNKNOWN),
        ("others absent", UNKNOWN),
        ("yes", UNKNOWN),
    ],
)
def test_packed_signs_are_read_piece_by_piece(words, value):
    assert reading("abnormal_signs", words) == value


def test_any_set_of_signs_is_read_from_any_order_and_wording():
    rng, kind = np.random.default_rng(0), cells()["abnormal_signs"]
    wordings = {
        "en": ("{}: present", "{}: absent", ("; ", ", ", "\n", ". ")),
        "zh": ("可见{}", "未见{}", ("；", "，", "、", "\n")),  # noqa: RUF001
    }
    for _ in range(300):
        value, language = kind.values[rng.integers(len(kind.values))], LANGUAGES[rng.integers(2)]
        there, missing, joints = wordings[language]
        pieces = []
        for sign in (kind.flags[i] for i in rng.permutation(len(kind.flags))):
            words = kind.signs[sign][language]
            said = there if sign in value.split(" + ") else missing
            pieces.append(said.format(words[rng.integers(len(words))]))
        assert reading("abnormal_signs", joints[rng.integers(4)].join(pieces)) == value, pieces


@pytest.mark.parametrize(
    "words", ["cannot tell", "Unknown.", "无法判断", "cannot be assessed because of blur", "核大小无法判断"]
)
def test_an_annotator_that_cannot_tell_has_no_value(words):
    assert reading("nuclear_size", words) is None


def test_a_value_beside_cannot_tell_is_not_read():
    assert reading("nuclear_size", "enlarged or cannot tell") == UNKNOWN
    assert reading("nuclear_size", "cannot tell, enlarged") == UNKNOWN


def test_a_caption_says_the_values_in_the_schemas_order_and_nothing_else():
    values = {"nucleoli": "none", "nuclear_size": "normal"}

    assert cells().describe(values) == "Nuclear size: normal. Nucleoli: none."
    assert cells().describe(values, "zh") == "核大小：正常。核仁：未见。"  # noqa: RUF001
    assert cells().describe({}) == ""


def test_a_caption_of_values_of_another_schema_is_refused():
    with pytest.raises(UserError, match="lumen = 'wide' is not of the schema cervical_cell"):
        cells().describe({"lumen": "wide"})
    with pytest.raises(UserError, match="nucleoli = 'green'"):
        cells().describe({"nucleoli": "green"})


def test_what_phantoms_draw_are_values_of_the_schema():
    assert tuple(VALUES) == tuple(cells().attributes)
    for name, values in VALUES.items():
        drawn = [value for value in cells()[name].values if value in values]
        assert set(drawn) == set(values)
        if cells()[name].ordered:
            assert drawn == list(values)


def test_a_schema_of_ones_own_needs_no_code(tmp_path):
    schema = load_schema(str(written(tmp_path / "glands.yaml")))

    assert reading("lumen", "slit like", schema) == "narrow"
    assert reading("contents", "dirty necrosis present, mucin absent", schema) == "debris"
    assert schema["contents"].values == ("none", "mucin", "debris", "mucin + debris")
    assert schema.describe({"lumen": "wide", "contents": "none"}) == "The lumen is wide. It holds nothing."
    assert schema.name_of("腺腔") == "lumen"


def test_a_changed_file_is_read_again_and_has_another_digest(tmp_path):
    path = written(tmp_path / "glands.yaml")
    before = load_schema(str(path))
    written(path, lambda data: data.update(version=2))

    assert load_schema(str(path)).version == 2
    assert load_schema(str(path)).digest != before.digest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a["lumen"]["values"]["wide"].pop("zh"), "attributes.lumen.values.wide.zh: Field required"),
        (lambda a: a["lumen"]["values"]["wide"].update(zh=[]), "attributes.lumen.values.wide.zh"),
        (lambda a: a["lumen"]["title"].pop("zh"), "attributes.lumen.title.zh"),
        (lambda a: a["lumen"]["values"]["wide"].update(also=["Narrow"]), "'Narrow' means narrow and wide"),
        (lambda a: a["lumen"]["values"]["wide"].update(zh=["狭窄"]), "'狭窄' means narrow and wide"),
        (
            lambda a: a["lumen"]["values"].update({"cannot tell": {"zh": ["x"]}}),
            "cannot_tell and cannot tell",
        ),
        (lambda a: a["lumen"]["values"]["wide"].update(colour="red"), "attributes.lumen.values.wide.colour"),
        (lambda a: a["lumen"].update(values={}), "attributes.lumen"),
        (lambda a: a["lumen"]["values"].pop("wide"), "one value is no choice"),
        (lambda a: a["lumen"]["values"].update({"...": {"zh": ["y"]}}), "neither letters nor digits"),
        (lambda a: a["lumen"]["values"].update({True: {"zh": ["是"]}}), "put it in quotes"),
        (lambda a: a["lumen"]["sentence"].update(en="The lumen."), "sentence.en: needs {} once"),
        (
            lambda a: a["lumen"].update(vague=[{"words": ["open"], "values": ["broad"]}]),
            "leaves 'broad' open",
        ),
        (lambda a: a["lumen"].update(vague=[{"words": ["wide"]}]), "'wide' means wide and vague"),
        (lambda a: a["contents"]["title"].update(en="Lumen"), "'Lumen' means lumen and contents"),
        (lambda a: a["contents"].pop("none"), "attributes.contents"),
        (
            lambda a: a["contents"]["flags"]["mucin"].update(also=["debris"]),
            "the sign mucin and the sign debris",
        ),
        (lambda a: a["contents"]["flags"]["mucin"].update(also=["present"]), "present and the sign mucin"),
        (
            lambda a: a["contents"]["flags"].update({"blood + pus": {"zh": ["脓血"]}}),
            "'blood + pus' holds the sign that joins signs",
        ),
        (
            lambda a: a["contents"]["flags"].update({f"sign {n}": {"zh": [f"征{n}"]} for n in range(7)}),
            "9 flags have too many sets: 8 at most",
        ),
        (lambda a: a.update({"Bad Name": a["lumen"]}), "attributes.Bad Name"),
        (lambda a: a.clear(), "attributes"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_the_attribute_and_the_value(tmp_path, change, named):
    path = written(tmp_path / "glands.yaml", lambda data: change(data["attributes"]))

    with pytest.raises(UserError) as caught:
        load_schema(str(path))

    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_value_given_twice_and_a_file_that_is_no_yaml_are_refused(tmp_path):
    path = tmp_path / "glands.yaml"
    path.write_text("name: a\nattributes: {lumen: {values: {wide: {zh: [a]}, wide: {zh: [b]}}}}\n", "utf-8")
    with pytest.raises(UserError, match="'wide' stands twice"):
        load_schema(str(path))
    path.write_text("name: [", "utf-8")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_schema(str(path))
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_schema(str(path))


def test_a_schema_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        UserError, match="glands is neither a file nor a shipped schema; there is cervical_cell"
    ):
        load_schema("glands")


def test_the_list_of_schemas_names_every_attribute_and_value(tmp_path):
    lines = list_lines("attributes", tmp_path)

    assert lines[0].startswith("cervical_cell: version")
    assert "    nucleoli (核仁): none < small < large" in lines
    assert len(lines) == 1 + len(cells().attributes)
