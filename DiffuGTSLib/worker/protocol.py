"""What the worker and the program that started it say to each other, and the job that lies between them in a folder.

Requests go to the worker's stdin, events come from its stdout, each one JSON object a line in ASCII, so that no locale
can garble it. An event's line begins with `PREFIX`; every other line is log text. The worker stays between runs and
keeps the loaded model. When its stdin ends it leaves, in the middle of a run too: nothing is orphaned.

    → {"do": "run", "job": "/…/job"}            ← @diffugts {"event": "started", "job": "/…/job"}
    → {"do": "cancel"}                          ← @diffugts {"event": "stage", "stage": "aova", "share": 0.25}
                                                ← @diffugts {"event": "cancelled"}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import WorkerError, did_you_mean
from DiffuGTSLib.storage import for_json, is_finite, parse_json, write_json
from DiffuGTSLib.text.prompts import PromptPair, chosen_prompts, require_choice

PROTOCOL = 1
"""Told in `hello`. Another number on the other side: the two come from different versions of DiffuGTS."""
PREFIX = "@diffugts "
_RESTART = "the two sides are of different versions of DiffuGTS: restart the program."

REQUESTS: dict[str, tuple[str, ...]] = {"run": ("job",), "cancel": (), "release": (), "stop": ()}
"""Request → what it must carry. `job` is the absolute path of a job folder; `release` forgets the model."""

EVENTS: dict[str, tuple[str, ...]] = {
    "hello": ("protocol", "pid", "python", "versions", "devices"),
    "ready": ("versions", "devices"),
    "started": ("job",),
    "stage": ("stage", "share"),
    "artifact": ("kind", "path"),
    "warning": ("message",),
    "error": ("code", "message", "hint"),
    "cancelled": (),
    "released": (),
    "done": ("outcome", "modality", "modality_reason", "timings_s"),
}
"""Event → what it carries at least.

`done` carries `anomaly_score` and `findings` too after a `JobSpec`, `tumors` and `skipped` after a `SynthesisSpec`.
`hello` comes at once; its devices are empty, since torch is not loaded then. `ready` follows when it is, with the
devices: graphics cards only, none on a computer that has just its processor.
"""
ENDINGS = ("done", "error", "cancelled")
"""Exactly one of them ends a run; then the worker is idle and takes the next.

Only after an `error` with the code import_failed or cuda it leaves by itself: the process is of no more use then. A line
that is no request is answered by an `error` too, code "protocol".
"""

ROAD = ("aova", "repaint", "residual")
"""What a job can ask for: a beginning of this."""
JOB_STAGES = ("load", "read", *ROAD, "write back", "write")
"""The stages of a `stage` event in their order. Those that a run skips are not told."""
SYNTHESIS_STAGES = ("load", "synthesize", "write")

JOB_FILE = "job.json"
SCAN_FILE = "input.nrrd"
CACHE_FILE = "cache.safetensors"
ARTIFACT_FILES = {
    "aova": "aova.nrrd",
    "coarse_mask": "coarse_mask_found.nrrd",
    "pseudo_healthy": "pseudo_healthy.nrrd",
    "residual": "residual.nrrd",
    "segmentation": "segmentation.nrrd",
    "findings": "findings.csv",
    "record": "record.json",
}
"""Kind → file in the job folder, in the order of their events. A file is whole when it is announced.

All images lie on exactly the scan's grid. `pseudo_healthy` and `residual` exist only where something was repainted.
"""

SYNTHESIS_FILES = {"painted": "painted.nrrd", "painted_tumor": "painted_tumor.nrrd", "record": "synthesis.json"}
"""The same for a synthesis: the scan with tumors, where they are, and how they were made."""

CODES = ("oom", "cuda_arch", "cuda", "disk_full", "weights_missing", "weights_corrupt", "import_failed", "protocol")
"""Codes of `error` events beside those of `DiffuGTSLib.errors` and of the library's own refusals."""

_FORMAT = 1


