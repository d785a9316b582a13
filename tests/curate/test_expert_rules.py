from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.curate.expert_cells import LSIL, SCHEMA

from pathloom.cli import main
from pathloom.curate.expert import ExpertStep
from pathloom.curate.expert_rules import load_rules, nearest
from pathloom.phantom.cytology import BETHESDA, PROFILES, draw_plan
from pathloom.stage import UserError

BETHESDA_RULES = load_rules("bethesda", "cervical_cell")


def rule(rule_id: str = "one", **fields: Any) -> dict[str, Any]:
    given: Mapping[str, Any] = {
        "classes": ["LSIL"],
        "attribute": "nc_ratio",
        "allowed": ["low", "slightly increased"],
        "severity": "correct",
        "source": "a book, page 1",
    }
    return {"id": rule_id, **given, **fields}


def table(folder: Path, *rules: Mapping[str, Any], **fields: Any) -> str:
    path = folder / "rules.yaml"
    head = {"name": "mine", "version": 1, "attributes": "cervical_cell", "classes": ["LSIL", "HSIL"]}
    path.write_text(yaml.safe_dump({**head, **fields, "rules": list(rules)}))
    return str(path)


def test_phantoms_that_keep_their_profile_break_no_rule():
    for finding, profile in PROFILES.items():
        for name, values in profile.items():
            for value in values:
                assert BETHESDA_RULES.breaks(finding, {name: value}) == (), (finding, name, value)
    rng = np.random.default_rng(0)
    for place in range(400):
        plan = draw_plan(rng, BETHESDA[place % len(BETHESDA)], broken_share=0)
        assert BETHESDA_RULES.breaks(plan.bethesda, plan.attributes) == ()


def test_the_shipped_table_is_about_every_class_and_says_that_nobody_has_confirmed_it():
    assert {finding for each in BETHESDA_RULES.rules for finding in each.classes} == set(BETHESDA)
    assert BETHESDA_RULES.classes == BETHESDA
    assert "yet to confirm" in BETHESDA_RULES.status
    assert all("Bethesda 2014, chapter" in each.source for each in BETHESDA_RULES.rules)


def test_a_value_that_the_class_does_not_allow_is_a_break_with_what_replaces_it():
    values = {**LSIL, "nuclear_size": "normal", "chromatin": "fine even", "nucleoli": "small"}

    size, chromatin = BETHESDA_RULES.breaks("LSIL", values)

    assert (size.attribute, size.value, size.to, size.to_review) == (
        "nuclear_size",
        "normal",
        "markedly enlarged",
        False,
    )
    assert (chromatin.rule_ids, chromatin.to, chromatin.to_review) == ("LSIL-chromatin", None, True)
    assert chromatin.told("LSIL").endswith("if the class is right it is left out")
    assert BETHESDA_RULES.breaks("NILM", {"abnormal_signs": "koilocyte"})[0].to == "none"


def test_the_nearest_allowed_value_is_found_in_order_and_among_signs():
    ratio, signs = SCHEMA["nc_ratio"], SCHEMA["abnormal_signs"]
    atypia = ("nuclear atypia", "nuclear atypia + koilocyte")

    assert nearest(ratio, "very high", ("low", "slightly increased")) == "slightly increased"
    assert nearest(ratio, "increased", ("high", "slightly increased")) == "slightly increased"
    assert nearest(signs, "koilocyte", atypia) == "nuclear atypia + koilocyte"
    assert nearest(signs, "none", atypia) == "nuclear atypia"
    assert nearest(SCHEMA["cytoplasm"], "mature", ("immature",)) is None


def test_two_rules_of_one_class_and_attribute_hold_together(tmp_path):
    rules = load_rules(
        table(
            tmp_path,
            rule("wide", classes=["LSIL", "HSIL"], allowed=["low", "slightly increased", "high"]),
            rule("narrow", allowed=["slightly increased", "high", "very high"], severity="review"),
        ),
        "cervical_cell",
    )

    (broken,) = rules.breaks("LSIL", {"nc_ratio": "low"})
    (both,) = rules.breaks("LSIL", {"nc_ratio": "increased"})

    assert (broken.rule_ids, broken.allowed, broken.to) == (
        "narrow",
        ("slightly increased", "high"),
        "slightly increased",
    )
    assert broken.to_review
    assert both.rule_ids == "wide, narrow"
    assert rules.breaks("HSIL", {"nc_ratio": "low"}) == ()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"allowed": ["high"]}, "rules one and two .* nc_ratio of LSIL: no value is allowed by both"),
        (
            {"allowed": ["low", "high"], "to": "high"},
            "one and two .*: two corrects to 'high', which one forbids",
        ),
        ({"to": "slightly increased"}, "one and two .*: they correct to 'low' and to 'slightly increased'"),
    ],
)
def test_rules_that_contradict_each_other_are_refused_with_both_ids(tmp_path, other, message):
    path = table(tmp_path, rule("one", to="low"), rule("two", **other))

    with pytest.raises(UserError, match=rf"rules\.yaml: rules {message.removeprefix('rules ')}"):
        load_rules(path, "cervical_cell")
    with pytest.raises(UserError, match=r"cells\.steps, number 1.*one and two"):
        ExpertStep(step="expert", rules=path).check("cells.steps, number 1 (expert)")


