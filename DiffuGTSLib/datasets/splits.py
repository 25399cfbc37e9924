"""Who is trained on and who is tested: drawn by patient, and made into the protocols that a claim is tested by.

Whatever is asked, all scans of a patient are on one side. What a protocol has no use for is left out of its file.
Healthy test scans stay in it: they show what is found where nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from DiffuGTSLib.datasets.protocol import Case, repeated, shared_patients
from DiffuGTSLib.errors import InputError

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}

UNMARKED_MARGIN_MM = 10.0
"""As far from the organ of a tumor whose outline is withheld, tissue does not count as healthy either."""


@dataclass(frozen=True)
class Derived:
    """A protocol made from another.

    Attributes:
        name: Of its file, without suffix.
        description: One sentence for people.
        cases: Each with its split in this protocol.
    """

    name: str
    description: str
    cases: list[Case]


def assign_splits(
    cases: Sequence[Case], rng: np.random.Generator, fractions: Mapping[str, float] | None = None
) -> list[Case]:
    """Draw a split for the patients of whom none is stated, each organ by itself.

    A split that some cases state gets no others: a data set with a test set of its own keeps exactly that; where all
    are stated, the rest is trained on. Patients of whom no tumor is outlined and no organ said to be healthy are drawn for
    training and validation alone, where these are to be filled: there is nothing to score. A stated split is kept; the
    patient's other cases get it too, except that what is excluded says nothing of them.

    Args:
        cases: With split "" where it is to be drawn.
        rng: Source of randomness.
        fractions: Share of the patients for each split; None takes `FRACTIONS`. They need not sum to 1.

    Raises:
        InputError: If a fraction is negative or none is above 0, or there are fewer patients than splits to fill
            (code "fractions"); if a patient has two splits (code "leakage").
    """
    stated = [case for case in cases if case.split]
    for patient, splits in shared_patients(stated).items():
        raise InputError(
            f"Patient '{patient}' is stated in two splits: {' and '.join(splits)}.",
            hint="all scans of a patient belong to one split; set the others to 'excluded'.",
            code="leakage",
        )
    shares = _shares(FRACTIONS if fractions is None else fractions, {case.split for case in cases})
    split_of = {case.patient: case.split for case in stated if case.split != "excluded"}
    organ_of: dict[str, str] = {}
    for case in cases:
        if not case.split and case.patient not in split_of:
            organ_of[case.patient] = organ_of.get(case.patient) or case.organ
    unscored = _shares(shares, {"test"}) if set(shares) - {"test"} else shares
    for organ in sorted(set(organ_of.values()), key=lambda organ: (not organ, organ)):
        split_of |= _drawn(sorted(p for p in organ_of if organ_of[p] == organ), shares if organ else unscored, rng)
    _require_filled(organ_of, split_of, shares if any(organ_of.values()) else unscored)
    return [case if case.split else replace(case, split=split_of[case.patient]) for case in cases]


def _require_filled(organ_of: Mapping[str, str], split_of: Mapping[str, str], shares: Mapping[str, float]) -> None:
    """Refuse a draw that leaves a split without a patient, and say of how many."""
    empty = sorted(set(shares) - {split_of[patient] for patient in organ_of})
    if not organ_of or not empty:
        return
    count, scored = len(organ_of), sum(map(bool, organ_of.values()))
    too_few = f"{count} patients are" if scored == count else f"{scored} of {count} patients can be scored, which is"
    raise InputError(
        f"{too_few} too few for {len(shares)} splits: none is left for {', '.join(empty)}.",
        hint="set a fraction to 0, as in --fractions 0.5,0,0.5.",
        code="fractions",
    )


def joined(protocols: Sequence[Sequence[Case]]) -> list[Case]:
    """Return the cases of several protocols as one.

    Raises:
        InputError: If two of them use a name for a case each.
    """
    cases = [case for protocol in protocols for case in protocol]
    for name in repeated(case.name for case in cases):
        raise InputError(f"Two protocols have a case named '{name}'.", hint="rename one of them.")
    return cases


def leave_one_out(cases: Sequence[Case]) -> list[Derived]:
    """Make a protocol for each organ with tumors: its patients are tested, all others trained on.

    All patients with a tumor of that organ are test cases, since none of them is seen. The others keep their split,
    but for their test cases, which are left out. Tumors of the hepatic vessels lie in the liver: with either of the two
    the other's patients are left out.

    Raises:
        InputError: If the tumors are all in one organ.
    """
    used = _used(cases)
    organs = sorted({case.organ for case in used if case.tumor})
    if len(organs) < 2:
        raise InputError(
            f"Leaving one tumor out needs tumors of two organs at least, got {', '.join(organs) or 'none'}.",
            hint="name several protocols.",
            code="organs",
        )
    derived = []
    for organ in organs:
        held_out = {case.patient for case in used if _site(case.organ) == _site(organ) and case.tumor}
        tested = [replace(c, split="test") for c in used if c.patient in held_out and c.organ == organ and c.tumor]
        others = [c for c in used if c.patient not in held_out and (c.split != "test" or not c.tumor)]
        name = f"leave-one-out-{organ.replace(' ', '-')}"
        derived.append(Derived(name, f"Tumors of the {organ} are never seen in training.", [*others, *tested]))
    return derived


def ct_to_mr(cases: Sequence[Case]) -> list[Derived]:
    """Make the protocol that trains on CT alone and tests on MR.

    Tested are the tumors in MR of patients of the split "test" and of those without any CT.
    """
    used = _used(cases)
    with_ct = {case.patient for case in used if case.modality == "CT" and case.split != "test"}
    trained = [case for case in used if case.modality == "CT" and case.split != "test"]
    tested = [
        replace(case, split="test")
        for case in used
        if case.modality == "MR" and (case.tumor or case.split == "test") and case.patient not in with_ct
    ]
    return [Derived("ct-to-mr", "Trained on CT alone, tested on MR of other patients.", [*trained, *tested])]


def label_free(cases: Sequence[Case]) -> list[Derived]:
    """Make the protocol that learns from no outlined tumor: not in training, and not in the choice of a checkpoint.

    A training scan with a tumor keeps its organs, but the organ of the tumor and its surroundings are not taken for
    healthy; where no label map says where that organ is, the scan is left out.
    """
    kept = []
    for case in _used(cases):
        outlined = {*case.label_names, *case.organ_files}
        if case.split == "test" or not case.tumor:
            kept.append(case)
        elif case.organ in outlined and outlined - {case.organ}:
            near = {**case.unmarked_near, case.organ: UNMARKED_MARGIN_MM}
            kept.append(replace(case, tumor="", tumor_values=[], other_lesion_values=[], unmarked_near=near))
    return [Derived("label-free", "No outlined tumor is used in training; tested on outlined tumors.", kept)]


def seen(cases: Sequence[Case]) -> list[Derived]:
    """Make the protocol of seen tumors in unseen patients: tested are organs whose tumors are trained on."""
    used = _used(cases)
    known = {(case.organ, case.modality) for case in used if case.tumor and case.split == "train"}
    kept = [c for c in used if c.split != "test" or not c.tumor or (c.organ, c.modality) in known]
    return [Derived("seen", "Tumors of the organs trained on, in patients who were not.", kept)]


KINDS: dict[str, Callable[[Sequence[Case]], list[Derived]]] = {
    "leave-one-out": leave_one_out,
    "ct-to-mr": ct_to_mr,
    "label-free": label_free,
    "seen": seen,
}


def derive(cases: Sequence[Case], kind: str) -> list[Derived]:
    """Make the protocols of one kind, each with cases to train on and to test.

    Raises:
        InputError: If one of them would have none of either (code "empty"); and as the kind's own.
    """
    derived = KINDS[kind](cases)
    for protocol in derived:
        present = {case.split for case in protocol.cases if case.tumor or case.split != "test"}
        for split, what in (("train", "to train on"), ("test", "with a tumor to test")):
            if split not in present:
                raise InputError(
                    f"The protocol '{protocol.name}' would have no case {what}.",
                    hint="name more protocols, or draw the splits anew with `data protocol`.",
                    code="empty",
                )
    return derived


def _site(organ: str) -> str:
    """Return the organ in which the tumors that a data set calls an organ's really lie."""
    return "liver" if organ == "hepatic vessel" else organ


def _used(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.split != "excluded"]


def _shares(fractions: Mapping[str, float], stated: set[str]) -> dict[str, float]:
    if any(share < 0 for share in fractions.values()) or not sum(fractions.values()):
        raise InputError(
            f"Expected fractions of 0 or more, and one above 0, got {', '.join(map(str, fractions.values()))}.",
            code="fractions",
        )
    left = {split: share for split, share in fractions.items() if share and split not in stated}
    total = sum(left.values())
    return {split: share / total for split, share in left.items()} or {"train": 1.0}


def _drawn(patients: Sequence[str], shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, str]:
    """Return patient → split, in numbers as near to the shares as whole patients allow, one a split at least."""
    order = [patients[index] for index in rng.permutation(len(patients))]
    exact = {split: share * len(patients) for split, share in shares.items()}
    counts = {split: int(number) for split, number in exact.items()}
    while sum(counts.values()) < len(patients):
        most = max(counts, key=lambda split: (counts[split] == 0, exact[split] - counts[split]))
        counts[most] += 1
    if len(patients) >= len(counts):
        for split in [split for split, count in counts.items() if count == 0]:
            counts[max(counts, key=lambda name: counts[name])] -= 1
            counts[split] = 1
    splits = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(order, splits, strict=True))
