"""`weights`: published models come here, are looked at, checked and removed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, Quiet, examples
from DiffuGTSLib.cli.terminal import ERR, OUT, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError, WeightsError, did_you_mean
from DiffuGTSLib.model_store.manifest import License, PublishedFile, PublishedModel, catalog, find_model, with_checksums
from DiffuGTSLib.model_store.store import (
    SOURCE_FILE,
    find_stored,
    models_folder,
    remove_leftovers,
    remove_stored,
    require_free,
    require_room,
    require_stored,
    size_text,
    stored_folder,
    stored_models,
)
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.storage import read_json

if TYPE_CHECKING:
    from DiffuGTSLib.model_store.fetch import LocalFile

LIST_EXAMPLES = examples("diffugts weights list", "diffugts weights list maisi-ct")
FETCH_EXAMPLES = examples(
    "diffugts weights fetch maisi-ct",
    "Where nobody can answer a question:",
    "diffugts weights fetch maisi-ct --accept-license nvidia-open-model --quiet",
    "Half the room, numbers rounded:",
    "diffugts weights fetch maisi-ct --precision bfloat16",
)
IMPORT_EXAMPLES = examples(
    "Files that were fetched on another computer, or a model folder that was converted there:",
    "diffugts weights import usb-stick --model maisi-ct",
    "diffugts weights import usb-stick/maisi-ct",
)

app = typer.Typer(no_args_is_help=True, help="Fetch, import, check and remove the weights that NVIDIA publishes.")

Name = Annotated[str, typer.Argument(help="A name that diffugts weights list shows.", show_default=False)]
Accepted = Annotated[
    list[str] | None,
    typer.Option("--accept-license", metavar="NAME", help="Accept a license by its name. May be repeated."),
]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option("--precision", help="float32, or bfloat16: half the space, numbers rounded."),
]
Sha256 = Annotated[
    list[str] | None,
    typer.Option("--sha256", metavar="FILE=HEX", help="The only checksum that this file may have. May be repeated."),
]


@app.command("list", epilog=LIST_EXAMPLES)
def list_models(
    name: Annotated[str | None, typer.Argument(help="Show all that is known of one.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the published models, their size and license, and which are here."""
    models = catalog()
    if name is not None:
        models = {name: find_model(name, models)}
    if as_json:
        print_json({key: _facts(model) for key, model in models.items()})
    elif name is not None:
        _show_model(models[name])
    else:
        _show_models(models)


