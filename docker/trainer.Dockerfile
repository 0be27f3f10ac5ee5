# The trainer. It joins a run (`arlarena join trainer`), or runs alone (`python -m arlarena.trainer train`).
#     docker build --file docker/trainer.Dockerfile --tag arlarena/trainer .
#
# TORCH_INDEX: the package index of torch, for CPUs or for a version of CUDA. Default: pip's index, whose torch contains
# CUDA.
ARG BASE_IMAGE=python:3.11-slim

# This stage builds the wheels of this repository. `--build-context wheels=FOLDER` replaces it by a folder of wheels.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt hatchling \
 && pip wheel --no-deps --no-build-isolation --wheel-dir / ./proto ./client ./sandbox ./environments/* ./services/*

# The images of trainer, policy server and console share this layer.
FROM ${BASE_IMAGE} AS torch
ARG TORCH_INDEX=""
RUN python -m venv --without-pip /opt/arlarena
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip --python /opt/arlarena/bin/python install --no-deps --constraint /constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch

FROM torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip --python /opt/arlarena/bin/python install --constraint /constraints.txt --find-links /wheels \
        arlarena-trainer arlarena-console \
 && install --directory --owner 10001 --group 10001 /data /data/run /cache /cache/hub
COPY docker/healthcheck.py /opt/arlarena/healthcheck.py
ENV PATH=/opt/arlarena/bin:${PATH} \
    HOME=/tmp \
    HF_HOME=/cache/hub \
    PYTHONUNBUFFERED=1 \
    ARLARENA_TRAINER_METRICS_HOST=0.0.0.0 \
    ARLARENA_TRAINER_METRICS_PORT=9100
# REVISION changes with each commit, and Docker then repeats all steps below it. So all slow steps are above it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ARLArena trainer" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
# A training step of a large model takes minutes. The limit of 20 minutes is the default of [console] hang_timeout_s.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=6 \
    CMD ["python", "-IS", "/opt/arlarena/healthcheck.py", "--waiting", "/tmp/arlarena-waiting", "--changed", "1200", \
         "/data/run/metrics.jsonl", "/data/run/progress/train.jsonl", "/data/run/progress/train-step.json", \
         "/data/run/run.json"]
ENTRYPOINT []
CMD ["arlarena", "join", "trainer", "/data/run"]
