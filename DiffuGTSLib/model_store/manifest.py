"""The published checkpoints: files, hub repositories, checksums, licenses and citations, from one JSON file.

What is not known to us is null there, and said so: a revision that is not pinned, a checksum that nobody published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import ConfigError, InputError, did_you_mean
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import read_json

_SHA256_DIGITS = 64


@dataclass(frozen=True)
class License:
    """What weights come under.

    Attributes:
        name: What `--accept-license` takes.
        title: Its full name.
        url: Where its text stands.
        commercial: Whether commercial use is allowed.
        terms: What it asks, in a sentence or two of ours.
        notice: What stands beside the weights.
    """

    name: str
    title: str
    url: str
    commercial: bool
    terms: str
    notice: str


@dataclass(frozen=True)
class PublishedFile:
    """One checkpoint as its publisher distributes it.

    Attributes:
        path: In the hub repository, with "/".
        repository: "owner/name" on the hub.
        license: Of the weights in it.
        revision: The commit it is pinned to; None: not known to us, the newest is taken and recorded.
        about_bytes: Its size, roughly; the hub says it exactly.
        sha256: None: not known to us.
        md5: None: not known to us.
        md5_origin: Where the MD5 is from.
        sha256_origin: Where the SHA-256 is from, in words.
    """

    path: str
    repository: str
    license: License
    revision: str | None
    about_bytes: int
    sha256: str | None
    md5: str | None
    md5_origin: str
    sha256_origin: str = "of the catalog"

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.rpartition("/")[2]

    @property
    def checksum(self) -> str:
        """What is known of its checksum, in words."""
        if self.sha256:
            return f"SHA-256 {self.sha256[:12]}…"
        return f"MD5 {self.md5[:12]}…, {self.md5_origin}" if self.md5 else "not known to us"


@dataclass(frozen=True)
class PublishedModel:
    """What fills one preset.

    Attributes:
        name: Of the preset.
        title: What it is.
        autoencoder: File of the autoencoder.
        denoiser: File of the denoiser; the scale factor of the latents stands in it.
        prediction: "flow" or "epsilon".
        citation: What to cite.
    """

    name: str
    title: str
    autoencoder: PublishedFile
    denoiser: PublishedFile
    prediction: str
    citation: str

    @property
    def files(self) -> tuple[PublishedFile, PublishedFile]:
        """The autoencoder's and the denoiser's."""
        return self.autoencoder, self.denoiser

    @property
    def licenses(self) -> tuple[License, ...]:
        """Each license of its files once."""
        return tuple({file.license.name: file.license for file in self.files}.values())


def catalog(path: Path | None = None) -> dict[str, PublishedModel]:
    """Return the published models by the preset that they fill.

    Args:
        path: Of a catalog; None takes the bundled one.

    Raises:
        ConfigError: If the catalog cannot be read, names what it does not hold, or misses a key.
    """
    path = resource_path("Models", "catalog.json") if path is None else path
    again = "install DiffuGTS again."
    values = read_json(path, ConfigError, hint=again)
    try:
        licenses = {name: License(name, **value) for name, value in values["licenses"].items()}
        files = {
            name: PublishedFile(**{**value, "license": licenses[value["license"]]})
            for name, value in values["files"].items()
        }
        return {name: _model(name, value, files, values["citations"]) for name, value in values["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no catalog of models ({type(error).__name__}: {error}).", hint=again) from error


def _model(
    name: str, value: dict[str, Any], files: dict[str, PublishedFile], citations: dict[str, str]
) -> PublishedModel:
    return PublishedModel(
        name,
        title=value["title"],
        autoencoder=files[value["autoencoder"]],
        denoiser=files[value["denoiser"]],
        prediction=value["prediction"],
        citation=citations[value["citation"]],
    )


def find_model(name: str, models: dict[str, PublishedModel]) -> PublishedModel:
    """Return a model by name.

    Raises:
        InputError: Unknown name ("did you mean").
    """
    if name not in models:
        raise InputError(f"Unknown published model '{name}'.", hint=did_you_mean(name, models))
    return models[name]


def with_checksums(model: PublishedModel, checksums: list[str]) -> PublishedModel:
    """Return a model whose files are held against SHA-256 that the user vouches for, each "FILE=HEX".

    Raises:
        InputError: If one is not of that form, or names a file that the model does not have.
    """
    given = {}
    for text in checksums:
        name, _, digest = text.partition("=")
        if len(digest) != _SHA256_DIGITS or set(digest.lower()) - set("0123456789abcdef"):
            raise InputError(
                f"Cannot read the checksum '{text}'.", hint="write FILE=HEX with the 64 digits of SHA-256."
            )
        given[name.rpartition("/")[2]] = digest.lower()
    unknown = given.keys() - {file.name for file in model.files}
    if unknown:
        raise InputError(
            f"{model.name} has no file {', '.join(sorted(unknown))}.",
            hint=f"its files: {', '.join(file.name for file in model.files)}.",
        )

    def vouched(file: PublishedFile) -> PublishedFile:
        if file.name not in given:
            return file
        return replace(file, sha256=given[file.name], sha256_origin="given with --sha256", md5=None)

    return replace(model, autoencoder=vouched(model.autoencoder), denoiser=vouched(model.denoiser))
