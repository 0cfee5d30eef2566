"""The denoiser: the reference's parts, any size, any batch, each option against a plain equal."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.networks.aldm_denoiser import aldm_denoiser
from voxlate.networks.blocks import group_norm
from voxlate.networks.denoiser import Denoiser
from voxlate.networks.haar import haar_merge, haar_split
from voxlate.networks.resnet import TimeResBlock, timestep_embedding

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


BALANCE = {"levels": [False, True, True], "head_channels": 4}
GUIDANCE = {"text_channels": 6, "head_channels": 4}


def denoiser(**options: Any) -> Denoiser:
    """A small one, with noise in the layers that start at zero."""
    torch.manual_seed(0)
    defaults = {"latent_channels": 2, "concat_channels": 4, "channels": (8, 8, 16)}
    net = Denoiser(**{"num_head_channels": 4, "norm_groups": 4, **defaults, **options}).eval()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


def arguments(*size: int, batch: int = 2, options: Any = ()) -> dict[str, Tensor]:
    """What a denoiser with these options is given."""
    generator = torch.Generator().manual_seed(1)
    text = {
        "text": torch.randn(batch, 5, 6, generator=generator),
        "text_mask": torch.arange(5) < torch.tensor([[3], [5], [1], [4]])[:batch],
    }
    return (text if "knowledge_guidance" in options else {}) | {
        "x_t": torch.randn(batch, 2, *size, generator=generator),
        "timesteps": torch.tensor([3, 996, 500, 0])[:batch],
        "concat": torch.randn(batch, 4, *size, generator=generator),
        "modality": torch.tensor([2, 0, 3, 2])[:batch],
    }


@pytest.fixture(scope="module")
def parts(vectors_dir: Path) -> dict[str, Tensor]:
    with np.load(vectors_dir / "aldm_unet_parts.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.mark.parametrize(("kind", "width"), [("res", 64), ("film", 32)])
def test_res_block_is_the_references(parts: dict[str, Tensor], kind: str, width: int) -> None:
    block = TimeResBlock(3, 32, width, 64, scale_shift=kind == "film")
    names = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1"}
    names |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "shortcut": "skip_connection"}
    weights = {
        key: parts[f"w_{kind}/{names[key.split('.')[0]]}.{key.split('.')[1]}"]
        for key in block.state_dict()
    }
    block.load_state_dict(weights)
    out = block(parts["in/x"], parts["in/emb"])
    torch.testing.assert_close(out, parts[f"out/{kind}"], **TOLERANCE)


@pytest.mark.parametrize("channels", [32, 33])
def test_timestep_embedding_is_the_references(parts: dict[str, Tensor], channels: int) -> None:
    out = timestep_embedding(parts["in/t"], channels)
    torch.testing.assert_close(out, parts[f"out/temb{channels}"], rtol=1e-6, atol=1e-6)


def test_timestep_embedding_is_cosines_then_sines_of_fractional_times() -> None:
    angles = [12.5 * 10000 ** (-i / 3) for i in range(3)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    torch.testing.assert_close(
        timestep_embedding(torch.tensor([12.5]), 6)[0], torch.tensor(expected)
    )


def test_presets_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        repo = aldm_denoiser("repo")
        paper = aldm_denoiser("paper")
        code_at_paper_size = Denoiser(channels=(128, 256, 512), num_res_blocks=2)
    count = [sum(p.numel() for p in net.parameters()) for net in (repo, code_at_paper_size)]
    assert [round(c / 1e6, 1) for c in count] == [33.2, 166.5]
    assert paper.conv_in.in_channels == 6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modality_conditioning": "cross_attention"},
        {
            "modality_conditioning": "spatial_transformer",
            "channels": (32, 32),
            "attention_levels": (True, True),
        },
        {"stem_levels": 1},
        {"use_scale_shift_norm": True, "num_res_blocks": 2},
        {"swin": {"window_size": 2, "mlp_ratio": 2.0}, "num_res_blocks": 2},
        {"frequency_balance": BALANCE},
        {"knowledge_guidance": GUIDANCE},
        {"frequency_balance": BALANCE, "knowledge_guidance": {**GUIDANCE, "bands": ["low"]}},
    ],
    ids=[
        "embedding",
        "cross attention",
        "transformer",
        "stem",
        "scale shift",
        "swin",
        "frequency balance",
        "knowledge guidance",
        "both",
    ],
)
class TestEveryKind:
    def test_batch_equals_one_by_one_in_any_order(self, options: dict[str, Any]) -> None:
        net, given = denoiser(**options), arguments(4, 8, 5, batch=4, options=options)
        with torch.no_grad():
            together = net(**given)
            for order in ([0], [2], [3, 1, 0, 2]):
                some = net(**{name: value[order] for name, value in given.items()})
                torch.testing.assert_close(some, together[order], **TOLERANCE)

    def test_every_argument_matters(self, options: dict[str, Any]) -> None:
        net, given = denoiser(**options), arguments(4, 8, 8, options=options)
        with torch.no_grad():
            out = net(**given)
            for name, value in given.items():
                shifted = value.flip(0) if name in ("modality", "text_mask", "text") else value + 1
                changed = net(**{**given, name: shifted})
                assert (changed - out).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3, name

    def test_every_parameter_learns(self, options: dict[str, Any]) -> None:
        net = denoiser(**options)
        net(**arguments(8, 8, 8, options=options)).square().sum().backward()
        for name, parameter in net.named_parameters():
            one_token = "cross_attention" in name and (
                ".q." in name or ".k." in name or ".norm" in name
            )  # queries and keys of a single token cannot matter
            assert one_token or parameter.grad.any(), name

    def test_script_trace_and_export_agree(self, options: dict[str, Any]) -> None:
        net, given = denoiser(**options), arguments(4, 8, 5, options=options)
        other = arguments(4, 8, 5, options=options)
        other["modality"] = torch.tensor([1, 1])
        with torch.no_grad():
            expected = net(**given)
            if "swin" not in options:
                torch.testing.assert_close(torch.jit.script(net)(**given), expected)
            traced = torch.jit.trace(net, example_kwarg_inputs=other, check_trace=False)
            torch.testing.assert_close(traced(**given), expected)
            exported = torch.export.export(net, (), other).module()
            torch.testing.assert_close(exported(**given), expected)

    def test_starts_by_predicting_zero(self, options: dict[str, Any]) -> None:
        net = Denoiser(
            3,
            2,
            4,
            **{"channels": (32, 32, 32), "attention_levels": (False, False, True), **options},
        )
        assert not net(**arguments(4, 4, 4, options=options)).any()

    def test_checkpointing_changes_no_gradient(self, options: dict[str, Any]) -> None:
        gradients = []
        for use_checkpoint in (False, True):
            net = denoiser(**options, use_checkpoint=use_checkpoint).train()
            net(**arguments(4, 4, 8, options=options)).square().sum().backward()
            gradients.append([parameter.grad for parameter in net.parameters()])
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 6, 7)])
@pytest.mark.parametrize("stem", [0, 1])
def test_switching_blocks_on_changes_no_bit_of_a_trained_denoiser(
    size: tuple[int, ...], stem: int
) -> None:
    common = {"spatial_dims": len(size), "stem_levels": stem}
    trained, given = denoiser(**common), arguments(*size)
    options = {"frequency_balance": BALANCE, "knowledge_guidance": GUIDANCE}
    net = Denoiser(
        **{"latent_channels": 2, "concat_channels": 4, "channels": (8, 8, 16)},
        **{"num_head_channels": 4, "norm_groups": 4, **common, **options},
    ).eval()
    found = net.load_state_dict(trained.state_dict(), strict=False)
    assert not found.unexpected_keys and found.missing_keys
    assert all(".balances." in k or k.startswith("guidance.") for k in found.missing_keys)
    with torch.no_grad():
        out = net(**arguments(*size, options=options))
        assert torch.equal(out, trained(**given))
        for name, parameter in net.named_parameters():
            if ".out." in name and name in found.missing_keys:
                nn.init.normal_(parameter)
        assert not torch.equal(net(**arguments(*size, options=options)), out)


def test_blocks_stand_where_the_paper_has_them() -> None:
    net = denoiser(frequency_balance=BALANCE, knowledge_guidance=GUIDANCE)
    kinds = [[type(part).__name__ for part in level.balances] for level in net.up]
    assert kinds == [["FrequencyBalance"] * 2, ["FrequencyBalance"] * 2, ["Identity"] * 2]
    assert net.text_channels == 6
    seen: list[int] = []
    for level in net.up:
        for balance in level.balances:
            balance.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    net(**arguments(8, 8, 8, options={"knowledge_guidance"}))
    assert seen == [16, 16, 16, 8, 8, 8]  # before the skip's channels join


def test_swin_stands_after_the_first_block_of_its_levels_and_in_the_middle() -> None:
    options = {"num_res_blocks": 2, "attention_levels": (False, True, False)}
    net = denoiser(swin={"window_size": 2, "embed_channels": 12}, **options)
    layers = [layer for part in (*net.down, *net.up) for layer in part.layers]
    kinds = [type(layer.attention).__name__ for layer in (*layers, *net.middle)]
    down, up = ["NoneType"] * 6, ["NoneType"] * 9
    down[2] = up[3] = "SwinLayer"
    assert kinds == [*down, *up, "SwinLayer", "NoneType"]
    assert net.down[1].layers[0].attention.embed.out_channels == 12
    plain = {name for name in denoiser(**options).state_dict() if ".attention." not in name}
    assert plain == {name for name in net.state_dict() if ".attention." not in name}


@pytest.mark.parametrize("dims", [2, 3])
def test_swin_takes_maps_that_windows_do_not_divide(dims: int) -> None:
    """A 192 x 192 slice at its lowest levels is 12 and 6 wide: no multiple of a window of 8."""
    size = (12, 10, 5)[:dims]
    net = denoiser(swin={"window_size": 4}, attention_levels=(True, True, True), spatial_dims=dims)
    given = arguments(*size)
    with torch.no_grad():
        assert net(**given).shape == given["x_t"].shape


def test_lambda_by_depth_counts_the_blocks_from_the_bottom_up() -> None:
    net = denoiser(frequency_balance={**BALANCE, "lambda_init": None})
    starts = [block.bands.high.lambda_init for level in net.up[:2] for block in level.balances]
    assert starts == pytest.approx([0.8 - 0.6 * math.exp(-0.3 * depth) for depth in range(4)])


def test_text_that_does_not_fit_is_refused() -> None:
    net, given = denoiser(knowledge_guidance=GUIDANCE), arguments(4, 4, 4)
    for change, message in (
        ({}, "reads text of 6 channels, got None"),
        ({"text": torch.zeros(2, 5, 7)}, "text must have shape"),
        ({"text": torch.zeros(1, 5, 6)}, "text must have shape"),
        ({"text": torch.zeros(2, 5, 6), "text_mask": torch.ones(2, 5)}, "text_mask must be bool"),
        ({"text": torch.zeros(2, 5, 6), "text_mask": torch.ones(2, 4) > 0}, "text_mask must be"),
    ):
        with pytest.raises(ValueError, match=message):
            net(**given, **change)


@pytest.mark.parametrize("stem", [0, 1])
@pytest.mark.parametrize("size", [(9, 10), (5, 9, 10), (1, 8, 3)])
def test_odd_sizes_are_padded_by_repetition_and_cropped(size: tuple[int, ...], stem: int) -> None:
    net, given = denoiser(spatial_dims=len(size), stem_levels=stem), arguments(*size)
    multiple = 4 * 2**stem
    padding = [p for length in reversed(size) for p in (0, -length % multiple)]
    padded = dict(given)
    for name in ("x_t", "concat"):
        padded[name] = F.pad(given[name], padding, mode="replicate")
    with torch.no_grad():
        whole, out = net(**padded), net(**given)
    assert all(length % multiple == 0 for length in whole.shape[2:])
    assert out.shape == given["x_t"].shape
    index = (..., *(slice(length) for length in size))
    torch.testing.assert_close(out, whole[index], **TOLERANCE)


def test_stem_runs_the_unet_on_sub_bands() -> None:
    stem, given = denoiser(stem_levels=1), arguments(8, 8, 16)
    inner = denoiser(latent_channels=16, concat_channels=32)
    inner.load_state_dict(stem.state_dict())
    bands = haar_split(torch.cat([given["x_t"], given["concat"]], dim=1))
    with torch.no_grad():
        expected = inner(bands[:, :16], given["timesteps"], bands[:, 16:], given["modality"])
        torch.testing.assert_close(stem(**given), haar_merge(expected), **TOLERANCE)


def test_noisy_latent_comes_first_or_last() -> None:
    first, last, given = denoiser(), denoiser(noisy_first=False), arguments(4, 4, 4)
    weights = first.state_dict()
    noisy, concat = weights["conv_in.weight"].split([2, 4], dim=1)
    last.load_state_dict({**weights, "conv_in.weight": torch.cat([concat, noisy], dim=1)})
    with torch.no_grad():
        torch.testing.assert_close(first(**given), last(**given), **TOLERANCE)


@pytest.mark.parametrize("kind", ["embedding", "cross_attention"])
def test_one_hot_weights_are_the_index(kind: str) -> None:
    net, given = denoiser(modality_conditioning=kind), arguments(4, 4, 4)
    weights = F.one_hot(given["modality"], 4).float()
    with torch.no_grad():
        torch.testing.assert_close(net(**given), net(**{**given, "modality": weights}))


def test_denoiser_without_condition_or_modality() -> None:
    net, given = denoiser(concat_channels=0, num_modalities=0), arguments(4, 4, 4)
    x_t, timesteps = given["x_t"], given["timesteps"]
    with torch.no_grad():
        out = net(x_t, timesteps)
        torch.testing.assert_close(net(x_t, timesteps, concat=x_t[:, :0]), out)
        torch.testing.assert_close(net(x_t[:1], torch.tensor(3)), out[:1], **TOLERANCE)


def test_bfloat16_channels_last_stays_close_to_float32() -> None:
    net, given = denoiser(channels=(32, 48, 64), num_head_channels=16), arguments(12, 12, 9)
    with torch.no_grad():
        expected = net(**given)
        net = net.to(memory_format=torch.channels_last_3d)
        for name in ("x_t", "concat"):
            given[name] = given[name].to(memory_format=torch.channels_last_3d)
        assert (net(**given) - expected).norm() < 1e-5 * expected.norm()
        with torch.autocast("cpu", torch.bfloat16):
            out = net(**given).float()
    assert (out - expected).norm() < 2e-2 * expected.norm()


def test_group_norm_keeps_float32_statistics_under_bfloat16() -> None:
    """A large offset that bfloat16 sums would drown: the variance must survive."""
    torch.manual_seed(0)
    x = (torch.randn(1, 8, 24, 24, 24) + 20).bfloat16()
    norm = group_norm(8, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    torch.testing.assert_close(out.float(), norm(x.float()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (80, 20), (8, 8), (48, 24), (31, 31)])
def test_group_norm_takes_the_most_groups_that_divide(channels: int, groups: int) -> None:
    assert group_norm(channels, 32).num_groups == groups


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x_t", torch.zeros(2, 3, 4, 4, 4), "x_t must have 2 channels and 3 spatial axes"),
        ("x_t", torch.zeros(2, 2, 4, 4), "x_t must have 2 channels and 3 spatial axes"),
        ("timesteps", torch.zeros(3), r"timesteps must have shape \(2,\) or \(\), got \(3,\)"),
        ("concat", None, r"concat must have shape \(2, 4, 4, 4, 4\), got None"),
        ("concat", torch.zeros(2, 2, 4, 4, 4), "concat must have shape"),
        ("concat", torch.zeros(2, 4, 4, 4, 8), "concat must have shape"),
        ("modality", None, "knows 4 modalities, got modality None"),
        ("modality", torch.tensor([0, 4]), r"must lie in 0\.\.3, got \[0, 4\]"),
        ("modality", torch.zeros(2, 3), "modality must have shape"),
        ("text", torch.zeros(2, 5, 8), r"reads no text, got text of shape \(2, 5, 8\)"),
        ("text_mask", torch.ones(2, 5) > 0, "text_mask must be bool of shape None"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    name: str, value: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        denoiser()(**{**arguments(4, 4, 4), name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8)}, "differ in length"),
        ({"num_head_channels": (4, 4)}, "differ in length"),
        ({"modality_conditioning": "text"}, "must be in"),
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3"),
        ({"num_head_channels": 5}, "no multiple of head_channels"),
        ({"swin": {"window_size": 0}}, "window_size and depth must be at least 1"),
        ({"knowledge_guidance": {}}, "knowledge_guidance needs text_channels"),
        ({"knowledge_guidance": {**GUIDANCE, "dims": 3}}, "no option dims; there are bands"),
        ({"frequency_balance": {**BALANCE, "levels": [True]}}, "frequency_balance .* differ"),
        ({"frequency_balance": {"bands": ["low"]}}, "frequency_balance names no level"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        denoiser(**options)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="no denoiser preset 'huge'"):
        aldm_denoiser("huge")


def refiner(concat_channels: int, scale: float = 1.0) -> Denoiser:
    return Denoiser(
        latent_channels=2,
        concat_channels=concat_channels,
        channels=(8, 8),
        attention_levels=(False, False),
        num_head_channels=8,
        norm_groups=4,
        refine_concat=True,
        refine_scale=scale,
    )


def test_untrained_refiner_returns_the_last_latent_of_concat() -> None:
    concat = torch.randn(1, 4, 5, 6, 7)
    x_t, time, modality = torch.randn(1, 2, 5, 6, 7), torch.tensor([3]), torch.tensor([1])
    torch.testing.assert_close(
        refiner(4)(x_t, time, concat, modality), concat[:, 2:], rtol=0, atol=0
    )


def test_refine_scale_shrinks_the_change_to_the_prior() -> None:
    concat = torch.randn(1, 4, 4, 4, 4)
    x_t, time, modality = torch.randn(1, 2, 4, 4, 4), torch.tensor([3]), torch.tensor([1])
    whole, part = refiner(4), refiner(4, 0.25)
    torch.nn.init.normal_(whole.conv_out.weight)
    part.load_state_dict(whole.state_dict())
    change = whole(x_t, time, concat, modality) - concat[:, 2:]
    torch.testing.assert_close(part(x_t, time, concat, modality), concat[:, 2:] + 0.25 * change)


def test_refiner_needs_something_to_refine() -> None:
    with pytest.raises(ValueError, match="refine_concat needs concat_channels"):
        refiner(0)
