"""The vector quantiser: reference numbers, exact search, little memory, living codes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from voxlate.networks import VectorQuantizer, nearest_code

PEAK = """
import resource, sys, torch
from voxlate.networks import nearest_code
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
tokens = torch.randn(int(sys.argv[1]), 4, generator=generator)
codes = torch.randn(8192, 4, generator=generator)
nearest_code(tokens[:300], codes)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest_code(tokens, codes)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("legacy", [True, False])
def test_quantizer_equals_the_reference(legacy: bool, vectors_dir: Path) -> None:
    path = vectors_dir / "aldm_vector_quantizer2.npz"
    arrays = {key: torch.from_numpy(np.asarray(v)) for key, v in np.load(path).items()}
    name = "legacy" if legacy else "fixed"
    quantizer = VectorQuantizer(32, 4, legacy=legacy)
    with torch.no_grad():
        quantizer.codebook.copy_(arrays["w/embedding.weight"])
    latent = arrays["in/z"].clone().requires_grad_()
    found = quantizer(latent)
    torch.testing.assert_close(found.loss, arrays[f"out/loss_{name}"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.latent, arrays["out/z_q"], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.indices.flatten(), arrays["out/indices"])
    found.loss.backward(retain_graph=True)
    torch.testing.assert_close(latent.grad, arrays[f"grad/{name}_z"], rtol=1e-5, atol=1e-7)
    codebook = quantizer.codebook.grad
    torch.testing.assert_close(codebook, arrays[f"grad/{name}_emb"], rtol=1e-5, atol=1e-7)
    latent.grad = None
    (found.latent * arrays["in/up"]).sum().backward()
    torch.testing.assert_close(latent.grad, arrays["grad/st_z"], rtol=1e-6, atol=1e-7)


def test_beta_weighs_the_commitment_unless_legacy() -> None:
    latent = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    losses = {}
    for legacy in (False, True):
        quantizer = VectorQuantizer(8, 3, beta=0.25, legacy=legacy)
        torch.nn.init.normal_(quantizer.codebook, generator=torch.Generator().manual_seed(1))
        found = quantizer(latent)
        to_latent, to_codes = torch.autograd.grad(found.loss, [latent, quantizer.codebook])
        distance = 2 * (latent - found.latent) / latent.numel()
        share = 1.0 if legacy else 0.25
        torch.testing.assert_close(to_latent, share * distance)
        losses[legacy] = (found.loss, to_codes)
    torch.testing.assert_close(losses[False][0], losses[True][0])  # both are 1.25 * distance^2
    torch.testing.assert_close(losses[False][1], 4 * losses[True][1])


@pytest.mark.parametrize("chunk_entries", [1, 700, 1 << 21])
def test_chunked_search_equals_float64_brute_force(chunk_entries: int) -> None:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(501, 4, generator=generator)
    codes = torch.randn(97, 4, generator=generator)
    exact = (tokens.double()[:, None] - codes.double()[None]).square().sum(2).argmin(1)
    assert torch.equal(nearest_code(tokens, codes, chunk_entries), exact)


def test_float64_stays_float64() -> None:
    base = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    codes = torch.cat([base + 1e-6, base + 1e-7])
    assert nearest_code(base, codes).tolist() == [1]
    assert nearest_code(base, codes.flip(0)).tolist() == [0]


def test_codes_close_together_far_from_zero_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(6)
    tokens, codes = (torch.randn(n, 4, generator=generator) * 0.01 + 5 for n in (300, 2000))
    exact = (tokens.double()[:, None] - codes.double()[None]).square().sum(2).argmin(1)
    assert torch.equal(nearest_code(tokens, codes), exact)


def test_of_equal_codes_the_first_is_taken() -> None:
    codes = torch.tensor([[-1.0, 0.3], [1.0, 0.1], [1.0, 0.1]])
    assert nearest_code(torch.ones(5, 2), codes, 3).tolist() == [1] * 5


def test_autocast_changes_no_index() -> None:
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(1, 4, 8, 8, 8, generator=generator)
    quantizer = VectorQuantizer(2048, 4)
    torch.nn.init.normal_(quantizer.codebook, generator=generator)
    plain = quantizer(latent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(latent)
    assert torch.equal(cast.indices, plain.indices)
    assert torch.equal(cast.latent, plain.latent)
    half = quantizer(latent.bfloat16())
    assert half.latent.dtype == torch.float32
    assert torch.equal(half.indices, quantizer(latent.bfloat16().float()).indices)


def test_groups_of_channels_share_the_codebook() -> None:
    quantizer = VectorQuantizer(16, 2)
    torch.nn.init.normal_(quantizer.codebook)
    latent = torch.randn(2, 6, 3, 4)
    found = quantizer(latent)
    assert found.indices.shape == (2, 3, 4, 3)
    torch.testing.assert_close(quantizer.lookup(found.indices), found.latent)
    for index in range(3):
        alone = quantizer(latent[:, 2 * index : 2 * index + 2])
        assert torch.equal(alone.indices[..., 0], found.indices[..., index])
        torch.testing.assert_close(alone.latent, found.latent[:, 2 * index : 2 * index + 2])


def test_dead_codes_move_onto_latents_and_living_ones_stay() -> None:
    quantizer = VectorQuantizer(4, 2)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0, 0], [5, 5], [9, 9], [-7, 7]]))
    latent = torch.tensor([[0.0, 0.1], [5.0, 5.1]]).T.reshape(1, 2, 1, 2)
    for _ in range(5):
        quantizer.record_usage(quantizer(latent).indices)
    before = quantizer.codebook.detach().clone()
    moved = quantizer.revive_dead_codes(latent, generator=torch.Generator().manual_seed(4))
    assert moved == 2
    assert torch.equal(quantizer.codebook[:2], before[:2])
    rows = {tuple(row) for row in latent.movedim(1, -1).reshape(-1, 2).tolist()}
    assert {tuple(row) for row in quantizer.codebook[2:].tolist()} <= rows
    again = quantizer.revive_dead_codes(latent, generator=torch.Generator().manual_seed(4))
    assert again == 0