@dataclass(frozen=True)
class JobSettings:
    """What a person asks for: the part that a job and whoever makes one have in common.

    Attributes:
        modality: "CT", "MR", or "" to have it guessed.
        organ: Organ whose built-in sentences are meant; "" for sentences of one's own.
        normal: The healthy sentence.
        abnormal: The same with a tumor.
        preset: Name of a preset.
        overrides: "section.key=value", applied to the preset in their order.
    """

    modality: str = ""
    organ: str = ""
    normal: str = ""
    abnormal: str = ""
    preset: str = "mini"
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class JobSpec(JobSettings):
    """One request with its files, as it lies in a job folder's job.json.

    Attributes:
        scan: File of the scan, in the folder.
        region: Mask file on the scan's grid, outside of which nothing is looked for; "" for everywhere.
        coarse_mask: Mask file of the candidates, drawn or edited; "" to have them detected.
        cache: cache.safetensors of an earlier job with the same scan, sentences and model; only with a coarse mask.
        stages: A beginning of `ROAD`.
        allow_untrained: For tests only.
        format: Version of this form.

    Raises:
        WorkerError: Code "protocol": a value of another type, another format, or a combination that is none.
        PromptError: Neither an organ nor two sentences, or both.
    """

    scan: str = SCAN_FILE
    region: str = ""
    coarse_mask: str = ""
    cache: str = ""
    stages: Sequence[str] = ROAD
    allow_untrained: bool = False
    format: int = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT or isinstance(self.format, bool):
            raise _foreign(f"The job has format {self.format!r}; expected {_FORMAT}.")
        for name in ("scan", "modality", "organ", "normal", "abnormal", "region", "coarse_mask", "cache", "preset"):
            _require_type(name, getattr(self, name), str, "text")
        _require_type("allow_untrained", self.allow_untrained, bool, "true or false")
        for name in ("overrides", "stages"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
                raise _foreign(f"The job's {name}: expected a list of texts, got {values!r}.")
            object.__setattr__(self, name, tuple(values))
        if not self.scan:
            raise _foreign("The job names no scan.")
        if self.modality not in ("", "CT", "MR"):
            raise _foreign(f"The job's modality: expected CT, MR or nothing, got '{self.modality}'.")
        if self.cache and not self.coarse_mask:
            raise _foreign("The job names a cache, which is of use with a coarse mask only.")
        hint = "choose an organ, or write the healthy sentence and the one with a tumor."
        organ, normal, abnormal = (text.strip() or None for text in (self.organ, self.normal, self.abnormal))
        require_choice(organ, normal, abnormal, hint)

    def prompts(self, modality: str) -> PromptPair:
        """Return the organ's built-in sentences, or the user's own.

        Raises:
            PromptError: As `organ_prompts` and `free_prompts`.
        """
        return chosen_prompts(self.organ or None, self.normal, self.abnormal, modality)


@dataclass(frozen=True)
class SynthesisSpec:
    """A request to paint tumors, as it lies in a job folder's job.json.

    Attributes:
        scan: File of the healthy scan, in the folder.
        organ_mask: File of the organ's mask on the scan's grid, in the folder.
        organ: Name with an organ file, or the path of one.
        modality: "CT", "MR", or "" to have it guessed.
        size: A size class of the organ, or "mix".
        count: How many; 0 for as many as the class has.
        radius_mm: Instead of a class; 0 for the class.
        center_ras_mm: Where, RAS in mm; empty for somewhere in the organ.
        avoid_vessels: Whether small tumors keep clear of vessels.
        mass_effect: Whether tumors push the tissue around them outwards.
        capsule: Whether tumors wear a bright capsule.
        painter: "handcrafted", "recipe", or the folder of a trained one.
        device: Of a trained painter.
        seed: Every random draw follows from it.
        kind: Tells it from a `JobSpec`.
        format: Version of this form.

    Raises:
        WorkerError: Code "protocol": a value of another type, or another format.
    """

    scan: str = SCAN_FILE
    organ_mask: str = "organ.nrrd"
    organ: str = ""
    modality: str = ""
    size: str = "mix"
    count: int = 0
    radius_mm: float = 0.0
    center_ras_mm: Sequence[float] = ()
    avoid_vessels: bool = True
    mass_effect: bool = False
    capsule: bool = False
    painter: str = "handcrafted"
    device: str = "auto"
    seed: int = 0
    kind: str = "synthesize"
    format: int = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT or self.kind != "synthesize":
            raise _foreign(
                f"The job has kind {self.kind!r} and format {self.format!r}; expected synthesize, {_FORMAT}."
            )
        for field in dataclasses.fields(self):
            wanted = {"str": str, "int": int, "bool": bool}.get(str(field.type))
            value = getattr(self, field.name)
            if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)):
                raise _foreign(f"The job's {field.name}: expected {field.type}, got {value!r}.")
        if self.seed < 0:
            raise _foreign(f"The job's seed: expected at least 0, got {self.seed}.")
        center = self.center_ras_mm if isinstance(self.center_ras_mm, list | tuple) else [self.center_ras_mm]
        numbers = [self.radius_mm, *center]
        if len(numbers) not in (1, 4) or not all(map(is_finite, numbers)):
            raise _foreign(f"The job's radius and center: expected 1 or 4 finite numbers, got {numbers!r}.")
        object.__setattr__(self, "center_ras_mm", tuple(float(n) for n in self.center_ras_mm))


