"""Builds a reading session (visual Turing test): real and synthetic scans in random order, and nothing that tells them apart.

Follows DiffTumor's and SyntheticTumors' reader studies: readers call each scan real, synthetic or unsure. Neither
published an application; how the scans are blinded is our choice, and said here.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.output.planes import LUNG_WINDOW_HU, SOFT_TISSUE_WINDOW_HU
from DiffuGTSLib.output.record import record_text
from DiffuGTSLib.reader_study.answers import PAGE_FILE, REAL, SESSION_FILE, SYNTHETIC, SessionCard, session_record
from DiffuGTSLib.reader_study.blinding import (
    WRITTEN_LIMITS,
    Giveaway,
    Profile,
    cure,
    giveaways,
    profile_of,
    row_fingerprints,
    twins,
)
from DiffuGTSLib.reader_study.cases import CaseFile, Preparation, in_ras_order, list_cases, prepared, read_case
from DiffuGTSLib.reader_study.key import Key, KeyCase, write_key
from DiffuGTSLib.reader_study.page import PackedScan, pack, page_text
from DiffuGTSLib.storage import read_json, require_folder_for, whole_folder
from DiffuGTSLib.synthesis.case import RECORD
from DiffuGTSLib.versions import versions
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.digest import scan_sha256
from DiffuGTSLib.volumes.io import read_mask, write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

FEWEST_PER_SIDE = 3
"""With fewer than 6 cases not even a reader who is always right differs from chance (p < 0.05)."""
FEWEST_STEPS = 100
"""Scans are written as whole numbers; with fewer of them between dark and bright, rounding would show."""

_TIME_S = 1_577_836_800  # 1 January 2020: when a file was written tells which scan was made last
_LUNG_SHARE = 0.25

Told = Callable[[str, float], None]


@dataclass(frozen=True)
class SessionOptions:
    """What kind of session is asked for.

    Attributes:
        seed: Of the order, and of the draw. Together with the files themselves it gives the same session again.
        crop_mm: Side of the cube around the tumor; None: whole scans.
        per_side: How many of each are drawn; None: all.
        allow_unbalanced: Whether there may be more of one kind.
        harmonize: Whether scans may be changed where they could be told apart: resampled, cut off, rounded.
        modality: "CT", "MR", or None to guess.
        window: Black and white at first; None: by what is shown.
        title: Shown to the reader.
        with_page: Whether the HTML page is written.
    """

    seed: int
    crop_mm: float | None = None
    per_side: int | None = None
    allow_unbalanced: bool = False
    harmonize: bool = False
    modality: str | None = None
    window: tuple[float, float] | None = None
    title: str = "Real or synthetic?"
    with_page: bool = True


@dataclass(frozen=True)
class BuiltSession:
    """A session on the disk.

    Attributes:
        card: What readers may know.
        key: What they may not.
        page_mb: Size of the page; 0 without one.
        changed: What harmonizing has changed, in words.
    """

    card: SessionCard
    key: Key
    page_mb: float
    changed: tuple[str, ...]


def key_path_of(folder: Path) -> Path:
    """Return where the key of a session goes by default: beside the folder, never into it."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}_key.json")


