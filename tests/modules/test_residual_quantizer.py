import math

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.modules.residual_quantizer import MAX_CODES, RQVAE, RQKMeans, load_quantizer, nearest_rows, pair_contrast

WIDTH, SIZES, CODE_WIDTH, ROWS = 12, (8, 5, 3), 6, 2500


def quantizer(kind):
    torch.manual_seed(0)
    made = RQKMeans(WIDTH, SIZES) if kind == "rq_kmeans" else RQVAE(WIDTH, SIZES, CODE_WIDTH)
    for level, codebook in enumerate(made.codebooks):
        torch.nn.init.normal_(codebook, std=1 / (level + 1))
    return made.eval()


def vectors(rows=ROWS):
    return torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)


def brute_force(made, points):
    """Codes by the definition, one vector at a time."""
    found = []
    for rest in made.project(points):
        own = []
        for codebook in made.codebooks:
            own.append(int((codebook.double() - rest).square().sum(1).argmin()))
            rest = rest - codebook.double()[own[-1]]
        found.append(own)
    return torch.tensor(found)


@pytest.mark.parametrize("kind", ["rq_kmeans", "rq_vae"])
def test_codes_equal_brute_force_in_any_batch_and_order(kind):
    made, points = quantizer(kind), vectors()
    codes = made.encode(points)
    assert (codes.dtype, tuple(codes.shape)) == (torch.int16, (ROWS, len(SIZES)))
    assert torch.equal(codes[:300].long(), brute_force(made, points[:300]))
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    assert torch.equal(made.encode(points[order]), codes[order])
    assert torch.equal(torch.cat([made.encode(points[at : at + 1]) for at in range(20)]), codes[:20])


def test_the_nearest_row_is_exact_where_float32_cannot_tell():
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(200, 16, generator=rng, dtype=torch.float64)
    # Two rows per point at almost the same distance, the second one nearer by far less than float32 resolves.
    away = torch.nn.functional.normalize(torch.randn(200, 16, generator=rng, dtype=torch.float64), dim=1)
    codebook = torch.cat([points + away, points - away * (1 - 1e-12)])
    for at in range(200):
        assert int(nearest_rows(points[at : at + 1], codebook[[at, 200 + at]])[0]) == 1
    same = torch.zeros(3, 16, dtype=torch.float64)
    assert nearest_rows(points, same).eq(0).all()


@pytest.mark.parametrize("kind", ["rq_kmeans", "rq_vae"])
def test_a_quantizer_survives_the_disk(kind, tmp_path):
    made = quantizer(kind)
    made.save(tmp_path)
    loaded = load_quantizer(tmp_path)
    assert type(loaded) is type(made)
    assert torch.equal(loaded.encode(vectors()), made.encode(vectors()))
    assert torch.equal(loaded.decode(loaded.encode(vectors())), made.decode(made.encode(vectors())))


def test_k_means_decodes_to_the_sum_of_its_rows():
    made = quantizer("rq_kmeans")
    expected = made.codebooks[0][7] + made.codebooks[1][0] + made.codebooks[2][2]
    assert torch.allclose(made.decode(torch.tensor([[7, 0, 2]], dtype=torch.int16))[0], expected)


def test_gradients_pass_straight_through_the_codes():
    made = quantizer("rq_vae")
    points = vectors(40)
    decoded, terms, codes = made(points, commitment=0.25)
    assert torch.equal(codes, made.encode(points).long())
    # The decoder reads the sum of codebook rows, and its gradient reaches the encoder as if nothing was quantized.
    assert torch.allclose(decoded, made.decode(codes), atol=1e-6)
    decoded.square().sum().backward(retain_graph=True)
    assert all(weight.grad is None for weight in made.codebooks)
    assert all(weight.grad.abs().sum() > 0 for weight in made.encoder.parameters())
    made.zero_grad()
    rest = made.encoder(points).detach()
    expected = 0
    for level, codebook in enumerate(made.codebooks):
        row = codebook.detach()[codes[:, level]]
        expected += 1.25 * (rest - row).square().sum(1)
        rest = rest - row
    assert torch.allclose(terms, expected, rtol=1e-5)
    terms.sum().backward()
    for level, codebook in enumerate(made.codebooks):
        unused = torch.ones(SIZES[level], dtype=torch.bool)
        unused[codes[:, level]] = False
        assert (codebook.grad[unused] == 0).all()
        assert codebook.grad[~unused].abs().sum() > 0


def test_the_contrast_of_pairs_equals_its_definition():
    first, second = vectors(6), vectors(12)[6:]
    items, partners = torch.tensor([1, 2, 3, 1, 5, 6]), torch.tensor([7, 8, 1, 9, 8, 10])
    found = pair_contrast(3 * first, second, items, partners, torch.tensor(0.1))
    losses = []
    for query, key, own, other in ((first, second, items, partners), (second, first, partners, items)):
        for i in range(6):
            # No negatives: the item of the own partner, and the own item.
            kept = [j for j in range(6) if j == i or (other[j] != other[i] and other[j] != own[i])]
            scores = {j: float(query[i] @ key[j]) / 0.1 for j in kept}
            losses.append(math.log(sum(map(math.exp, scores.values()))) - scores[i])
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("size", [0, MAX_CODES + 1])
def test_a_codebook_that_int16_cannot_count_is_refused(size):
    with pytest.raises(UserError, match=f"a codebook of {size} codes cannot be stored: .* 1 to 32767 are allowed"):
        RQKMeans(WIDTH, (8, size))


def test_a_damaged_quantizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no quantizer at .*run the quantize stage first"):
        load_quantizer(tmp_path)
    quantizer("rq_vae").save(tmp_path)
    config = tmp_path / "quantizer.json"
    config.write_text(config.read_text().replace(f'"width": {WIDTH}', f'"width": {WIDTH + 1}'))
    with pytest.raises(UserError, match="does not hold a complete quantizer"):
        load_quantizer(tmp_path)