AnyJob = JobSpec | SynthesisSpec


def parse_job(text: str) -> AnyJob:
    """Read the text of a job.json.

    Raises:
        WorkerError: Code "protocol": no JSON object, or a key that is unknown; besides what the job refuses.
        PromptError: As `JobSpec`.
    """
    values = parse_json(text, "The job", WorkerError, hint=_RESTART, code="protocol")
    form = SynthesisSpec if "kind" in values else JobSpec
    known = [field.name for field in dataclasses.fields(form)]
    for key in values:
        if key not in known:
            raise _foreign(f"The job has the unknown key '{key}'; {did_you_mean(key, known)}")
    if "format" not in values:
        raise _foreign(f"The job names no format; expected {_FORMAT}.")
    return form(**values)


def write_job(spec: AnyJob, folder: Path) -> None:
    """Write job.json into a job folder.

    Raises:
        StorageError: If the folder is gone or not writable, or its disk is full.
    """
    write_json(folder / JOB_FILE, dataclasses.asdict(spec))


def read_job(folder: Path) -> AnyJob:
    """Read job.json of a job folder.

    Raises:
        WorkerError: Code "protocol": the file is missing or unreadable; besides what `parse_job` refuses.
        PromptError: As `JobSpec`.
    """
    try:
        text = (folder / JOB_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _foreign(f"The job {folder / JOB_FILE} cannot be read: {error}.") from error
    return parse_job(text)


def request_line(do: str, **values: Any) -> str:
    """Return a request as the line to write to the worker's stdin.

    Raises:
        WorkerError: Code "protocol": an unknown request, or one that lacks what it must carry.
    """
    request = {"do": do, **values}
    _require_known(request, "do", REQUESTS)
    return json.dumps(request) + "\n"


def parse_request(line: str) -> dict[str, Any]:
    """Return a line of the worker's stdin as a request.

    Raises:
        WorkerError: Code "protocol": anything but a request.
    """
    request = _object(line)
    _require_known(request, "do", REQUESTS)
    if not isinstance(request.get("job", ""), str):
        raise _foreign(f"The message '{request['do']}': expected job to be a path, got {request['job']!r}.")
    return request


def event_line(event: str, **values: Any) -> str:
    """Return an event as the line that the worker writes; NaN and infinity, for which JSON has no word, become null.

    Raises:
        WorkerError: Code "protocol": an unknown event, or one that lacks what it must carry.
    """
    told = {"event": event, **values}
    _require_known(told, "event", EVENTS)
    return PREFIX + json.dumps(for_json(told), allow_nan=False) + "\n"


def parse_event(line: str) -> dict[str, Any] | None:
    """Return a line of the worker's stdout as an event, or None where it is log text.

    Raises:
        WorkerError: Code "protocol": a line that begins as an event and is none that this side knows.
    """
    if not line.startswith(PREFIX):
        return None
    event = _object(line.removeprefix(PREFIX))
    _require_known(event, "event", EVENTS)
    return event


class LineBuffer:
    """Puts lines together from the pieces in which a pipe delivers them."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[str]:
        """Take a piece and yield every line that is now whole, without its end; what is no UTF-8 becomes \ufffd."""
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")

    def rest(self) -> str:
        """Return what came after the last line's end, at the end of the pipe."""
        rest = self._rest.decode("utf-8", "replace")
        self._rest.clear()
        return rest


def worker_environment() -> dict[str, str]:
    """Return the variables that the worker's process needs besides those of its parent.

    The library is found whatever the current folder, nothing is fetched from the network, and nothing draws progress
    bars or holds lines back.
    """
    return {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
    }


def _object(text: str) -> dict[str, Any]:
    return parse_json(text, f"The line {text.strip()[:200]!r}", WorkerError, hint=_RESTART, code="protocol")


def _require_known(message: Mapping[str, Any], key: str, known: Mapping[str, tuple[str, ...]]) -> None:
    name = message.get(key)
    if not isinstance(name, str) or name not in known:
        raise _foreign(f"Unknown message: '{key}' is {name!r}; known: {', '.join(known)}.")
    missing = [part for part in known[name] if part not in message]
    if missing:
        raise _foreign(f"The message '{name}' lacks {', '.join(missing)}.")


def _require_type(name: str, value: object, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise _foreign(f"The job's {name}: expected {words}, got {value!r}.")


def _foreign(message: str) -> WorkerError:
    return WorkerError(message, hint=_RESTART, code="protocol")
