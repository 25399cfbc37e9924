"""Anomaly-aware attention: shares that sum to 1, numbers worked by hand, and windows that make up a scan."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.aova import (
    ABNORMAL,
    ELSEWHERE,
    NORMAL,
    AovaHead,
    AovaMaps,
    Attention,
    ContextAdapter,
    MlpAdapter,
    attend,
    with_difference,
)
from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.interfaces import Encoding, LatentAutoencoder
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.backbones.weights import freeze
from DiffuGTSLib.backbones.windows import window_count
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import Cancelled, ConfigError

CHANNELS = (4, 6, 8)
DIM = 16
KINDS = [("mlp", "probability"), ("mlp", "logit"), ("context", "probability"), ("context", "logit")]


def a_head(adapter: str = "mlp", fuse: str = "probability", alpha: float = 0.1, *, elsewhere: bool = False) -> AovaHead:
    torch.manual_seed(0)
    head: AovaHead = AovaHead(
        CHANNELS, DIM, adapter=adapter, alpha=alpha, context_widths=(8, 16, 16, 16, 16), fuse=fuse, elsewhere=elsewhere
    )
    return head


def some_features(batch: int = 1, side: int = 16, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, *(3 * (side // 2**level,)), generator=draw)
        for level, channels in enumerate(CHANNELS)
    ]


def two_prompts(batch: int = 1) -> Tensor:
    rows = torch.randn(2, DIM, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(rows, dim=-1).expand(batch, 2, DIM)


@pytest.mark.parametrize(("adapter", "fuse"), KINDS)
def test_the_maps_are_shares_that_sum_to_1_over_the_prompts(adapter: str, fuse: str) -> None:
    attention = a_head(adapter, fuse)(some_features(2), two_prompts(2))
    assert attention.maps.shape == (2, 2, 16, 16, 16)
    assert attention.class_embeddings.shape == (2, 2, DIM) and attention.score_logits.shape == (2,)
    torch.testing.assert_close(attention.maps.sum(1), torch.ones(2, 16, 16, 16), rtol=0, atol=1e-6)
    assert attention.maps.min() >= 0 and attention.maps.std() > 1e-3
    torch.testing.assert_close(attention.log_maps.exp(), attention.maps, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("adapter", "fuse"), KINDS)
def test_prompts_that_say_the_same_share_every_voxel(adapter: str, fuse: str) -> None:
    same = two_prompts()[:, :1].expand(1, 2, DIM)
    maps = a_head(adapter, fuse)(some_features(), same).maps
    torch.testing.assert_close(maps, torch.full_like(maps, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fuse", ["probability", "logit"])
def test_prompts_that_change_places_change_the_maps(fuse: str) -> None:
    head, features = a_head("mlp", fuse), some_features()
    maps = head(features, two_prompts()).maps
    swapped = head(features, two_prompts().flip(1)).maps
    torch.testing.assert_close(swapped, maps.flip(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("adapter", "fuse"), KINDS)
def test_what_the_organ_has_not_of_a_voxel_is_elsewhere_and_the_prompts_share_the_rest(adapter: str, fuse: str) -> None:
    two, three = a_head(adapter, fuse), a_head(adapter, fuse, elsewhere=True)
    three.load_state_dict({**three.state_dict(), **two.state_dict()})
    with torch.no_grad():
        for linear in three.to_presence_keys:
            torch.nn.init.normal_(linear.get_parameter("weight"), generator=torch.Generator().manual_seed(2))
    shares, maps = two(some_features(2), two_prompts(2)).maps, three(some_features(2), two_prompts(2)).maps
    assert maps.shape == (2, 3, 16, 16, 16) and maps[:, ELSEWHERE].std() > 0.01
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 16, 16, 16), rtol=0, atol=1e-5)
    present = 1 - maps[:, ELSEWHERE : ELSEWHERE + 1]
    torch.testing.assert_close(maps[:, :ELSEWHERE], shares * present, rtol=0, atol=1e-5)


def test_a_head_begins_with_the_organ_nearly_everywhere() -> None:
    """1 / (1 + e^-3) = 0.9526: what a head knew before it may answer "elsewhere" is not lost."""
    maps = a_head(elsewhere=True)(some_features(), two_prompts()).maps
    torch.testing.assert_close(maps[:, ELSEWHERE], torch.full_like(maps[:, ELSEWHERE], 1 - 0.952574), rtol=0, atol=1e-6)


def test_where_the_organ_is_depends_on_the_healthy_sentence() -> None:
    head = a_head(elsewhere=True)
    with torch.no_grad():
        for linear in head.to_presence_keys:
            torch.nn.init.normal_(linear.get_parameter("weight"), generator=torch.Generator().manual_seed(2))
    one, other = (head(some_features(), prompts).maps for prompts in (two_prompts(), two_prompts().flip(1)))
    assert not torch.allclose(one[:, ELSEWHERE], other[:, ELSEWHERE], atol=1e-3)


def a_scripted_head(fuse: str) -> AovaHead:
    """Two levels of one channel and one voxel; the adapter is silenced, and keys are read off the prompts.

    Queries are 2 F in the first of four directions; the normal key is (1, -1, 1, -1), the abnormal one its opposite.
    """
    head: AovaHead = AovaHead((1, 1), 2, alpha=0.0, query_channels=4, fuse=fuse)
    key = torch.tensor([1.0, -1.0, 1.0, -1.0])
    weights = dict(head.named_parameters())
    with torch.no_grad():
        for level in range(2):
            weights[f"to_queries.{level}.weight"].zero_()
            weights[f"to_queries.{level}.weight"][0] = 2.0
            weights[f"to_keys.{level}.weight"].copy_(torch.eye(4))
            # The sentence itself comes first and scaled by √2; its step away from the mean is not looked at here.
            head.reducers[level] = reducer = torch.nn.Linear(4, 4, bias=False)
            reducer.weight.copy_(torch.stack([key, -key, 0 * key, 0 * key], dim=1) / 2**0.5)
    return head


def test_the_attention_of_one_voxel_worked_by_hand() -> None:
    """F = -1 and 0.5: q·k = 2 F (1) = -2 and 1, divided by √4 are -1 and 0.5 for normal, 1 and -0.5 for abnormal.

    Softmax over the prompts: 1 / (1 + e^-2) = 0.880797 and 1 / (1 + e^1) = 0.268941 abnormal; their mean is 0.574869.
    """
    features = [torch.full((1, 1, 1, 1, 1), value) for value in (-1.0, 0.5)]
    head = a_scripted_head("probability")
    logits = head.attention_logits(head.adapt(features), torch.eye(2)[None])
    for level, expected in zip(logits, ([-1.0, 1.0], [0.5, -0.5]), strict=True):
        assert level.flatten().tolist() == pytest.approx(expected)
    maps = head(features, torch.eye(2)[None]).maps.detach()
    assert float(maps[0, ABNORMAL]) == pytest.approx(0.574869, abs=1e-6)
    assert float(maps[0, NORMAL]) == pytest.approx(0.425131, abs=1e-6)


def test_the_attention_of_summed_logits_worked_by_hand() -> None:
    # -1 + 0.5 = -0.5 for normal and 0.5 for abnormal: 1 / (1 + e^-1) = 0.731059.
    features = [torch.full((1, 1, 1, 1, 1), value) for value in (-1.0, 0.5)]
    maps = a_scripted_head("logit")(features, torch.eye(2)[None]).maps.detach()
    assert float(maps[0, ABNORMAL]) == pytest.approx(0.731059, abs=1e-6)


def test_alpha_is_the_share_of_the_adapter() -> None:
    """Logits are linear in the adapted features: those of 0.3 lie between those of 0 and 1."""
    features, prompts = some_features(), two_prompts()
    logits = {}
    for alpha in (0.0, 0.3, 1.0):
        head = a_head(alpha=alpha)
        logits[alpha] = head.attention_logits(head.adapt(features), prompts)
    for none, some, all_of_it in zip(logits[0.0], logits[0.3], logits[1.0], strict=True):
        torch.testing.assert_close(some, 0.7 * none + 0.3 * all_of_it, rtol=0, atol=1e-5)
        assert not torch.allclose(none, all_of_it)


@pytest.mark.parametrize("adapter", [MlpAdapter(CHANNELS), ContextAdapter(CHANNELS, (8, 16, 16, 16, 16))])
@pytest.mark.parametrize("side", [16, 20, 12])
def test_adapters_leave_shapes_as_they_are(adapter: torch.nn.Module, side: int) -> None:
    features = some_features(side=side)
    assert [tuple(f.shape) for f in adapter(features)] == [tuple(f.shape) for f in features]


@pytest.mark.parametrize("widths", [(8, 16, 16), (8, 16, 16, 16)])
def test_as_many_widths_as_features_are_enough(widths: tuple[int, ...]) -> None:
    features = some_features()
    adapted = ContextAdapter(CHANNELS, widths)(features)
    assert [tuple(f.shape) for f in adapted] == [tuple(f.shape) for f in features]


def test_fewer_widths_than_features_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a context width for each of 3 feature levels, got 2"):
        AovaHead(CHANNELS, DIM, adapter="context", context_widths=(4, 8))


def test_an_mlp_sees_each_voxel_alone_and_a_context_its_surroundings() -> None:
    features = some_features()
    elsewhere = [feature.clone() for feature in features]
    for feature in elsewhere:
        feature[..., 0, 0, 0] += 5.0
    far = (..., -1, -1, -1)
    mlp, context = MlpAdapter(CHANNELS), ContextAdapter(CHANNELS, (8, 16, 16, 16, 16))
    assert torch.equal(mlp(features)[0][far], mlp(elsewhere)[0][far])
    assert not torch.equal(context(features)[0][far], context(elsewhere)[0][far])


@pytest.mark.usefixtures("an_unchecked_library")
@pytest.mark.parametrize("key", ["alpha", "feature_scale", "denoiser_scale"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, None, "x"])
def test_a_factor_that_is_no_number_of_its_range_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"expected an alpha of 0 to 1 and finite scales.*{key} {value!r}"):
        AovaHead(CHANNELS, DIM, **{key: value})


@pytest.mark.parametrize(("key", "value"), [("adapter", "conv"), ("fuse", "max")])
def test_an_unknown_adapter_or_fusion_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"AOVA head: adapter is 'mlp' or 'context'.*'{value}'"):
        AovaHead(CHANNELS, DIM, **{key: value})


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("adapter", ["mlp", "context"])
def test_the_gradient_reaches_all_of_the_head_and_nothing_else(adapter: str, elsewhere: bool) -> None:
    autoencoder = build_backbone(BackboneConfig(name="tiny")).autoencoder
    head = AovaHead(
        autoencoder.feature_channels, DIM, adapter=adapter, context_widths=(8, 16, 16, 16, 16), fuse="logit",
        elsewhere=elsewhere,
    )  # fmt: skip
    image, prompts = torch.rand(1, 1, 32, 32, 32), two_prompts()
    attention = head(autoencoder.encode(image).features, prompts)
    (attention.maps[:, ABNORMAL].mean() + attention.score_logits.sum()).backward()
    without = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert without == []
    assert isinstance(autoencoder, torch.nn.Module)
    assert all(parameter.grad is None for parameter in autoencoder.parameters())
    assert image.grad is None and prompts.grad is None


@pytest.fixture(scope="module")
def an_autoencoder() -> LatentAutoencoder:
    """Real and tiny."""
    return build_backbone(BackboneConfig(name="tiny")).autoencoder


@pytest.fixture(scope="module")
def a_fitting_head(an_autoencoder: LatentAutoencoder) -> AovaHead:
    """Untrained, for the tiny features."""
    torch.manual_seed(0)
    head: AovaHead = freeze(AovaHead(an_autoencoder.feature_channels, DIM))
    return head


@pytest.mark.parametrize("shape", [(32, 32, 32), (48, 32, 64), (80, 48, 16)])
def test_a_scan_is_seen_window_by_window(
    an_autoencoder: LatentAutoencoder, a_fitting_head: AovaHead, shape: tuple[int, int, int]
) -> None:
    calls: list[tuple[int, int]] = []
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    seen = attend(image, an_autoencoder, a_fitting_head, two_prompts()[0], 32, 0.25, lambda *call: calls.append(call))
    total = window_count(shape, [min(32, side) for side in shape], 0.25)
    assert calls == [(done, total) for done in range(1, total + 1)]
    assert seen.abnormal.shape == shape and seen.latent.shape == (1, 4, *(side // 4 for side in shape))
    assert seen.abnormal.min() >= 0 and seen.abnormal.max() <= 1 and 0 <= seen.anomaly_score <= 1
    assert not seen.abnormal.requires_grad


def test_one_window_gives_the_heads_own_map_latent_and_score(
    an_autoencoder: LatentAutoencoder, a_fitting_head: AovaHead
) -> None:
    image, prompts = torch.rand(1, 1, 32, 32, 32), two_prompts()
    with torch.inference_mode():
        encoding = an_autoencoder.encode(image)
        attention = a_fitting_head(encoding.features, prompts)
    seen = attend(image, an_autoencoder, a_fitting_head, prompts[0], 64, 0.25, lambda *_: None)
    torch.testing.assert_close(seen.abnormal, attention.maps[0, ABNORMAL], rtol=0, atol=1e-6)
    torch.testing.assert_close(seen.latent, encoding.latent, rtol=0, atol=1e-6)
    assert seen.anomaly_score == pytest.approx(float(attention.score_logits.sigmoid()))


@dataclasses.dataclass
class Mirror:
    """An autoencoder whose features are the picture itself: what a head says of them is known beforehand."""

    downsampling: int = 4
    latent_channels: int = 1
    feature_channels: tuple[int, ...] = (1,)
    feature_strides: tuple[int, ...] = (1,)

    def encode(self, image: Tensor) -> Encoding:
        """Return the picture as its own features."""
        return Encoding(torch.nn.functional.avg_pool3d(image, 4), (image,))

    def decode(self, latent: Tensor) -> Tensor:
        """Return the latent."""
        return latent


class Brightest(AovaHead):
    """A head that takes brightness for an anomaly: the map is the picture, the score logit its maximum."""

    def adapt(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the picture."""
        return list(features)

    def answer(self, adapted: Sequence[Tensor], prompts: Tensor) -> Attention:
        """Return the picture as the abnormal map."""
        bright = adapted[0]
        maps = torch.cat([1 - bright, bright], 1)
        return Attention(
            maps=maps,
            log_maps=maps.log(),
            class_embeddings=torch.zeros(1, 2, DIM),
            score_logits=bright.amax((1, 2, 3, 4)),
        )


