"""The store of models: where it lies, whole or not at all, and what is removed."""

import shutil
import sys
from pathlib import Path

import pytest

from DiffuGTSLib.backbones.weights import WEIGHTS_FILE
from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.model_store.store import (
    MODELS_VARIABLE,
    downloads_folder,
    find_stored,
    models_folder,
    new_model,
    remove_leftovers,
    remove_stored,
    require_room,
    require_stored,
    size_text,
    stored_models,
)


@pytest.fixture(autouse=True)
def a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own."""
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


def put(name: str = "maisi-ct", source: str = '{"model": "maisi-ct"}') -> Path:
    with new_model(name) as folder:
        (folder / "model_index.json").write_text("{}")
        (folder / "source.json").write_text(source)
    return models_folder() / name


def test_who_has_no_home_is_asked_for_a_folder_only_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    for variable in ("DIFFUGTS_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    assert find_stored("mini") is None
    with pytest.raises(StorageError, match="no home folder") as caught:
        models_folder()
    assert "DIFFUGTS_MODELS" in caught.value.hint
    monkeypatch.setenv("DIFFUGTS_MODELS", "~/weights")
    with pytest.raises(StorageError, match="no home folder"):
        models_folder()


def test_the_variable_names_the_folder(a_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_folder() == a_store
    monkeypatch.setenv("DIFFUGTS_MODELS", "~/weights")
    assert models_folder() == Path.home() / "weights"
    assert downloads_folder("nvidia/NV-Generate-CT").parts[-3:] == (".downloads", "nvidia", "NV-Generate-CT")


@pytest.mark.parametrize(
    ("platform", "variable", "end"),
    [
        ("linux", "XDG_DATA_HOME", "diffugts/models"),
        ("win32", "LOCALAPPDATA", "DiffuGTS/models"),
        ("darwin", "", "Library/Application Support/DiffuGTS/models"),
    ],
)
def test_without_it_the_user_s_own_data_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str, end: str
) -> None:
    monkeypatch.delenv("DIFFUGTS_MODELS")
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert models_folder().as_posix().endswith(end)
    assert not variable or models_folder().is_relative_to(tmp_path)


def test_an_empty_store_holds_nothing_and_is_not_made_by_looking(a_store: Path) -> None:
    assert stored_models() == [] and find_stored("maisi-ct") is None and not a_store.exists()


def test_a_model_is_found_with_its_size_and_source(a_store: Path) -> None:
    folder = put()
    (model,) = stored_models()
    assert (model.name, model.folder, model.size_bytes) == ("maisi-ct", folder, 2 + len('{"model": "maisi-ct"}'))
    assert model.source == {"model": "maisi-ct"} and not model.has_head
    (folder / "aova").mkdir()
    (folder / "aova" / "config.json").write_text("{}")
    assert not require_stored("maisi-ct").has_head, "a configuration says of no weights that they are there"
    (folder / "aova" / WEIGHTS_FILE).write_bytes(b"")
    assert require_stored("maisi-ct").has_head


@pytest.mark.parametrize("name", ["../other", ".", "..", "", "a/../../other", "{absolute}"])
def test_nothing_outside_the_store_is_found_or_removed(tmp_path: Path, a_store: Path, name: str) -> None:
    put()
    for folder in (tmp_path / "other", tmp_path, a_store):
        folder.mkdir(exist_ok=True)
        (folder / "model_index.json").write_text("{}")
    name = name.replace("{absolute}", str(tmp_path / "other"))
    assert find_stored(name) is None
    with pytest.raises(WeightsError, match="are not here"):
        remove_stored(name)
    assert (tmp_path / "other" / "model_index.json").is_file()


@pytest.mark.parametrize("source", ["", "[1]", "{", "[" * 100_000, '{"model": ' + "1" * 5000 + "}"])
def test_a_source_that_is_none_says_nothing_and_hides_no_other_model(source: str) -> None:
    put(source=source)
    put("maisi-mr", '{"model": "maisi-mr"}')
    assert [model.source for model in stored_models()] == [{}, {"model": "maisi-mr"}]


def test_a_model_that_is_not_there_is_refused_with_the_commands() -> None:
    with pytest.raises(WeightsError, match=r"weights of 'maisi-ct' are not here") as caught:
        require_stored("maisi-ct")
    assert caught.value.code == "weights_missing"
    assert "diffugts weights fetch maisi-ct;" in caught.value.hint
    assert "diffugts weights import FOLDER --model maisi-ct" in caught.value.hint


def test_half_a_model_is_never_found(a_store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_model("maisi-ct") as folder:
        (folder / "model_index.json").write_text("{}")
        assert stored_models() == [], "while it is written"
        raise KeyboardInterrupt
    assert list(a_store.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_is_a_storage_error(a_store: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"Cannot write to .*maisi-ct: No space left") as caught,
        new_model("maisi-ct"),
    ):
        raise OSError(28, "No space left on device")
    assert MODELS_VARIABLE in caught.value.hint and list(a_store.iterdir()) == []


def test_a_storage_error_keeps_its_words() -> None:
    with pytest.raises(StorageError, match="^full$"), new_model("maisi-ct"):
        raise StorageError("full")


def test_a_model_is_not_written_over_not_even_by_one_that_came_first() -> None:
    put()
    with pytest.raises(InputError, match="is there already") as caught:
        put()
    assert caught.value.code == "exists"
    remove_stored("maisi-ct")
    with pytest.raises(InputError, match="is there already"), new_model("maisi-ct"):
        put()
    assert [model.name for model in stored_models()] == ["maisi-ct"]


def test_what_is_removed_is_gone_with_what_a_killed_process_left(a_store: Path) -> None:
    put("maisi-ct")
    put("maisi-ct-ddpm")
    for left in (f".maisi-ct-{'a' * 32}", f".maisi-ct-ddpm-{'a' * 32}"):
        (a_store / left).mkdir()
    remove_stored("maisi-ct")
    assert sorted(path.name for path in a_store.iterdir()) == [f".maisi-ct-ddpm-{'a' * 32}", "maisi-ct-ddpm"]
    with pytest.raises(WeightsError, match="are not here"):
        remove_stored("maisi-ct")


def test_what_cannot_be_removed_is_a_storage_error(a_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)  # root may do everything, so that rights cannot refuse it
    with pytest.raises(StorageError, match="Permission denied"):
        remove_stored("maisi-ct")


def test_what_a_killed_process_left_is_removed_where_there_is_no_model_too(a_store: Path) -> None:
    assert remove_leftovers("maisi-ct") == 0 and not a_store.exists()
    left, others = a_store / f".maisi-ct-{'a' * 32}", a_store / f".maisi-ct-ddpm-{'a' * 32}"
    for folder in (left, others):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"12345")
    assert remove_leftovers("maisi-ct") == 5
    assert list(a_store.iterdir()) == [others]


def test_a_removal_that_failed_is_told_where_and_can_be_repeated(
    a_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()

    def refuse(path: Path) -> None:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)  # as a folder without the right to write in it
        with pytest.raises(StorageError, match=r"\.maisi-ct-[0-9a-f]+ cannot be changed: Permission denied"):
            remove_stored("maisi-ct")
        with pytest.raises(StorageError, match="Permission denied"):
            remove_leftovers("maisi-ct")
    assert remove_leftovers("maisi-ct") > 0 and list(a_store.iterdir()) == []


def test_room_is_asked_for_before() -> None:
    require_room(1)
    with pytest.raises(StorageError, match=r"has no room: 1000000000.00 GB are needed") as caught:
        require_room(10**18)
    assert "DIFFUGTS_MODELS" in caught.value.hint


def test_sizes_are_read_by_people() -> None:
    assert (size_text(83_779_588), size_text(2.1e9)) == ("83.8 MB", "2.10 GB")
