"""Boxes for a photograph or a folder of photographs: `python predict.py --help`."""

from omegaconf import DictConfig

from ifpn.config.command import command


@command(config_name="predict")
def main(cfg: DictConfig) -> None:
    from ifpn.inference.predict import predict

    predict(cfg)


if __name__ == "__main__":
    main()
