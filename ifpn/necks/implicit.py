"""The implicit feature pyramid network: P* = G(P* + B) (paper Eq. 7)."""

import functools

from torch import Tensor, nn

from ifpn.csc import PyramidConv
from ifpn.necks.equilibrium import EquilibriumNeck, Policy
from ifpn.necks.neck import ExtraLevelsFrom
from ifpn.necks.projection import NormLayer
from ifpn.necks.transformation import CrossScale, Transformation


class ImplicitFPN(EquilibriumNeck):
    """The pyramid P* with P* = G(P* + B), where B is the projected backbone feature and P^0 = 0.

    G is a residual block per level and a cross-scale block (:class:`Transformation`, Eq. 8). It has the
    parameters of one block, and training stores the activations of one evaluation, however many the solver
    makes. Takes the place of ``torchvision.ops.FeaturePyramidNetwork`` in torchvision's detectors::

        neck = ImplicitFPN([512, 1024, 2048], 256)                                          # P3..P7
        neck = ImplicitFPN([256, 512, 1024, 2048], 256, extra_blocks=LastLevelMaxPool())    # P2..P5, pool

    Within one forward, weight norm is computed once, dropout masks are drawn once, and BatchNorm, if the csc
    has it, normalises each evaluation by its own batch and updates its running statistics once, in the last
    evaluation, which is at P* (:func:`ifpn.layers.solve_scope.solve_scope`). The head works on P*;
    on P* + B with ``add_input``.

    Args:
        in_channels_list: channels of the backbone levels, fine to coarse, each of half the size of the one
            before.
        out_channels: C of B and P.
        extra_blocks: a torchvision ``ExtraFPNBlock`` on P*, after the solve; the state then has no P6 and P7.
        norm_layer: called with C, follows the 1x1 convolutions that make B; None for none.
        csc: makes the cross-scale block, called ``csc(channels, num_levels)``.
        solver: ``Equilibrium(...)`` or ``Unroll(steps)``; None is ``Equilibrium()``, with the paper's budget of
            15 evaluations in training and 7 in evaluation. ``Unroll(T)`` gives P^T of the same G; ``Unroll(0)``
            gives B, as P^0 = 0 says nothing of the image (G is then unused and gets no gradient).
        extra_levels: B6 from the projected C5 (``"p5"``), from C5 (``"c5"``), or neither B6 nor B7
            (``"none"``).
        residual_block: residual blocks R_j in G (paper Table 3, RBL).
        weight_norm: weight norm on the convolutions of G (paper Sec. 4.2).
        dropout: rate of the variational dropout in the residual blocks (paper Sec. 4.2 names no rate).
        output_norm: GroupNorm on G's output: keeps the iteration bounded when training drives it apart.
        input_norm: GroupNorm with own parameters per level on B: puts B on the scale of P where the backbone's
            features are not of the order of 1 (EfficientNet-Lite's are near 8).
        add_input: the neck returns P* + B, the argument of G, instead of P*: a short way for the gradient from
            the head to the backbone.
        jacobian_penalty: weight of the estimated ||dG/dP||_F^2 / D at P* in ``auxiliary_losses["jacobian"]``.
        compile: ``torch.compile`` for the evaluations that search P*; the graded one stays eager.

    Raises:
        ValueError: for a G without parameters, rates or weights out of range, and a Jacobian penalty with
            deformable kernels (they have no second derivative).
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        csc: CrossScale = PyramidConv,
        solver: Policy | None = None,
        extra_levels: ExtraLevelsFrom = "p5",
        residual_block: bool = True,
        weight_norm: bool = True,
        dropout: float = 0.05,
        output_norm: bool = False,
        input_norm: bool = False,
        add_input: bool = False,
        jacobian_penalty: float = 0.0,
        compile: bool = False,
    ) -> None:
        super().__init__(
            in_channels_list,
            out_channels,
            extra_blocks,
            norm_layer,
            extra_levels=extra_levels,
            make_g=functools.partial(
                Transformation,
                csc=csc,
                residual_block=residual_block,
                weight_norm=weight_norm,
                dropout=dropout,
                output_norm=output_norm,
            ),
            solver=solver,
            jacobian_weight=jacobian_penalty,
            input_norm=input_norm,
            add_input=add_input,
            compile=compile,
        )

    def iterate(self, p: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        """G(P + B), Eq. 7."""
        return self.call_g([p_l + b_l for p_l, b_l in zip(p, b, strict=True)])
