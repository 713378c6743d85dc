# docker build -t ifpn .
# docker run --gpus all --shm-size 8g -v ~/coco:/data:ro -v $PWD/runs:/work/runs ifpn train data=coco data.root=/data
# The mounted runs/ must be writable for user 1000 (docker run --user $(id -u):$(id -g) … for another one).
# The registry's torch wheels carry CUDA's libraries, so the base only has to match the driver interface.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# g++ and the headers of Python: compile=true builds kernels at run time. git: the commit in result.json of a mounted clone.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1

# Dependencies first: they change less often than the code.
WORKDIR /src
COPY requirements.txt ./
RUN pip install -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY ifpn ifpn
RUN pip install --no-deps .

# Ubuntu's image has user 1000 (ubuntu) already; HOME must be writable for any --user that is given.
ENV HOME=/work MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
RUN mkdir -p /work/runs && chown -R 1000:1000 /work && chmod 0777 /work
WORKDIR /work
USER 1000:1000

ENTRYPOINT ["ifpn"]
CMD ["--help"]
