"""Splits by patient, and the protocols that a claim is tested by: who is trained on, who is tested."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from DiffuGTSLib.cli.data_protocols import KindName
from DiffuGTSLib.datasets.protocol import Case, read_protocol, shared_patients, write_protocol
from DiffuGTSLib.datasets.splits import KINDS, Derived, assign_splits, derive, joined
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path


def a_case(name: str, organ: str, split: str, modality: str = "CT", patient: str = "", tumor: str = "t") -> Case:
    names = {organ: [1, 2], "spleen": [3]}
    return Case(name, patient or name, split, modality, f"{name}.nii", organ, tumor, f"{name}_l.nii", names)


@pytest.fixture
def a_multi_organ_protocol() -> list[Case]:
    """Liver and lung in CT, brain in MR, each in every split; a healthy liver; one patient with CT and MR."""
    cases = [
        a_case(f"{organ}_{split}", organ, split, modality)
        for organ, modality in (("liver", "CT"), ("lung", "CT"), ("brain", "MR"))
        for split in ("train", "validation", "test")
    ]
    return [
        *cases,
        a_case("healthy", "liver", "train", tumor=""),
        a_case("both_ct", "lung", "train", patient="both"),
        a_case("both_mr", "brain", "train", "MR", patient="both"),
        a_case("left_out", "liver", "excluded"),
    ]


def names(protocol: Derived, split: str) -> set[str]:
    return {case.name for case in protocol.cases if case.split == split}


# Drawn by patient


def undecided(count: int, organ: str = "liver") -> list[Case]:
    return [
        a_case(f"{organ}_{number}_{scan}", organ, "", patient=f"{organ}_{number}")
        for number in range(count)
        for scan in "ab"
    ]


def test_patients_are_drawn_in_the_wished_shares_of_each_organ_with_all_their_scans() -> None:
    cases = assign_splits([*undecided(20), *undecided(10, "lung")], np.random.default_rng(0))
    assert shared_patients(cases) == {}
    counted = Counter((case.organ, case.split) for case in cases)
    assert [counted["liver", split] for split in ("train", "validation", "test")] == [28, 4, 8]
    assert [counted["lung", split] for split in ("train", "validation", "test")] == [14, 2, 4]


def test_a_seed_gives_a_split_whatever_the_order_of_the_cases() -> None:
    cases = undecided(20)
    one, same, other = (assign_splits(cases, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same and one != other
    turned = assign_splits(cases[::-1], np.random.default_rng(1))
    assert {c.name: c.split for c in turned} == {c.name: c.split for c in one}


def test_every_split_gets_a_patient_where_there_are_few() -> None:
    cases = assign_splits(undecided(3), np.random.default_rng(0), {"train": 0.98, "validation": 0.01, "test": 0.01})
    assert {case.split for case in cases} == {"train", "validation", "test"}


def test_a_stated_split_is_kept_and_gets_no_others() -> None:
    cases = [*undecided(10), a_case("own", "liver", "test"), a_case("liver_0_c", "liver", "train", patient="liver_0")]
    drawn = assign_splits(cases, np.random.default_rng(0), {"train": 0.5, "validation": 0.3, "test": 0.2})
    assert {case.name for case in drawn if case.split == "test"} == {"own"}
    assert {case.split for case in drawn if case.patient == "liver_0"} == {"train"}


def test_an_excluded_scan_stays_so_and_its_patients_other_scan_is_drawn_or_keeps_its_own() -> None:
    bad, good = (a_case(name, "liver", split, patient="p") for name, split in (("bad", "excluded"), ("good", "train")))
    undrawn = a_case("undrawn", "liver", "", patient="q")
    out = a_case("out", "liver", "excluded", patient="q")
    drawn = assign_splits([good, bad, out, undrawn, *undecided(10)], np.random.default_rng(0))
    assert [case.split for case in drawn[:3]] == ["train", "excluded", "excluded"]
    assert drawn[3].split in ("validation", "test")


def test_a_patient_that_is_stated_in_two_splits_is_refused() -> None:
    cases = [a_case("a", "liver", "train", patient="p"), a_case("b", "liver", "test", patient="p")]
    with pytest.raises(InputError, match="Patient 'p' is stated in two splits: t") as caught:
        assign_splits(cases, np.random.default_rng(0))
    assert caught.value.code == "leakage"


def test_where_all_splits_are_stated_the_rest_is_trained_on() -> None:
    stated = [a_case(split, "liver", split) for split in ("train", "validation", "test")]
    assert {c.split for c in assign_splits([*stated, *undecided(2)], np.random.default_rng(0))[3:]} == {"train"}


def test_patients_of_whom_nothing_is_labeled_are_not_drawn_to_be_tested() -> None:
    unlabeled = [Case(f"u{n}", f"u{n}", "", "CT", f"u{n}.nii") for n in range(6)]
    half = Case("liver_0_x", "liver_0", "", "CT", "x.nii")
    drawn = assign_splits([half, *undecided(10), *unlabeled], np.random.default_rng(0))
    assert Counter(case.split for case in drawn if case.patient.startswith("u")) == {"train": 5, "validation": 1}
    assert len({case.split for case in drawn if case.patient == "liver_0"}) == 1
    assert Counter(case.split for case in drawn if case.organ)["test"] == 4


def test_a_data_set_without_tumors_is_trained_on_and_validated_with() -> None:
    unlabeled = [Case(f"u{n}", f"u{n}", "", "CT", f"u{n}.nii") for n in range(40)]
    drawn = Counter(case.split for case in assign_splits(unlabeled, np.random.default_rng(0)))
    assert drawn == {"train": 35, "validation": 5}
    drawn = Counter(case.split for case in assign_splits(unlabeled, np.random.default_rng(0), {"test": 1.0}))
    assert drawn == {"test": 40}, "what is asked for"
    with pytest.raises(
        InputError, match=r"1 of 41 patients can be scored, which is too few for 3 splits: none is left"
    ):
        assign_splits([*unlabeled, a_case("sick", "liver", "")], np.random.default_rng(0))


def test_fewer_patients_than_splits_and_impossible_shares_are_refused() -> None:
    with pytest.raises(InputError, match="2 patients are too few for 3 splits") as caught:
        assign_splits(undecided(2), np.random.default_rng(0))
    assert caught.value.code == "fractions"
    for shares in ({"train": -1.0, "test": 2.0}, {"train": 0.0}):
        with pytest.raises(InputError, match="Expected fractions of 0 or more"):
            assign_splits(undecided(5), np.random.default_rng(0), shares)


# Protocols that test a claim


def test_the_command_line_offers_every_kind() -> None:
    assert set(get_args(KindName)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_protocol_has_a_patient_on_both_sides_or_an_excluded_case(
    a_multi_organ_protocol: list[Case], kind: str
) -> None:
    for protocol in derive(a_multi_organ_protocol, kind):
        assert shared_patients(protocol.cases) == {} and protocol.description
        assert "left_out" not in {case.name for case in protocol.cases}


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_scans_of_the_test_split_are_tested_in_every_protocol(
    a_multi_organ_protocol: list[Case], kind: str
) -> None:
    healthy = a_case("healthy_test", "brain", "test", "MR", tumor="")
    for protocol in derive([*a_multi_organ_protocol, healthy], kind):
        assert "healthy_test" in names(protocol, "test")


def test_one_tumor_is_left_out_with_all_its_patients(a_multi_organ_protocol: list[Case]) -> None:
    protocols = {protocol.name: protocol for protocol in derive(a_multi_organ_protocol, "leave-one-out")}
    assert set(protocols) == {"leave-one-out-brain", "leave-one-out-liver", "leave-one-out-lung"}
    liver = protocols["leave-one-out-liver"]
    assert names(liver, "test") == {"liver_train", "liver_validation", "liver_test"}
    assert names(liver, "train") == {"lung_train", "brain_train", "healthy", "both_ct", "both_mr"}
    brain = protocols["leave-one-out-brain"]
    assert "both_mr" in names(brain, "test") and "both_ct" not in names(brain, "train"), "the patient is tested"


def test_tumors_of_the_hepatic_vessels_lie_in_the_liver_and_are_left_out_with_it() -> None:
    cases = [
        a_case(f"{organ}_{split}", organ, split)
        for organ in ("liver", "hepatic vessel", "lung")
        for split in ("train", "test")
    ]
    protocols = {protocol.name: protocol for protocol in derive(cases, "leave-one-out")}
    liver = protocols["leave-one-out-liver"]
    assert names(liver, "train") == {"lung_train"} and names(liver, "test") == {"liver_train", "liver_test"}
    assert names(protocols["leave-one-out-hepatic-vessel"], "train") == {"lung_train"}
    assert names(protocols["leave-one-out-lung"], "train") == {"liver_train", "hepatic vessel_train"}


def test_leaving_out_the_only_tumor_is_refused() -> None:
    with pytest.raises(InputError, match="tumors of two organs at least, got liver") as caught:
        derive([a_case("a", "liver", "train")], "leave-one-out")
    assert caught.value.code == "organs"


def test_one_organ_in_two_spellings_is_not_left_out_of_itself(tmp_path: Path) -> None:
    write_protocol(tmp_path / "p.json", [a_case("a", "liver", "train"), a_case("b", "Liver", "test")], "One organ.")
    with pytest.raises(InputError, match="tumors of two organs at least, got liver"):
        derive(read_protocol(tmp_path / "p.json"), "leave-one-out")


def test_from_ct_to_mr_no_mr_is_trained_on(a_multi_organ_protocol: list[Case]) -> None:
    (protocol,) = derive(a_multi_organ_protocol, "ct-to-mr")
    assert {case.modality for case in protocol.cases if case.split != "test"} == {"CT"}
    assert names(protocol, "test") == {"brain_train", "brain_validation", "brain_test"}, "of nobody seen in CT"


def test_label_free_training_sees_no_outlined_tumor(a_multi_organ_protocol: list[Case]) -> None:
    (protocol,) = derive(a_multi_organ_protocol, "label-free")
    trained = [case for case in protocol.cases if case.split != "test"]
    assert {case.tumor for case in trained} == {""} and all(not case.tumor_values for case in trained)
    liver = next(case for case in trained if case.name == "liver_train")
    assert liver.unmarked_near == {"liver": 10.0}, "its tumor is still there: nothing near it is healthy"
    assert all(case.tumor for case in protocol.cases if case.split == "test")


def test_label_free_leaves_out_a_tumor_that_nobody_says_the_place_of() -> None:
    unplaced = replace(a_case("b", "brain", "train", "MR"), labels="", label_names={})
    cases = [a_case("a", "liver", "train", tumor=""), unplaced, a_case("c", "liver", "test")]
    (protocol,) = derive(cases, "label-free")
    assert names(protocol, "train") == {"a"}


def test_seen_tumors_are_tested_in_unseen_patients(a_multi_organ_protocol: list[Case]) -> None:
    cases = [*a_multi_organ_protocol, a_case("colon_test", "colon", "test")]
    (protocol,) = derive(cases, "seen")
    assert names(protocol, "test") == {"liver_test", "lung_test", "brain_test"}


def test_a_protocol_without_cases_to_train_on_or_to_test_is_refused() -> None:
    with pytest.raises(InputError, match="'ct-to-mr' would have no case to train on") as caught:
        derive([a_case("a", "brain", "test", "MR")], "ct-to-mr")
    assert caught.value.code == "empty"
    with pytest.raises(InputError, match="'seen' would have no case with a tumor to test"):
        derive([a_case("a", "liver", "train"), a_case("b", "lung", "test")], "seen")


def test_protocols_are_joined_unless_two_cases_have_one_name() -> None:
    one, two = [a_case("a", "liver", "train")], [a_case("b", "lung", "test")]
    assert joined([one, two]) == [*one, *two]
    with pytest.raises(InputError, match="Two protocols have a case named 'a'"):
        joined([one, one])


@pytest.mark.parametrize("kind", KINDS)
def test_the_bundled_protocols_are_those_that_the_rules_make_of_mini(kind: str) -> None:
    for protocol in derive(read_protocol(resource_path("Protocols", "mini.json")), kind):
        path = resource_path("Protocols", f"mini-{protocol.name}.json")
        assert read_protocol(path) == protocol.cases
        assert json.loads(path.read_text(encoding="utf-8"))["made_from"] == ["mini"]
