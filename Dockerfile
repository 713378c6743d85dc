# docker build -t ifpn .
# docker run --gpus all --shm-size 8g -v ~/coco:/data:ro -v $PWD/runs:/home/ifpn/runs ifpn train data=coco data.root=/data
# The mounted runs/ must be writable for user 1000 (docker run --user $(id -u):$(id -g) … for another one).
# The registry's torch wheels carry CUDA's libraries, so the base only has to match the driver interface.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# g++ and the headers of Python: compile=true builds kernels at run time.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1

# Dependencies first: they change less often than the code.
WORKDIR /src
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-deps .

# User 1000 is `ubuntu` in the base image. The home is open to whatever user --user names.
RUN userdel --remove ubuntu && useradd --uid 1000 --create-home ifpn && install --directory --mode 0777 /home/ifpn /home/ifpn/runs
USER ifpn
ENV HOME=/home/ifpn MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
WORKDIR /home/ifpn

ENTRYPOINT ["ifpn"]
CMD ["--help"]
