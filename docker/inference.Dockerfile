# The policy server with the embedded engine (torch on a CPU). For GPUs, see inference-gpu.Dockerfile.
#     docker build --file docker/inference.Dockerfile --tag arlarena/inference .
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
        arlarena-inference arlarena-console \
 && install --directory --owner 10001 --group 10001 /data /data/run /cache /cache/hub
COPY docker/healthcheck.py /opt/arlarena/healthcheck.py
ENV PATH=/opt/arlarena/bin:${PATH} \
    HOME=/tmp \
    HF_HOME=/cache/hub \
    PYTHONUNBUFFERED=1
# REVISION changes with each commit, and Docker then repeats all steps below it. So all slow steps are above it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ARLArena policy server" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 8100
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=6 \
    CMD ["python", "-IS", "/opt/arlarena/healthcheck.py", "--waiting", "/tmp/arlarena-waiting", \
         "--url", "http://127.0.0.1:8100/health"]
ENTRYPOINT []
CMD ["arlarena", "join", "inference", "/data/run"]