def build_session(
    real: Path,
    synthetic: Path,
    folder: Path,
    options: SessionOptions,
    *,
    key_path: Path | None = None,
    told: Told | None = None,
) -> BuiltSession:
    """Write a session folder and, elsewhere, its key.

    Every scan is read, turned to RAS, cut as asked, rounded to 16-bit whole numbers and written by one writer to a grid
    around the origin, without compression: files differ in nothing but voxels. Names are numbers in random order, times
    are constant. The order follows from the seed and from the content of the source files: whoever guesses the seed but
    has not the sources cannot find it.

    Args:
        real: Folder or list of scans, see `reading.cases.list_cases`.
        synthetic: The same.
        folder: New or empty.
        options: What kind.
        key_path: None: beside the folder.
        told: Hears (stage, share of it).

    Raises:
        InputError: If the scans are too few, unbalanced, twice there, on both sides, of two modalities, or could be told
            apart (code "giveaway"); if the key would lie in the folder, or something is there already.
        StorageError: If something cannot be written.
    """
    told = told or _silent
    key_path = key_path_of(folder) if key_path is None else key_path.absolute()
    _require_places(folder, key_path)
    cases = list_cases(real, REAL), list_cases(synthetic, SYNTHETIC)
    _require_apart([*cases[0], *cases[1]])
    known = {case: scan_sha256(case.scan) for case in [*cases[0], *cases[1]]}
    _require_different(known)
    _require_balance(len(cases[0]), len(cases[1]), options)
    rng = _generator(options.seed, known)
    chosen = [*_drawn(cases[0], options.per_side, rng), *_drawn(cases[1], options.per_side, rng)]

    _require_no_source(chosen, known)
    plan = Preparation(crop_mm=options.crop_mm)
    profiles, modality = _look(chosen, plan, options, told)
    found = giveaways(profiles)
    if found and not (options.harmonize and all(giveaway.is_curable for giveaway in found)):
        raise _refusal(found, options.harmonize)
    _require_steps(chosen, profiles)
    spacing, limits = cure(profiles, found)
    plan = dataclasses.replace(plan, spacing_mm=spacing, limits=limits)

    order = [chosen[int(index)] for index in rng.permutation(len(chosen))]
    session = rng.bytes(8).hex()
    width = len(str(len(order)))
    files = tuple(f"case_{number:0{width}d}.nii" for number in range(1, len(order) + 1))
    changed = tuple(f"{giveaway.words}: {_CURES[giveaway.what]}" for giveaway in found)
    made: dict[str, Any] = {
        "crop_mm": options.crop_mm, "resampled_to_mm": spacing, "cut_off_at": limits,
        "harmonized": list(changed), "versions": versions(),
    }  # fmt: skip
    truths = tuple(
        KeyCase(n, case.truth, str(case.scan.absolute()), known[case]) for n, case in enumerate(order, start=1)
    )
    key = Key(session, options.seed, truths, made)
    unit = "HU" if modality == "CT" else ""
    card = SessionCard(session, options.title, modality, options.window or _window(modality, profiles), unit, files)
    spacing_written = _floats(np.median([p.spacing_mm for p in profiles], axis=0)) if spacing is None else spacing
    write_key(key, key_path)  # first: a session without its key is of no use
    try:
        page_mb = _write(folder, card, order, plan, spacing_written, options.with_page, told)
    except BaseException:
        key_path.unlink()
        raise
    return BuiltSession(card, key, page_mb, changed)


_CURES = {
    "spacing": "all were resampled to the coarsest",
    "fractions": "all were rounded",
    "low": "all were cut off below",
    "high": "all were cut off above",
    "spike": "all were cut off alike",
}


def _write(
    folder: Path,
    card: SessionCard,
    order: Sequence[CaseFile],
    plan: Preparation,
    spacing_mm: tuple[float, float, float],
    with_page: bool,
    told: Told,
) -> float:
    """Write scans, card and page, see that nothing tells them apart, and return the size of the page in MB."""
    names = [*card.files, PAGE_FILE, SESSION_FILE]
    profiles, packed = [], []
    with whole_folder(folder, names) as staging:
        for index, (case, name) in enumerate(zip(order, card.files, strict=True)):
            told("Writing the cases", index / len(order))
            volume = anonymous(prepared(read_case(case), case, plan), spacing_mm)
            write_volume(volume, staging / name, compressed=False)
            profiles.append(profile_of(volume, case.truth))
            if with_page:
                packed.append(PackedScan(volume.geometry.shape, volume.geometry.spacing_mm, pack(volume.array)))
        left = giveaways(profiles)
        if left:
            raise _refusal(left, True)
        page = page_text(card, packed).encode("utf-8") if with_page else b""
        if with_page:
            (staging / PAGE_FILE).write_bytes(page)
        (staging / SESSION_FILE).write_text(record_text(session_record(card)), encoding="utf-8")
        for path in sorted(staging.iterdir()):
            os.utime(path, (_TIME_S, _TIME_S))
    os.utime(folder, (_TIME_S, _TIME_S))
    told("Writing the cases", 1.0)
    return len(page) / 1e6


