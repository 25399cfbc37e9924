"""The presets of published models against what is known of them: grids, intensities, class codes, text model, schedule."""

import pytest
import torch

from DiffuGTSLib.backbones import DDPM_SCHEDULER, FLOW_SCHEDULER, PUBLISHED
from DiffuGTSLib.backbones.maisi import PUBLISHED_UNETS, MaisiUNet
from DiffuGTSLib.backbones.schedules import DdimSchedule, FlowSchedule, build_schedule
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError
from DiffuGTSLib.model_store.manifest import catalog
from DiffuGTSLib.pipeline import load_components, segment
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes.canonical import canonical_grid
from DiffuGTSLib.volumes.volume import Geometry, Volume

CODES = {"maisi-ct": {"CT": 1}, "maisi-ct-ddpm": {"CT": 1}, "maisi-mr-brain": {"MR": 8}, "maisi-mr": {"MR": 8}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_follows_its_model(name: str) -> None:
    config = load_config(name)
    assert config.backbone.name == name and config.backbone.class_label == CODES[name]
    assert config.canonical.ct_knots_hu == (-1000, 1000) and config.canonical.ct_knots_unit == (0, 1)
    assert config.canonical.mr_percentiles == (0, 99.5) and not config.canonical.mr_clip
    assert config.canonical.fit_multiple == 128 and config.text.encoder == "clinicalbert"
    assert config.inpainting.steps == (100 if name == "maisi-ct-ddpm" else 30)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_has_an_entry_among_the_weights(name: str) -> None:
    model = catalog()[name]
    assert model.prediction == ("epsilon" if name == "maisi-ct-ddpm" else "flow")
    free = all(license_.commercial for license_ in model.licenses)
    assert free == (name != "maisi-mr"), "of the general MR model, both files are for research only"


@pytest.mark.parametrize(
    ("extent_mm", "expected"),
    [((384, 384, 300), (256, 256, 256)), ((200, 200, 100), (256, 256, 128)), ((700, 700, 1200), (512, 512, 768))],
)
def test_a_ct_is_laid_whole_on_the_grids_that_maisi_knows(
    extent_mm: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    scan = Geometry.from_spacing(extent_mm, (1.0, 1.0, 1.0))
    grid, inside = canonical_grid(scan, load_config("maisi-ct").canonical)
    assert grid.shape == expected and grid.extent_mm == pytest.approx(extent_mm)
    assert inside == tuple((0, side) for side in expected), "nothing is padded"


def test_a_minimum_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"canonical.fit_minimum_xy: expected 0 or a multiple"):
        load_config("maisi-ct", overrides=["canonical.fit_minimum_xy=200"])


def test_a_modality_that_the_denoiser_does_not_know_is_refused_at_the_door() -> None:
    config = load_config("tiny", overrides=['backbone.class_label={"CT": 1}'])
    scan = Volume(torch.rand(40, 40, 40).numpy(), Geometry.from_spacing((40, 40, 40), (4.0, 4.0, 4.0)), "MR")
    with pytest.raises(InputError, match=r"The denoiser of 'tiny' knows CT, not MR") as caught:
        segment(scan, organ_prompts("liver", "MR"), load_components(config, allow_untrained=True), config)
    assert caught.value.code == "modality" and "diffugts presets" in caught.value.hint


def test_strided_ddpm_is_walked_as_ddim_and_monais_way_is_refused() -> None:
    """MONAI's DDPM step takes t - 1 for the predecessor, whatever the stride."""
    assert isinstance(build_schedule(DDPM_SCHEDULER), DdimSchedule)
    assert isinstance(build_schedule(FLOW_SCHEDULER), FlowSchedule)
    with pytest.raises(WeightsError, match="Unknown noise scheduler 'DDPMScheduler'"):
        build_schedule({**DDPM_SCHEDULER, "_class_name": "DDPMScheduler"})


def test_the_ddpm_network_is_told_the_body_from_head_to_pelvis_and_hundredfold_spacing() -> None:
    unet = MaisiUNet(
        num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
        norm_num_groups=4, **PUBLISHED_UNETS["maisi-ct-ddpm"],
    )  # fmt: skip
    told: dict[str, torch.Tensor] = {}

    def hear(_module: torch.nn.Module, _arguments: object, keywords: dict[str, torch.Tensor]) -> None:
        told.update(keywords)

    unet.net.register_forward_pre_hook(hear, with_kwargs=True)
    unet(torch.rand(1, 4, 8, 8, 8), torch.tensor([500.0]), torch.tensor([[1.5, 1.5, 2.0]]), torch.tensor([1]))
    assert told["top_region_index_tensor"].tolist() == [[100, 0, 0, 0]]
    assert told["bottom_region_index_tensor"].tolist() == [[0, 0, 0, 100]]
    assert told["spacing_tensor"].tolist() == [[150, 150, 200]] and "class_labels" not in told
