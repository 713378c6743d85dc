"""Prints parameters and multiply-adds of the blocks and necks.

python -m reproduce.neck_costs                                       # the table at 800 x 1344, 256 channels
python -m reproduce.neck_costs --height 512 --width 512 --channels 128
python -m reproduce.neck_costs --neck implicit --csc dense neck.residual_block=false
"""

import argparse
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ifpn.config.paths import CONF
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.necks.neck import Neck
from ifpn.necks.none import NoFPN
from reproduce.block_costs import REFERENCE_CHANNELS, REFERENCE_IMAGE, RESNET50, rows
from reproduce.cost import Cost, level_sizes, neck_cost


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line (``sys.argv`` if None) and prints."""
    options = _parse(arguments)
    print(f"one image of {options.height} x {options.width}; MAC: multiply-adds of the convolutions, in 10^9")
    if options.neck is None:
        _print_table(options.height, options.width, options.channels or REFERENCE_CHANNELS)
    else:
        _print_neck(options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reproduce.neck_costs", description=__doc__.split("\n")[0])
    parser.add_argument("--height", type=int, default=REFERENCE_IMAGE[0], help="of the image, padding included")
    parser.add_argument("--width", type=int, default=REFERENCE_IMAGE[1], help="of the image, padding included")
    parser.add_argument("--channels", type=int, help="C; the configured number if not given")
    parser.add_argument("--neck", choices=_choices("neck"), help="one neck instead of the table")
    parser.add_argument("--csc", choices=_choices("csc"), default="pyramid", help="cross-scale block")
    parser.add_argument(
        "--in-channels", type=int, nargs="+", default=RESNET50, help="channels of the backbone's levels"
    )
    parser.add_argument("--strides", type=int, nargs="+", help="strides of these levels; the last is 32")
    parser.add_argument("overrides", nargs="*", help="e.g. csc.share=true neck.extra_levels=c5")
    options = parser.parse_intermixed_args(arguments)
    options.strides = options.strides or [32 >> k for k in reversed(range(len(options.in_channels)))]
    if len(options.strides) != len(options.in_channels):
        parser.error(f"{len(options.in_channels)} input levels need as many strides, got {options.strides}")
    return options


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _print_table(height: int, width: int, channels: int) -> None:
    compare = (height, width, channels) == (*REFERENCE_IMAGE, REFERENCE_CHANNELS)
    print(f"P3..P7 with C = {channels}")
    print(f"{'':34}{'parameters':>12}{'MAC':>9}" + (f"{'reference':>14}{'MAC':>9}" if compare else ""))
    for row in rows():
        line = f"{row.name:34}" + _figures(row.cost(channels, height, width))
        print(line + ("  " + _figures(row.reference) if compare else ""))


def _print_neck(options: argparse.Namespace) -> None:
    groups = (f"+neck={options.neck}", f"+csc={options.csc}", "+solver=anderson")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # Not stabilised, as in the paper's recipes.
        config = compose(overrides=[*groups, "+stabilise=false"])
    OmegaConf.set_struct(config, False)  # a neck takes more than its file names
    config.merge_with_dotlist(options.overrides)
    channels = options.channels or config.neck.out_channels
    make: Any = instantiate(config.neck)
    sizes = level_sizes(options.height, options.width, tuple(options.strides))
    built: list[Neck] = []

    def neck() -> Neck:
        built.append(make(options.in_channels, out_channels=channels))
        return built[-1]

    whole = neck_cost(neck, options.height, options.width, tuple(options.strides))
    print(f"levels {' '.join(f'{h}x{w}' for h, w in sizes)}, C = {channels}")
    print(f"{'':34}{'parameters':>12}{'MAC':>9}")
    if not isinstance(built[0], EquilibriumNeck):
        print(f"{'neck=' + options.neck:34}" + _figures(whole))
        return
    b = neck_cost(
        lambda: NoFPN(options.in_channels, channels, extra_levels=built[0].extra_levels),
        options.height,
        options.width,
        tuple(options.strides),
    )
    g = Cost(whole.params - b.params, whole.macs - b.macs, whole.gains)
    print(f"{'projection to B':34}" + _figures(b))
    print(f"{'G, one evaluation':34}" + _figures(g) + f"  ({g.gains:,} are gains of weight norm)")
    print(f"{'neck=' + options.neck + ', one evaluation':34}" + _figures(whole))


def _figures(cost: Cost) -> str:
    return f"{cost.params:>12,}{cost.macs / 1e9:>9.2f}"


if __name__ == "__main__":
    main()
