"""backbone.checkpointing=true: the same numbers and gradients from fewer kept activations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ifpn.backbones import TimmBackbone, efficientnet_lite0, resnet18

MAKERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "efficientnet_lite0": efficientnet_lite0,
    "timm": lambda weights, frozen, norm, checkpointing: TimmBackbone(
        "mobilenetv3_small_050", weights, frozen, norm, checkpointing
    ),
}


def step(backbone: nn.Module) -> tuple[Tensor, int]:
    """One training step's loss, and the bytes that its graph keeps beside parameters."""
    kept: dict[int, int] = {}
    own = {tensor.data_ptr() for tensor in (*backbone.parameters(), *backbone.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = backbone(images)["c5"].square().mean()
    loss.backward()
    return loss, sum(kept.values())


@pytest.mark.parametrize(("frozen_stages", "frozen_norm"), [(0, False), (2, True)])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.slow
def test_gradients_and_statistics_are_the_same_to_the_bit(name: str, frozen_stages: int, frozen_norm: bool) -> None:
    torch.manual_seed(0)
    plain, thrifty = (MAKERS[name]("none", frozen_stages, frozen_norm, checkpointing=c) for c in (False, True))
    thrifty.load_state_dict(plain.state_dict())
    (loss, kept), (again, kept_less) = step(plain.train()), step(thrifty.train())
    assert torch.equal(loss, again)
    for (key, p), q in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        assert p.requires_grad == q.requires_grad
        assert (p.grad is None) == (q.grad is None), key
        if p.grad is not None and q.grad is not None:
            assert torch.equal(p.grad, q.grad), key
    for key, value in plain.state_dict().items():  # running statistics moved once, not twice
        assert torch.equal(value, thrifty.state_dict()[key]), key
    assert kept_less < kept / 2
