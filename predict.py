"""Boxes for a photograph or a folder of photographs: `python predict.py --help`."""

from omegaconf import DictConfig

from ifpn.cli.command import command


@command(config_name="predict")
def main(cfg: DictConfig) -> None:
    """Predict with the composed configuration."""
    from ifpn.cli.predict import predict

    predict(cfg)


if __name__ == "__main__":
    main()
