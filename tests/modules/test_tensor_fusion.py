import torch
import torch.nn.functional as F

from coldstart.modules.tensor_fusion import TensorFusion


def fusion() -> TensorFusion:
    torch.manual_seed(0)
    return TensorFusion(8, reduced=4)


def vectors(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_it_reads_the_outer_product_of_both_modalities_with_ones():
    module, image, text = fusion(), vectors(1), vectors(2)
    for row in range(5):
        left = torch.cat([module.image.weight @ image[row] * 8**0.5, torch.ones(1)])
        right = torch.cat([module.text.weight @ text[row] * 8**0.5, torch.ones(1)])
        wanted = F.normalize(module.mlp(torch.outer(left, right).flatten()), dim=0)
        torch.testing.assert_close(module(image, text)[row], wanted)


def test_without_an_image_it_depends_on_the_text_only():
    module, nothing = fusion(), torch.zeros(5, 8)
    assert torch.equal(module(nothing, vectors(2)), module(0 * vectors(1), vectors(2)))
    assert not torch.allclose(module(nothing, vectors(2)), module(nothing, vectors(3)))
    assert torch.equal(module(nothing, nothing)[0], module(nothing, nothing)[1])


def test_outputs_have_unit_norm():
    torch.testing.assert_close(fusion()(vectors(1), vectors(2)).norm(dim=-1), torch.ones(5))