def test_three_rules_that_leave_nothing_together_are_refused(tmp_path):
    path = table(
        tmp_path,
        rule("a", allowed=["low", "high"]),
        rule("b", allowed=["low", "increased"]),
        rule("c", allowed=["high", "increased"]),
    )

    with pytest.raises(UserError, match="rules a, b, c contradict each other about nc_ratio of LSIL"):
        load_rules(path, "cervical_cell")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attribute": "nc_ration"}, "rule two: 'nc_ration' is no attribute; did you mean 'nc_ratio'"),
        ({"allowed": ["hihg"]}, "rule two: 'hihg' is no value of nc_ratio; did you mean 'high'"),
        ({"to": "zzz"}, "rule two: 'zzz' is no value of nc_ratio; known: low, slightly"),
        ({"to": "high"}, "rule two: `to` is 'high', which the rule does not allow"),
        ({"classes": ["HSLI"]}, "rule two: 'HSLI' is no class; did you mean 'HSIL'"),
        ({"source": ""}, "rule two, source: "),
        ({"severity": "drop"}, "rule two, severity: "),
        ({"extra": 1}, "rule two, extra: "),
        ({"id": "one"}, "two rules are called one; the second is number 2"),
        ({"id": "a|b"}, "rule a|b, id: "),
        (
            {"attribute": "cytoplasm", "allowed": ["mature", "columnar"]},
            "rule two: several values are allowed and cytoplasm has no order; name one as `to`",
        ),
    ],
)
def test_a_rule_that_is_wrong_by_itself_is_named_with_its_file(tmp_path, fields, message):
    with pytest.raises(UserError) as told:
        load_rules(table(tmp_path, rule("one"), rule("two") | fields), "cervical_cell")

    assert str(told.value).startswith(f"{tmp_path / 'rules.yaml'}: {message}")


def test_a_missing_source_a_file_that_is_no_table_and_another_schema_are_said(tmp_path):
    without = rule("two")
    del without["source"]
    with pytest.raises(UserError, match=r"rules\.yaml: rule two, source: Field required"):
        load_rules(table(tmp_path, without), "cervical_cell")
    with pytest.raises(UserError, match=r"rules\.yaml: its rules are for the attributes 'tissue', not for"):
        load_rules(table(tmp_path, rule(), attributes="tissue"), "cervical_cell")
    (tmp_path / "rules.yaml").write_text("rules: [")
    with pytest.raises(UserError, match=r"rules\.yaml: not readable as YAML"):
        load_rules(str(tmp_path / "rules.yaml"), "cervical_cell")
    (tmp_path / "rules.yaml").write_bytes("name: Größe".encode("latin-1"))
    with pytest.raises(UserError, match=r"rules\.yaml: not readable as YAML"):
        load_rules(str(tmp_path / "rules.yaml"), "cervical_cell")
    (tmp_path / "rules.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(UserError, match=r"rules\.yaml: .*'name' stands twice in one mapping, line 1"):
        load_rules(str(tmp_path / "rules.yaml"), "cervical_cell")
    (tmp_path / "rules.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"rules\.yaml: the table: "):
        load_rules(str(tmp_path / "rules.yaml"), "cervical_cell")
    with pytest.raises(UserError, match="bethseda is neither a file nor a shipped table; there is bethesda"):
        load_rules("bethseda", "cervical_cell")


def test_a_changed_table_is_another_result(tmp_path):
    step = ExpertStep(step="expert", rules=table(tmp_path, rule()))
    before = step.fingerprint()

    assert step.fingerprint() == before
    table(tmp_path, rule(to="low"))
    assert step.fingerprint() != before


def test_list_rules_shows_every_rule_of_the_shipped_tables(capsys):
    assert main(["list", "rules"]) == 0

    told = capsys.readouterr().out
    assert f"bethesda: {len(BETHESDA_RULES.rules)} rules about cervical_cell" in told
    assert "LSIL-size: LSIL: nuclear_size markedly enlarged (correct, to markedly enlarged)" in told
