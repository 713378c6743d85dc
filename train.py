"""Train a detector: `python train.py`, or `python train.py --help`."""

from omegaconf import DictConfig

from ifpn.cli.command import command


@command(config_name="train")
def main(cfg: DictConfig) -> None:
    """Train with the composed configuration."""
    from ifpn.cli.train import train

    train(cfg)


if __name__ == "__main__":
    main()