@app.command("fetch", epilog=FETCH_EXAMPLES)
def fetch(
    name: Name,
    accept_license: Accepted = None,
    precision: Precision = "float32",
    sha256: Sha256 = None,
    keep_downloads: Annotated[bool, typer.Option("--keep-downloads", help="Also keep the downloaded files.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a published model from the hub and convert it. An interrupted download is resumed."""
    model = with_checksums(find_model(name, catalog()), sha256 or [])
    stored = find_stored(name)
    if stored is not None:
        print_line(f"{name} is here already: {stored.folder}")
        return
    require_free(name)
    accept_licenses(model, accept_license or [])

    from DiffuGTSLib.backbones.maisi import published_networks
    from DiffuGTSLib.model_store.convert import converted_bytes
    from DiffuGTSLib.model_store.fetch import alone, fetch_model, forget_downloads

    with alone(_print_waiting), TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        stored = find_stored(name)
        if stored is None:
            remove_leftovers(name)
            files = fetch_model(model, progress, converted_bytes(name, published_networks))
            folder = _convert(model, files, precision, progress)
            forget_downloads(model, keep_whole=keep_downloads)
        else:  # another process has brought it meanwhile
            folder = stored.folder
    _print_done(model, folder, quiet)


@app.command("import", epilog=IMPORT_EXAMPLES)
def import_folder(
    folder: Annotated[
        Path, typer.Argument(help="Holds the published files, or is a model folder.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Which model; else all whose files are there.")
    ] = None,
    accept_license: Accepted = None,
    precision: Precision = "float32",
    sha256: Sha256 = None,
    quiet: Quiet = False,
) -> None:
    """Import published files, or a converted model, from a folder; no network is needed."""
    models = catalog()
    wanted = list(models.values()) if name is None else [find_model(name, models)]
    converted = _model_of(folder)
    if converted:
        model = find_model(converted, models)
        if name not in (None, converted) or sha256 or precision != "float32":
            raise InputError(
                f"{folder} is the converted model {converted}, taken as it is: --sha256 and --precision are for published files, "
                "and --model names no other.",
                hint=f"omit them, or say --model {converted}.",
            )
        accept_licenses(model, accept_license or [])

        from DiffuGTSLib.model_store.convert import adopt_model
        from DiffuGTSLib.model_store.fetch import alone, forget_downloads

        with alone(_print_waiting):
            remove_leftovers(model.name)
            place = adopt_model(folder, model.name)
            forget_downloads(model)
        _print_done(model, place, quiet)
        return
    if name is not None:
        wanted = [with_checksums(wanted[0], sha256 or [])]
    elif sha256:
        raise InputError("--sha256 is for one model.", hint="say which with --model.")
    _import_files(folder, wanted, accept_license or [], precision, quiet)


@app.command("verify")
def verify(
    name: Annotated[str | None, typer.Argument(help="One model; else all that are here.", show_default=False)] = None,
) -> None:
    """Compare every weight file that is here, and what describes it, with its checksum."""
    from DiffuGTSLib.backbones.weights import verify_checksums

    models = stored_models() if name is None else [require_stored(name)]
    if not models:
        print_line(f"{models_folder()} holds no model.")
    broken = {}
    for model in models:
        try:
            checked = verify_checksums(model.folder)
        except WeightsError as error:
            broken[model.name] = error
            print_line(f"{model.name}: {error.message}", "bold red")
        else:
            print_line(f"{model.name}: {len(checked)} weight files and what describes them, as they were written.")
    if broken:
        names = ", ".join(broken)
        raise WeightsError(
            f"{len(broken)} of {len(models)} models are not what they were: {names}.",
            hint=f"diffugts weights remove {next(iter(broken))}, then fetch or import it again.",
            code=next(iter(broken.values())).code,
        )


@app.command("remove")
def remove(name: Name) -> None:
    """Remove a model, what was fetched of it, and what a killed fetch or import left."""
    from DiffuGTSLib.model_store.fetch import alone, forget_downloads

    models = catalog()
    if name not in models:
        model, freed = remove_stored(name), 0
    else:
        with alone(_print_waiting):
            freed = forget_downloads(models[name]) + remove_leftovers(name)
            if freed and stored_folder(name) is None:
                print_line(f"Removed {size_text(freed)} that a fetch or an import of {name} had left.")
                return
            model = remove_stored(name)
    print_line(f"Removed {name}: {size_text(model.size_bytes + freed)} are free again.")


def accept_licenses(model: PublishedModel, accepted: list[str]) -> None:
    """Show each license of a model and have it accepted, by name; where there is a terminal, a person is asked.

    Args:
        model: Which.
        accepted: Names that were accepted on the command line.

    Raises:
        InputError: If a name is no license of a published model.
        WeightsError: If one was not accepted (code "license").
    """
    known = {license_.name for other in catalog().values() for license_ in other.licenses}
    for name in accepted:
        if name not in known:
            raise InputError(f"Unknown license '{name}'.", hint=did_you_mean(name, known))
    can_ask = sys.stdin is not None and sys.stdin.isatty()  # None: started with a closed one
    for license_ in model.licenses:
        _show_license(model, license_)
        answer = _prompt(f"Type {license_.name} to accept") if can_ask and license_.name not in accepted else ""
        if license_.name in (*accepted, answer.strip()):
            continue
        use = "" if license_.commercial else " It allows no commercial use."
        raise WeightsError(
            f"{model.name} comes under the {license_.title}, which was not accepted.{use}",
            hint=f"read {license_.url}; to accept: --accept-license {license_.name}.",
            code="license",
        )


def _print_waiting() -> None:
    print_note("Another process fetches, imports or removes weights: waiting for its end …")


def _prompt(text: str) -> str:
    return str(typer.prompt(text, default="", show_default=False, err=True))


def _show_license(model: PublishedModel, license_: License) -> None:
    print_note(f"{model.name}: {license_.title}", "bold")
    for line in (license_.terms, f"Text: {license_.url}", f"Cite: {model.citation}"):
        print_note(line)


def _import_files(folder: Path, wanted: list[PublishedModel], accepted: list[str], precision: str, quiet: bool) -> None:
    from DiffuGTSLib.backbones.maisi import published_networks
    from DiffuGTSLib.model_store.convert import converted_bytes
    from DiffuGTSLib.model_store.fetch import alone, find_files, forget_downloads

    found = [(model, files) for model in wanted if (files := find_files(model, folder)) is not None]
    if not found:
        raise _no_model_in(folder, wanted)
    for model, _ in found:
        accept_licenses(model, accepted)
    for model, files in found:
        if find_stored(model.name) is not None and len(found) > 1:
            print_line(f"{model.name} is here already.")
            continue
        with alone(_print_waiting), TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
            remove_leftovers(model.name)
            require_room(converted_bytes(model.name, published_networks))
            place = _convert(model, files, precision, progress)
            forget_downloads(model)
        _print_done(model, place, quiet)


def _no_model_in(folder: Path, wanted: list[PublishedModel]) -> InputError:
    """Say which files of which model are not in a folder, or which folder in it is a converted model."""
    from DiffuGTSLib.model_store.fetch import missing_files

    names = {model.name for model in wanted}
    converted = [path.parent for path in sorted(folder.glob(f"*/{SOURCE_FILE}")) if _model_of(path.parent) in names]
    lacks = "; ".join(f"{model.name} lacks {' and '.join(missing_files(model, folder))}" for model in wanted)
    hint = f"{converted[0]} is a converted model: diffugts weights import {converted[0]}." if converted else f"{lacks}."
    return InputError(f"{folder} holds all files of no model.", hint=hint, code="missing")


def _convert(model: PublishedModel, files: dict[str, LocalFile], precision: str, progress: TerminalProgress) -> Path:
    from DiffuGTSLib.backbones.maisi import published_networks
    from DiffuGTSLib.model_store.convert import install_model

    progress("Converting", 0.0)
    folder = install_model(model, files, precision, published_networks)
    progress("Converting", 1.0)
    return folder


def _model_of(folder: Path) -> str:
    """Return which model a folder was converted to; "" where it is no model folder of ours."""
    try:
        return str(read_json(folder / SOURCE_FILE)["model"])
    except (InputError, KeyError):
        return ""


def _print_done(model: PublishedModel, folder: Path, quiet: bool) -> None:
    if quiet:
        return
    print_line(f"{model.name} is in {folder}.")
    for license_ in model.licenses:
        print_line(f"{license_.notice}.")
    print_line(f"Cite: {model.citation}.")
    stored = find_stored(model.name)
    if stored is not None and not stored.has_head:
        print_line(
            "It holds the published networks only. Segmenting needs a head that was trained on its features: diffugts "
            "train aova makes one, and with it a model folder for --set backbone.folder; see docs/weights.md."
        )


def _facts(model: PublishedModel) -> dict[str, Any]:
    stored = find_stored(model.name)
    return {
        "title": model.title,
        "citation": model.citation,
        "licenses": [license_.name for license_ in model.licenses],
        "files": [
            {
                "path": file.path, "repository": file.repository, "license": file.license.name,
                "revision": file.revision, "about_bytes": file.about_bytes, "sha256": file.sha256, "md5": file.md5,
            }
            for file in model.files
        ],
        "folder": str(stored.folder) if stored else None,
        "size_bytes": stored.size_bytes if stored else None,
        "has_head": stored.has_head if stored else None,
    }  # fmt: skip


def _show_models(models: dict[str, PublishedModel]) -> None:
    table = Table("Model", "What it is", "Download", "License", "Here")
    for name, model in models.items():
        stored = find_stored(name)
        titles = ", ".join(license_.title for license_ in model.licenses)
        download = size_text(sum(file.about_bytes for file in model.files))
        here = f"{size_text(stored.size_bytes)}{'' if stored.has_head else ', no head'}" if stored else ""
        table.add_row(Text(name), Text(model.title), Text(f"about {download}"), Text(titles), Text(here))
    OUT.print(table)
    print_line(f"Models lie in {models_folder()}.")


def _show_model(model: PublishedModel) -> None:
    stored = find_stored(model.name)
    table = Table(title=model.name, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("What it is", Text(model.title))
    for role, file in (("Autoencoder", model.autoencoder), ("Denoiser", model.denoiser)):
        table.add_row(role, Text(_file_words(file)))
    for license_ in model.licenses:
        table.add_row("License", Text(f"{license_.title} ({license_.name})\n{license_.terms}\n{license_.url}"))
    table.add_row("Cite", Text(model.citation))
    table.add_row("Here", Text(f"{stored.folder}, {size_text(stored.size_bytes)}" if stored else "no"))
    if stored:
        for role, origin in _origins(stored.source).items():
            words = f"revision {origin.get('revision', 'not said')}, SHA-256 {origin.get('sha256', 'not said')}"
            table.add_row(Text(f"{role} from"), Text(words))
    OUT.print(table)


def _origins(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a source.json says of each file, as far as it is of our form."""
    files = source.get("files")
    known = files.items() if isinstance(files, dict) else ()
    return {role: file for role, file in known if isinstance(file, dict)}


def _file_words(file: PublishedFile) -> str:
    revision = file.revision or "not pinned: not known to us, the newest is taken and recorded"
    return (
        f"{file.path} of {file.repository}\nabout {size_text(file.about_bytes)}; revision {revision}\n"
        f"checksum {file.checksum}"
    )
