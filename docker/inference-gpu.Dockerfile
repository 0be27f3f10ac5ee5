# The policy server on GPUs: vLLM's own image plus ARLArena's gateway, which starts vLLM.
#     docker build --file docker/inference-gpu.Dockerfile --tag arlarena/inference:0.1.0-gpu .
#
# VLLM_IMAGE must contain the version of vLLM in requirements/vllm.txt. The build does not change its packages: the
# gateway has its own virtual environment, and also imports packages of vLLM's environment.
ARG BASE_IMAGE=python:3.11-slim
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

# This stage builds the wheels of this repository. `--build-context wheels=FOLDER` replaces it by a folder of wheels.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt hatchling \
 && pip wheel --no-deps --no-build-isolation --wheel-dir / ./proto ./client ./sandbox ./environments/* ./services/*

FROM ${VLLM_IMAGE}
USER 0:0
# vLLM's image has torch, transformers and the HTTP server. The build installs only the missing packages.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python3 -m venv --system-site-packages --without-pip /opt/arlarena \
 && python3 -m pip --python /opt/arlarena/bin/python install --no-deps --find-links /wheels \
        arlarena-proto arlarena-client arlarena-inference arlarena-console \
 && python3 -m pip --python /opt/arlarena/bin/python install --no-deps --constraint /constraints.txt \
        blake3 httptools markupsafe msgspec psutil redis rich shellingham starlette tomli-w typer uvicorn uvloop zstandard \
 && install --directory --owner 10001 --group 10001 /data /data/run /cache /cache/hub
COPY docker/healthcheck.py /opt/arlarena/healthcheck.py
ENV PATH=/opt/arlarena/bin:${PATH} \
    HOME=/tmp \
    HF_HOME=/cache/hub \
    PYTHONUNBUFFERED=1 \
    ARLARENA_INFERENCE_VLLM_PYTHON=/usr/bin/python3
# REVISION changes with each commit, and Docker then repeats all steps below it. So all slow steps are above it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ARLArena policy server with vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 8100
HEALTHCHECK --interval=10s --timeout=6s --start-period=600s --retries=6 \
    CMD ["python3", "-IS", "/opt/arlarena/healthcheck.py", "--waiting", "/tmp/arlarena-waiting", \
         "--url", "http://127.0.0.1:8100/health"]
ENTRYPOINT []
CMD ["arlarena", "join", "inference", "/data/run"]
