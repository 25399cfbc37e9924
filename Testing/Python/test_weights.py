"""Model folders: what is written comes back bit for bit, and whatever does not fit is refused by name."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import DDPM_SCHEDULER, FLOW_SCHEDULER, build_backbone, maisi
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import (
    CHECKSUMS_FILE,
    WEIGHTS_FILE,
    freeze,
    load_module,
    load_strictly,
    read_model_json,
    save_module,
    verify_checksums,
    write_checksums,
)
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import StorageError, WeightsError
from DiffuGTSLib.storage import sha256, whole_file


def an_autoencoder(seed: int = 0) -> MaisiAutoencoder:
    torch.manual_seed(seed)
    part: MaisiAutoencoder = MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4, scaling_factor=1.5)
    return part


def a_unet() -> MaisiUNet:
    part: MaisiUNet = MaisiUNet(
        num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
        norm_num_groups=4, num_class_embeds=16, resblock_updown=False,
    )  # fmt: skip
    return part


@pytest.fixture
def a_part(tmp_path: Path) -> Path:
    """The folder of a small autoencoder."""
    save_module(an_autoencoder(), tmp_path / "autoencoder")
    return tmp_path / "autoencoder"


@pytest.fixture
def a_model(tmp_path: Path) -> Path:
    """A whole model folder, every part real and small."""
    model = tmp_path / "model"
    save_module(an_autoencoder(), model / "autoencoder")
    save_module(a_unet(), model / "denoiser")
    save_module(AovaHead((8, 8, 8), 384), model / "aova")
    (model / "scheduler").mkdir()
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(FLOW_SCHEDULER))
    (model / "model_index.json").write_text(json.dumps({"_class_name": "DiffuGTSPipeline", "prediction": "flow"}))
    write_checksums(model)
    return model


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_module_comes_back_bit_for_bit_with_its_configuration_and_frozen(a_part: Path) -> None:
    original, loaded = an_autoencoder(), load_module(MaisiAutoencoder, a_part)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in original.state_dict().items())
    assert loaded.config["scaling_factor"] == 1.5 and loaded.feature_channels == (8, 8, 8)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_halves_the_file_and_is_widened_to_the_same_numbers(a_part: Path, tmp_path: Path) -> None:
    original = an_autoencoder()
    save_module(original, tmp_path / "half", torch.float16)
    loaded = load_module(MaisiAutoencoder, tmp_path / "half").state_dict()
    for name, tensor in original.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float())
    sizes = [(folder / WEIGHTS_FILE).stat().st_size for folder in (tmp_path / "half", a_part)]
    assert sizes[0] < 0.6 * sizes[1], "half, and the names of the tensors"


def test_a_saved_module_that_is_loaded_and_saved_again_is_the_same_file(a_part: Path, tmp_path: Path) -> None:
    save_module(load_module(MaisiAutoencoder, a_part), tmp_path / "again")
    for name in ("config.json", WEIGHTS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (a_part / name).read_bytes()


def test_no_path_of_this_machine_is_written(a_part: Path, tmp_path: Path, an_unchecked_library: None) -> None:
    theirs = MaisiAutoencoder.from_pretrained(a_part, low_cpu_mem_usage=False)
    assert str(a_part) in theirs.to_json_string(), "diffusers notes where it was read from"
    save_module(theirs, tmp_path / "shared")
    written = (tmp_path / "shared" / "config.json").read_text()
    assert str(tmp_path) not in written and "_name_or_path" not in written
    load_module(MaisiAutoencoder, tmp_path / "shared")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such permissions there")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_permissions_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_module(an_autoencoder(), tmp_path / "part")
        write_checksums(tmp_path)
        assert os.umask(umask) == umask, "left as it was"
    finally:
        os.umask(before)
    for path in (tmp_path / "part" / WEIGHTS_FILE, tmp_path / "part" / "config.json", tmp_path / CHECKSUMS_FILE):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_a_failed_save_leaves_the_older_weights(a_part: Path) -> None:
    before = (a_part / WEIGHTS_FILE).read_bytes()
    with pytest.raises(StorageError), whole_file(a_part / WEIGHTS_FILE) as temporary:
        save_file({"half": torch.zeros(1)}, temporary)
        raise OSError(28, "No space left on device")
    assert (a_part / WEIGHTS_FILE).read_bytes() == before
    assert sorted(path.name for path in a_part.iterdir()) == ["config.json", WEIGHTS_FILE]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_came_apart_are_neither_written_nor_read(a_part: Path, value: float) -> None:
    before, apart = (a_part / WEIGHTS_FILE).read_bytes(), an_autoencoder()
    first = next(iter(apart.state_dict()))
    with torch.no_grad():
        apart.state_dict()[first].view(-1)[0] = value
    with pytest.raises(WeightsError, match=rf"1 tensors with infinite values or NaN \({first}\)") as caught:
        save_module(apart, a_part)
    assert caught.value.code == "weights_corrupt" and (a_part / WEIGHTS_FILE).read_bytes() == before
    rewrite(a_part / WEIGHTS_FILE, lambda tensors: tensors[first].view(-1)[0].fill_(value))
    with pytest.raises(WeightsError, match=rf"holds 1 tensors .* \({first}\)") as caught:
        load_module(MaisiAutoencoder, a_part)
    assert caught.value.code == "weights_corrupt"


def test_weights_that_half_precision_cannot_hold_are_not_written_in_it(tmp_path: Path) -> None:
    large = an_autoencoder()
    with torch.no_grad():
        next(large.parameters()).view(-1)[0] = 1e5
    with pytest.raises(WeightsError, match=r"in torch.float16 1 tensors with infinite values"):
        save_module(large, tmp_path / "half", torch.float16)
    assert not (tmp_path / "half").exists()


def test_missing_weights_are_named(a_part: Path) -> None:
    (a_part / WEIGHTS_FILE).unlink()
    with pytest.raises(WeightsError, match=rf"Weights are missing: .*{WEIGHTS_FILE}"):
        load_module(MaisiAutoencoder, a_part)


def test_a_folder_in_the_place_of_weights_is_a_weights_error(a_part: Path) -> None:
    (a_part / WEIGHTS_FILE).unlink()
    (a_part / WEIGHTS_FILE).mkdir()
    with pytest.raises(WeightsError, match=r"cannot be read"):
        load_module(MaisiAutoencoder, a_part)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_file_that_was_cut_off_is_refused(a_part: Path, kept: int) -> None:
    path = a_part / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"not a complete safetensors file") as caught:
        load_module(MaisiAutoencoder, a_part)
    assert "cut off" in caught.value.hint


def test_missing_tensors_are_counted_and_the_first_five_named(a_part: Path) -> None:
    names = sorted(load_file(a_part / WEIGHTS_FILE))
    rewrite(a_part / WEIGHTS_FILE, lambda tensors: list(map(tensors.pop, names[:7])))
    with pytest.raises(WeightsError) as caught:
        load_module(MaisiAutoencoder, a_part)
    assert f"7 tensors missing ({', '.join(names[:5])})" in caught.value.message
    assert names[5] not in caught.value.message


def test_unexpected_tensors_are_counted_and_the_first_five_named(a_part: Path) -> None:
    extra = {f"zz.{number}": torch.zeros(1) for number in range(6)}
    rewrite(a_part / WEIGHTS_FILE, lambda tensors: tensors.update(extra))
    with pytest.raises(WeightsError, match=r"6 tensors unexpected \(zz.0, zz.1, zz.2, zz.3, zz.4\)"):
        load_module(MaisiAutoencoder, a_part)


def test_a_misshapen_tensor_is_named_with_both_shapes(a_part: Path) -> None:
    name = "net.quant_conv_mu.conv.bias"
    rewrite(a_part / WEIGHTS_FILE, lambda tensors: tensors.update({name: torch.zeros(5)}))
    with pytest.raises(WeightsError, match=r"1 tensors of another shape \(net.quant_conv_mu.conv.bias: \(5,\) inste"):
        load_module(MaisiAutoencoder, a_part)


def test_all_three_faults_are_told_at_once_and_nothing_is_loaded() -> None:
    module = torch.nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(WeightsError) as caught:
        load_strictly(module, {"weight": torch.zeros(3, 2), "scale": torch.zeros(1)}, "here")
    assert caught.value.message == (
        "here does not fit Linear: 1 tensors missing (bias); 1 tensors unexpected (scale); "
        "1 tensors of another shape (weight: (3, 2) instead of (2, 2))."
    )
    assert torch.equal(module.weight, before)


def test_whole_numbers_stay_whole_numbers() -> None:
    module = torch.nn.BatchNorm1d(2)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    load_strictly(module, {**tensors, "num_batches_tracked": torch.tensor(7)}, "here")
    assert module.num_batches_tracked is not None and module.num_batches_tracked.dtype == torch.int64
    assert int(module.num_batches_tracked) == 7


def test_another_class_is_refused(a_part: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds a MaisiAutoencoder; expected a MaisiUNet"):
        load_module(MaisiUNet, a_part)


def test_a_key_that_this_version_does_not_know_is_refused(a_part: Path) -> None:
    edit(a_part / "config.json", norm_epsilon=0.1)
    with pytest.raises(WeightsError, match=r"MaisiAutoencoder does not know: norm_epsilon") as caught:
        load_module(MaisiAutoencoder, a_part)
    assert "another version" in caught.value.hint


def test_a_network_that_memory_has_no_room_for_is_not_blamed_on_its_description(
    a_part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(maisi, "AutoencoderKlMaisi", full)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_module(MaisiAutoencoder, a_part)


def test_values_that_describe_no_network_are_refused(a_part: Path, an_unchecked_library: None) -> None:
    edit(a_part / "config.json", num_channels=8)
    with pytest.raises(WeightsError, match=r"config.json describes no MaisiAutoencoder"):
        load_module(MaisiAutoencoder, a_part)
    edit(a_part / "config.json", num_channels=[])
    with pytest.raises(WeightsError, match=r"config.json describes no MaisiAutoencoder"):
        load_module(MaisiAutoencoder, a_part)
    edit(a_part / "config.json", num_channels=[8, 8, 8], norm_num_groups=0)
    with pytest.raises(WeightsError, match=r"config.json describes no MaisiAutoencoder"):
        load_module(MaisiAutoencoder, a_part)
    edit(a_part / "config.json", num_channels=[8, 8, 8], norm_num_groups=3)
    with pytest.raises(WeightsError, match=r"config.json describes no MaisiAutoencoder"):
        load_module(MaisiAutoencoder, a_part)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[1]", "expected an object, got list"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_garbage_in_the_place_of_json_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(WeightsError, match=said):
        read_model_json(tmp_path / "config.json")


def test_json_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config.json does not exist") as caught:
        read_model_json(tmp_path / "config.json")
    assert caught.value.code == "weights_missing"
    with pytest.raises(WeightsError, match=r"cannot be read"):
        read_model_json(tmp_path)


def test_checksums_are_those_of_the_files(a_model: Path) -> None:
    sums = verify_checksums(a_model)
    assert set(sums) == {f"{part}/{WEIGHTS_FILE}" for part in ("autoencoder", "denoiser", "aova")}
    assert sums[f"aova/{WEIGHTS_FILE}"] == sha256(a_model / "aova" / WEIGHTS_FILE)


def test_an_altered_file_is_refused_before_any_is_used(a_model: Path) -> None:
    path = a_model / "denoiser" / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(
        WeightsError, match=r"denoiser.*is not the file that checksums.json names: SHA-256 expected"
    ) as caught:
        build_backbone(BackboneConfig(folder=str(a_model)))
    assert caught.value.code == "weights_hash"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("autoencoder/config.json", {"scaling_factor": 3.0}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}),
        ("model_index.json", {"prediction": "epsilon"}),
    ],
)
def test_an_altered_description_is_refused_as_altered_weights_are(
    a_model: Path, name: str, values: dict[str, object]
) -> None:
    edit(a_model / name, **values)
    with pytest.raises(WeightsError, match=rf"{name} is not the file that checksums.json names") as caught:
        build_backbone(BackboneConfig(folder=str(a_model)))
    assert caught.value.code == "weights_hash"


def test_a_list_of_weights_alone_as_earlier_versions_wrote_it_still_holds(a_model: Path) -> None:
    whole, listed = verify_checksums(a_model), json.loads((a_model / CHECKSUMS_FILE).read_text())
    earlier = {name: digest for name, digest in listed.items() if name.endswith(".safetensors")}
    assert len(listed) == len(earlier) + 5
    (a_model / CHECKSUMS_FILE).write_text(json.dumps(earlier))
    assert verify_checksums(a_model) == whole == earlier


def test_a_file_without_checksum_is_refused(a_model: Path) -> None:
    sums = json.loads((a_model / CHECKSUMS_FILE).read_text())
    del sums[f"denoiser/{WEIGHTS_FILE}"]
    (a_model / CHECKSUMS_FILE).write_text(json.dumps(sums))
    with pytest.raises(WeightsError, match=r"checksums.json does not list denoiser/") as caught:
        verify_checksums(a_model)
    assert caught.value.code == "weights_hash"


def test_a_listed_file_that_is_missing_is_refused(a_model: Path) -> None:
    (a_model / "aova" / WEIGHTS_FILE).unlink()
    with pytest.raises(WeightsError, match=r"Weights are missing: .*aova"):
        verify_checksums(a_model)


def test_a_checksum_that_is_no_text_is_refused(a_model: Path) -> None:
    edit(a_model / CHECKSUMS_FILE, **{f"aova/{WEIGHTS_FILE}": 7})
    with pytest.raises(WeightsError, match=r"SHA-256 expected 7"):
        verify_checksums(a_model)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no model folder .*absent"):
        build_backbone(BackboneConfig(folder=str(tmp_path / "absent")))


def test_a_model_folder_of_ones_own_becomes_a_backbone(a_model: Path) -> None:
    backbone = build_backbone(BackboneConfig(folder=str(a_model)))
    assert backbone.folder == a_model and len(backbone.weights) == 3
    latent = torch.randn(1, 4, 4, 4, 4)
    with torch.inference_mode():
        assert backbone.denoiser(latent, 500.0, (2.0, 2.0, 2.0), "CT").clean.shape == latent.shape


def test_an_unknown_scheduler_is_refused(a_model: Path) -> None:
    edit(a_model / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler")
    write_checksums(a_model)
    with pytest.raises(WeightsError, match=r"Unknown noise scheduler 'PNDMScheduler'"):
        build_backbone(BackboneConfig(folder=str(a_model)))


@pytest.mark.parametrize(
    ("prediction", "scheduler"), [("v", FLOW_SCHEDULER), ("flow", DDPM_SCHEDULER), ("epsilon", FLOW_SCHEDULER)]
)
def test_a_prediction_that_does_not_go_with_the_schedule_is_refused(
    a_model: Path, prediction: str, scheduler: dict[str, object]
) -> None:
    edit(a_model / "model_index.json", prediction=prediction)
    (a_model / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    write_checksums(a_model)
    with pytest.raises(WeightsError, match=rf"predicts '{prediction}' does not go with a") as caught:
        build_backbone(BackboneConfig(folder=str(a_model)))
    assert "model_index.json" in caught.value.hint


def test_noise_predictions_go_with_ddim(a_model: Path) -> None:
    edit(a_model / "model_index.json", prediction="epsilon")
    (a_model / "scheduler" / "scheduler_config.json").write_text(json.dumps(DDPM_SCHEDULER))
    write_checksums(a_model)
    backbone = build_backbone(BackboneConfig(folder=str(a_model)))
    assert backbone.schedule.levels(backbone.schedule.timesteps(10, 64)[-1]) == (1.0, 0.0)


def test_a_frozen_module_neither_trains_nor_drops() -> None:
    part = freeze(an_autoencoder())
    assert not part.training and not any(parameter.requires_grad for parameter in part.parameters())