def test_first_revival_draws_the_whole_codebook_from_the_data_by_the_generator() -> None:
    latent = torch.randn(1, 3, 4, 4, 4) + 10
    books = []
    for _ in range(2):
        quantizer = VectorQuantizer(16, 3)
        generator = torch.Generator().manual_seed(5)
        assert quantizer.revive_dead_codes(latent, generator=generator) == 16
        books.append(quantizer.codebook.detach())
    assert torch.equal(*books)
    assert books[0].min() > 4


def test_usage_report_has_the_perplexity_of_what_was_recorded() -> None:
    quantizer = VectorQuantizer(8, 2)
    assert quantizer.usage_report() == {"codes_used": 0.0, "perplexity": 0.0}
    quantizer.record_usage(torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), decay=0.5)
    report = quantizer.usage_report()
    assert report["codes_used"] == 0.5
    assert report["perplexity"] == pytest.approx(4.0, rel=1e-5)
    assert "usage" not in quantizer.state_dict()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_script_equals_eager() -> None:
    quantizer = VectorQuantizer(32, 3).eval()
    latent = torch.randn(2, 6, 3, 2, 4)
    scripted, eager = torch.jit.script(quantizer)(latent), quantizer(latent)
    for ours, theirs in zip(scripted, eager, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_whole_volume_search_takes_little_memory() -> None:
    """48 x 48 x 36 tokens among 8192 codes: the distances alone would take 2.7 GB."""
    root = Path(__file__).parents[2]
    start = f"import runpy; runpy.run_path({str(root / 'conftest.py')!r})\n"
    command = [sys.executable, "-c", start + PEAK, str(48 * 48 * 36)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150 * 1024, run.stdout  # kB
