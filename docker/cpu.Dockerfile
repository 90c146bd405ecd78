# ezm_lightning on CPUs. UNTESTED: no Docker daemon was available where this was written.
#   docker build -f docker/cpu.Dockerfile -t ezm .
#   docker run --rm -v "$PWD/runs:/ezm/runs" ezm train experiment=debug
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libosmesa6 libgl1 libegl1 git \
    && rm -rf /var/lib/apt/lists/*
ENV MUJOCO_GL=osmesa PIP_NO_CACHE_DIR=1
WORKDIR /opt/ezm
COPY constraints.txt .
RUN pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE ./
COPY ezm_lightning ezm_lightning
COPY conf conf
RUN pip install -c constraints.txt '.[plots,onnx]'
RUN useradd --create-home --uid 1000 ezm && mkdir /ezm && chown ezm /ezm
USER ezm
WORKDIR /ezm
ENTRYPOINT ["ezm"]
CMD ["--help"]
