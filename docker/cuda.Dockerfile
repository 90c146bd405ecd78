# ezm_lightning on NVIDIA GPUs. UNTESTED: neither a Docker daemon nor a GPU was available where this was written.
#   docker build -f docker/cuda.Dockerfile -t ezm-cuda .
#   docker run --rm --gpus all --shm-size=2g -v "$PWD/runs:/ezm/runs" ezm-cuda train experiment=humanoidbench_medium
#   docker run --rm --gpus all -v "$PWD/gpu_check:/ezm/gpu_check" --entrypoint python ezm-cuda -m benchmarks.gpu_check
# PyPI's torch for Linux brings CUDA's libraries; the host needs the driver and the NVIDIA container toolkit.
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 git gcc g++ \
    && rm -rf /var/lib/apt/lists/*
ENV MUJOCO_GL=egl PIP_NO_CACHE_DIR=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
WORKDIR /opt/ezm
COPY constraints.txt .
RUN pip install -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY ezm_lightning ezm_lightning
COPY conf conf
COPY benchmarks benchmarks
RUN pip install -c constraints.txt '.[plots,onnx]'
ENV PYTHONPATH=/opt/ezm/extra
RUN mkdir extra && mv benchmarks extra/
RUN useradd --create-home --uid 1000 ezm && mkdir /ezm && chown ezm /ezm
USER ezm
WORKDIR /ezm
ENTRYPOINT ["ezm"]
CMD ["--help"]
