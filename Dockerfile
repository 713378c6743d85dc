# docker build -t ifpn . && docker run --gpus all --shm-size 8g -v ~/coco:/data/coco -v $PWD/runs:/ifpn/runs ifpn data=coco data.root=/data/coco
# The registry's torch wheels carry CUDA's libraries, so the base only has to match the driver interface.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /ifpn
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# Dependencies first: they change less often than the code.
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

ENTRYPOINT ["python", "train.py"]
