# nas in a container, for the CPU or for NVIDIA GPUs:
#
#     docker build -t nas .
#     docker run --rm -v "$PWD:/data" nas search tiny --trials 24
#
#     docker build -t nas-cuda --build-arg DEVICE=cuda .
#     docker run --rm --gpus all -v "$PWD:/data" nas-cuda search hybrid --device cuda
#
# Versions are those of requirements.lock. Studies and models are written into /data, prepared text into /data/.cache.
FROM python:3.11-slim

# cpu takes the small build of PyTorch; cuda takes PyPI's, which brings the CUDA libraries, so that the host needs only the driver.
ARG DEVICE=cpu

# torch.compile and Triton call a C++ compiler at run time.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /source
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY nas_cli nas_cli
COPY search_spaces search_spaces
COPY studies studies
COPY surgery surgery

RUN if [ "$DEVICE" = cpu ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi \
    && pip install --no-cache-dir --constraint requirements.lock .

ENV NAS_HOME=/data/.cache/nas HF_HOME=/data/.cache/huggingface
WORKDIR /data
ENTRYPOINT ["nas"]
CMD ["--help"]
