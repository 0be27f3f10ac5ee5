# The rollout workers. The image has no torch, because workers only need tokenisers.
#     docker build --file docker/rollout.Dockerfile --tag arlarena/rollout .
ARG BASE_IMAGE=python:3.11-slim

# This stage builds the wheels of this repository. `--build-context wheels=FOLDER` replaces it by a folder of wheels.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt hatchling \
 && pip wheel --no-deps --no-build-isolation --wheel-dir / ./proto ./client ./sandbox ./environments/* ./services/*

FROM ${BASE_IMAGE} AS packages
RUN python -m venv --without-pip /opt/arlarena
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip --python /opt/arlarena/bin/python install --constraint /constraints.txt --find-links /wheels \
        arlarena-rollout arlarena-console

FROM ${BASE_IMAGE}
COPY --from=packages /opt/arlarena /opt/arlarena
COPY docker/healthcheck.py /opt/arlarena/healthcheck.py
RUN install --directory --owner 10001 --group 10001 /data /data/run /cache /cache/hub
ENV PATH=/opt/arlarena/bin:${PATH} \
    HOME=/tmp \
    HF_HOME=/cache/hub \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    ARLARENA_ROLLOUT_METRICS_HOST=0.0.0.0 \
    ARLARENA_ROLLOUT_METRICS_PORT=9100 \
    ARLARENA_ROLLOUT_HEARTBEAT_FILE=/tmp/arlarena-heartbeat
# REVISION changes with each commit, and Docker then repeats all steps below it. So all slow steps are above it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ARLArena rollout workers" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
# The worker touches its heartbeat file every 10 s ([rollout] report_every_s).
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=6 \
    CMD ["python", "-IS", "/opt/arlarena/healthcheck.py", "--waiting", "/tmp/arlarena-waiting", "--changed", "60", \
         "/tmp/arlarena-heartbeat"]
ENTRYPOINT []
CMD ["arlarena", "join", "rollout", "/data/run"]
