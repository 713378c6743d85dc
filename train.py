"""Train a detector: `python train.py`, or `python train.py --help`."""

from omegaconf import DictConfig

from ifpn.config.command import command


@command(config_name="train")
def main(cfg: DictConfig) -> None:
    from ifpn.training.run import train

    train(cfg)


if __name__ == "__main__":
    main()