def test_overlapping_windows_blend_into_one_map_and_the_most_suspicious_one_gives_the_score() -> None:
    image = torch.rand(1, 1, 80, 32, 48) * 0.5
    image[0, 0, 70, 5, 40] = 1.0
    seen = attend(image, Mirror(), Brightest((1,), DIM), two_prompts()[0], 32, 0.33, lambda *_: None)
    torch.testing.assert_close(seen.abnormal, image[0, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(seen.latent, torch.nn.functional.avg_pool3d(image, 4), rtol=0, atol=1e-6)
    assert seen.anomaly_score == pytest.approx(0.731059, abs=1e-6), "1 / (1 + e^-1), from one window of many"


def test_the_mirror_image_is_looked_at_too_and_averaged(
    an_autoencoder: LatentAutoencoder, a_fitting_head: AovaHead
) -> None:
    image = torch.rand(1, 1, 32, 32, 32)
    prompts = two_prompts()[0]
    plain, mirrored = (
        attend(each, an_autoencoder, a_fitting_head, prompts, 32, 0.25, lambda *_: None)
        for each in (image, image.flip(2))
    )
    both = attend(image, an_autoencoder, a_fitting_head, prompts, 32, 0.25, lambda *_: None, mirror=True)
    assert not torch.equal(plain.abnormal, mirrored.abnormal.flip(0))
    torch.testing.assert_close(both.abnormal, (plain.abnormal + mirrored.abnormal.flip(0)) / 2, rtol=0, atol=1e-6)
    assert both.anomaly_score == pytest.approx((plain.anomaly_score + mirrored.anomaly_score) / 2)
    assert torch.equal(both.latent, plain.latent), "the latent is the scan's own"


def test_cancelling_in_a_window_stops_there(an_autoencoder: LatentAutoencoder, a_fitting_head: AovaHead) -> None:
    def cancel(done: int, total: int) -> None:
        raise Cancelled(f"stopped after {done}")

    with pytest.raises(Cancelled, match="stopped after 1"):
        attend(torch.rand(1, 1, 64, 32, 32), an_autoencoder, a_fitting_head, two_prompts()[0], 32, 0.25, cancel)


@pytest.mark.parametrize("mirror", [False, True])
def test_where_the_organ_is_is_told_by_heads_that_can_say_elsewhere(
    an_autoencoder: LatentAutoencoder, a_fitting_head: AovaHead, mirror: bool
) -> None:
    """In one window: as the head answers, and with the mirror image the mean of both."""
    image, prompts = torch.rand(1, 1, 32, 32, 32), two_prompts()[0]

    def asked(head: AovaHead) -> AovaMaps:
        return attend(image, an_autoencoder, head, prompts, 32, 0.25, lambda *_: None, mirror)

    assert asked(a_fitting_head).organ is None
    head = freeze(AovaHead(an_autoencoder.feature_channels, DIM, elsewhere=True))
    for key in head.to_presence_keys:
        torch.nn.init.normal_(key.get_parameter("weight"))
    head.presence_bias.zero_()
    maps = asked(head)
    windows = [image, image.flip(2)] if mirror else [image]
    with torch.inference_mode():
        answers = [head(an_autoencoder.encode(window).features, prompts[None]).maps for window in windows]
    answers[1:] = [answer.flip(2) for answer in answers[1:]]
    mean = torch.stack(answers).mean(0)[0]
    assert maps.organ is not None and 0 < maps.organ.float().mean() < 1
    clear = (mean[2] - 0.5).abs() > 1e-5
    assert torch.equal(maps.organ[clear], (mean[2] < 0.5)[clear])
    torch.testing.assert_close(maps.abnormal, mean[1], rtol=0, atol=1e-5)


def test_sentences_come_with_their_step_away_from_the_mean() -> None:
    # (3, 4) and (3, -4): the mean is (3, 0), the steps are (0, 4) and (0, -4); unit length, times √2.
    given = with_difference(torch.tensor([[[3.0, 4.0], [3.0, -4.0]]]))
    expected = torch.tensor([[[0.6, 0.8, 0.0, 1.0], [0.6, -0.8, 0.0, -1.0]]]) * 2**0.5
    torch.testing.assert_close(given, expected)


def test_features_are_scaled_before_anything_else() -> None:
    features, prompts = some_features(), two_prompts()
    head = a_head("mlp", "probability")
    doubled = [2 * feature for feature in features]
    expected = head.attention_logits(head.adapt(doubled), prompts)
    head.register_to_config(feature_scale=2.0)
    for given, wanted in zip(head.attention_logits(head.adapt(features), prompts), expected, strict=True):
        torch.testing.assert_close(given, wanted)


def test_keys_are_carried_to_the_features_and_give_what_written_out_queries_give() -> None:
    """The fast path against the formula: Q = F' W_q, then Q Kᵀ / √d; within 1e-5 of logits of about 1."""
    head, prompts = a_head("context"), two_prompts(2)
    adapted = head.adapt(some_features(2))
    for level, given in enumerate(head.attention_logits(adapted, prompts)):
        query = head.to_queries[level](adapted[level])
        key = head.to_keys[level](head.reducers[level](with_difference(prompts)))
        plain = torch.einsum("bcxyz,bnc->bnxyz", query, key) / query.shape[1] ** 0.5
        torch.testing.assert_close(given, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mirror", [False, True])
def test_another_prompt_is_answered_without_encoding_and_bit_for_bit_as_afresh(
    an_autoencoder: LatentAutoencoder, a_fitting_head: AovaHead, mirror: bool
) -> None:
    image = torch.rand(1, 1, 48, 32, 48)
    memory = WindowMemory(64)
    other = two_prompts()[0].flip(0)
    looks = 4 * (2 if mirror else 1)

    def asked(prompts: Tensor, memory: WindowMemory | None) -> AovaMaps:
        return attend(image, an_autoencoder, a_fitting_head, prompts, 32, 0.25, lambda *_: None, mirror, memory=memory)

    for prompts, recalled in ((two_prompts()[0], 0), (other, looks), (two_prompts()[0], looks)):
        memory.begin("model")
        fresh, answered = asked(prompts, None), asked(prompts, memory)
        assert (memory.recalled, memory.made) == (recalled, looks - recalled)
        assert torch.equal(answered.abnormal, fresh.abnormal) and torch.equal(answered.latent, fresh.latent)
        assert answered.anomaly_score == fresh.anomaly_score
    assert not torch.equal(asked(two_prompts()[0], memory).abnormal, asked(other, memory).abnormal)
