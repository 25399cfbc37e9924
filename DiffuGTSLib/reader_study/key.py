"""The key of a reading session: which case is real and where it came from. Kept away from whoever reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.reader_study.answers import REAL, SYNTHETIC, VERSION
from DiffuGTSLib.storage import read_json, write_json

KEY_FORMAT = "diffugts-reading-key"
_AGAIN = "copy it again from where it was kept."


@dataclass(frozen=True)
class KeyCase:
    """The truth about one case.

    Attributes:
        case: Its number in the session.
        truth: "real" or "synthetic".
        source: Path of the scan that it was made from.
        sha256: Digest of that scan's file.
    """

    case: int
    truth: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Key:
    """The truth about a session.

    Attributes:
        session: The random word that the session's own card carries.
        seed: What the order was drawn with.
        cases: In the order of the session.
        made: How: crop, harmonization, versions. For the record.
    """

    session: str
    seed: int
    cases: tuple[KeyCase, ...]
    made: Mapping[str, Any]


def write_key(key: Key, path: Path | str) -> None:
    """Write a key as JSON, whole or not at all.

    Raises:
        StorageError: If the folder is missing or not writable, or the disk is full.
    """
    record = {
        "format": KEY_FORMAT,
        "version": VERSION,
        "notice": "Holds the truth. Keep it away from the readers until they are done.",
        "session": key.session,
        "seed": key.seed,
        "cases": [asdict(case) for case in key.cases],
        "made": dict(key.made),
    }
    write_json(path, record, ensure_ascii=False)


def read_key(path: Path | str) -> Key:
    """Read a key.

    Raises:
        InputError: If the file is missing, no key, of another version or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"There is no key {path}.", hint="`diffugts reading build` said where it wrote it.", code="missing"
        )
    record = read_json(path, hint=_AGAIN, code="damaged")
    try:
        if (record.get("format"), record.get("version")) != (KEY_FORMAT, VERSION):
            raise InputError(
                f"{path}: expected the format '{KEY_FORMAT}', version {VERSION}, got '{record.get('format')}', "
                f"version {record.get('version')}.",
                hint="give the file SESSION_key.json that `diffugts reading build` has written.",
                code="format",
            )
        cases = tuple(
            KeyCase(int(case["case"]), str(case["truth"]), str(case["source"]), str(case["sha256"]))
            for case in record["cases"]
        )
        key = Key(str(record["session"]), int(record["seed"]), cases, dict(record["made"]))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    wrong = [case.truth for case in cases if case.truth not in (REAL, SYNTHETIC)]
    if wrong or [case.case for case in cases] != list(range(1, len(cases) + 1)) or not cases:
        raise _damaged(path, f"expected cases 1, 2, 3… each real or synthetic, got {(wrong or ['other numbers'])[0]}")
    return key


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged: {what}.", hint=_AGAIN, code="damaged")