def anonymous(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    """Return 16-bit whole numbers on a grid of the session's spacing around the origin: no place, no tilt, no patient."""
    array = np.round(np.clip(volume.array, *WRITTEN_LIMITS)).astype(np.int16)
    matrix = np.diag([*spacing_mm, 1.0])
    matrix[:3, 3] = -(np.array(array.shape) - 1) / 2 * spacing_mm
    return dataclasses.replace(volume, array=array, geometry=Geometry(array.shape, matrix))


def _look(
    cases: Sequence[CaseFile], plan: Preparation, options: SessionOptions, told: Told
) -> tuple[list[Profile], str]:
    """Read every scan once; return what can be told of each, and the one modality."""
    profiles, modalities = [], {}
    undecided: InputError | None = None
    for index, case in enumerate(cases):
        told("Reading the scans", index / len(cases))
        scan = read_case(case)
        try:
            modalities[options.modality or guess_modality(scan)[0]] = case.scan
        except InputError as error:  # a piece of soft tissue; the others may tell
            undecided = error
        _require_paint(case, scan)
        profile = profile_of(prepared(scan, case, plan), case.truth)
        # Of the whole scan: two crops of one scan, around two tumors, share no row.
        profiles.append(dataclasses.replace(profile, rows=row_fingerprints(in_ras_order(scan).array)))
    if not modalities and undecided is not None:
        raise undecided
    if len(modalities) > 1:
        raise InputError(
            f"Expected one modality, got {' and '.join(f'{m} ({path.name})' for m, path in modalities.items())}.",
            hint="say it where the guess is wrong: --modality CT.",
            code="modality",
        )
    for first, second, share in twins(profiles):
        raise InputError(
            f"{cases[first].scan} and {cases[second].scan} show one scan: they share {100 * share:.0f} % of their rows.",
            hint="whoever reads both knows more than each tells: take one of the two out; of scans that were painted several "
            "times --per-side draws one each.",
            code="twins",
        )
    told("Reading the scans", 1.0)
    return profiles, next(iter(modalities))


def _window(modality: str, profiles: Sequence[Profile]) -> tuple[float, float] | None:
    """Choose one window for all: by the share of lung in CT; None in MR, whose units mean nothing across scans."""
    if modality != "CT":
        return None
    lung = float(np.median([profile.lung for profile in profiles]))
    return LUNG_WINDOW_HU if lung > _LUNG_SHARE else SOFT_TISSUE_WINDOW_HU


def _generator(seed: int, known: dict[CaseFile, str]) -> np.random.Generator:
    digests = "".join(sorted(f"{case.truth}{digest}" for case, digest in known.items()))
    words = np.frombuffer(digests.encode("ascii").ljust(-(-len(digests) // 4) * 4), np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def _drawn(cases: list[CaseFile], count: int | None, rng: np.random.Generator) -> list[CaseFile]:
    """Draw cases, of those that were painted into one scan one at most, as far as there are enough of them."""
    if count is None:
        return cases
    order = [cases[int(index)] for index in rng.permutation(len(cases))]
    first = {_source_digest(case) or str(case.scan): case for case in reversed(order)}
    apart = [case for case in order if case in first.values()]
    return [*apart, *(case for case in order if case not in apart)][:count]


def _floats(values: Any) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 4) for value in values)
    return x, y, z


def _silent(_stage: str, _share: float) -> None:
    pass


# --- Refusals


def _require_places(folder: Path, key_path: Path) -> None:
    require_folder_for(folder, SESSION_FILE, False, "name another folder: readers may have begun with that session.")
    if key_path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"The key {key_path} would lie in the session's own folder, where readers find it.",
            hint="omit --key, or name a place outside the folder.",
            code="key_inside",
        )
    if key_path.exists():
        raise InputError(
            f"There is a key already: {key_path}.", hint="move it, or name another with --key.", code="exists"
        )


def _require_apart(cases: Sequence[CaseFile]) -> None:
    seen: dict[Path, CaseFile] = {}
    for case in cases:
        earlier = seen.setdefault(case.scan.resolve(), case)
        if earlier is not case:
            raise _twice(case, earlier, "are one file")


def _require_different(known: dict[CaseFile, str]) -> None:
    seen: dict[str, CaseFile] = {}
    for case, digest in known.items():
        earlier = seen.setdefault(digest, case)
        if earlier is not case:
            raise _twice(case, earlier, "have the same content")


def _require_no_source(cases: Sequence[CaseFile], known: dict[CaseFile, str]) -> None:
    """Refuse a real scan beside what was painted into it; a patch of it shares no whole row with it."""
    real = {known[case]: case for case in cases if case.truth == REAL}
    for case in cases:
        source = real.get(_source_digest(case)) if case.truth == SYNTHETIC else None
        if source is not None:
            raise InputError(
                f"{case.scan} was painted into {source.scan}, which is in the session too.",
                hint="whoever reads both knows more than each tells: take one of the two out.",
                code="twins",
            )


def _source_digest(case: CaseFile) -> str:
    """Return the SHA-256 of the scan that a case was painted into, "" where nothing says it."""
    try:
        return str(read_json(case.scan.parent / RECORD)["input"]["sha256"])
    except (InputError, KeyError, TypeError):
        return ""


def _require_paint(case: CaseFile, scan: Volume) -> None:
    """Refuse a painted case in which no tumor found a place: it is a real scan."""
    if (
        case.truth == SYNTHETIC
        and case.mask is not None
        and not read_mask(case.mask, scan.geometry, case.label).array.any()
    ):
        raise InputError(
            f"{case.scan} shows no painted tumor: {case.mask.name} is empty.",
            hint="take it out of the synthetic scans; whoever calls it real is right.",
            code="unpainted",
        )


def _twice(case: CaseFile, earlier: CaseFile, how: str) -> InputError:
    if case.truth == earlier.truth:
        return InputError(
            f"{earlier.scan} and {case.scan} {how}: a {case.truth} scan is there twice.",
            hint="name each scan once.",
            code="duplicate",
        )
    return InputError(
        f"{earlier.scan} and {case.scan} {how}: a scan is both real and synthetic.",
        hint="check --real and --synthetic.",
        code="both_sides",
    )


def _require_balance(real: int, synthetic: int, options: SessionOptions) -> None:
    wanted = (real, synthetic) if options.per_side is None else (options.per_side, options.per_side)
    if min(wanted) < FEWEST_PER_SIDE:
        raise InputError(
            f"Expected at least {FEWEST_PER_SIDE} real and {FEWEST_PER_SIDE} synthetic scans, got {wanted[0]} and "
            f"{wanted[1]}: with fewer, not even a reader who is always right differs from chance.",
            code="too_few",
        )
    if wanted[0] > real or wanted[1] > synthetic:
        raise InputError(
            f"Asked for {options.per_side} scans of each kind, but there are {real} real and {synthetic} synthetic ones.",
            hint=f"ask for at most --per-side {min(real, synthetic)}.",
            code="too_few",
        )
    if wanted[0] != wanted[1] and not options.allow_unbalanced:
        raise InputError(
            f"There are {real} real and {synthetic} synthetic scans; a reader who noticed could guess better than chance.",
            hint=f"draw as many of each with --per-side {min(real, synthetic)}, or say --allow-unbalanced.",
            code="unbalanced",
        )


def _require_steps(cases: Sequence[CaseFile], profiles: Sequence[Profile]) -> None:
    case, profile = min(zip(cases, profiles, strict=True), key=lambda pair: pair[1].steps)
    if profile.steps < FEWEST_STEPS:
        raise InputError(
            f"{case.scan}: 98 % of its voxels lie within {profile.steps:.3g}; expected at least {FEWEST_STEPS}, since "
            "scans are written as whole numbers.",
            hint="scale the scans, all of them alike, and build the session of those.",
            code="range",
        )


def _refusal(found: Sequence[Giveaway], was_harmonized: bool) -> InputError:
    listed = "; ".join(giveaway.words for giveaway in found)
    hint = "--harmonize changes all of them alike: coarsest grid, narrowest limits, whole numbers."
    if was_harmonized or not all(giveaway.is_curable for giveaway in found):
        hint = "this cannot be harmonized: make real and synthetic scans in the same way, then build the session."
    return InputError(
        f"Real and synthetic scans could be told apart without a look: {listed}.", hint=hint, code="giveaway"
    )
