# The server of one environment:
#     docker build --file docker/environment.Dockerfile --build-arg ENVIRONMENT=sokoban --tag arlarena/environment-sokoban .
#
# ENVIRONMENT: sokoban, alfworld, webshop, tir_math or guess. The image contains the dependencies of this environment only.
ARG BASE_IMAGE=python:3.11-slim

# The wheels of this repository. `--build-context wheels=FOLDER` replaces this stage by wheels that are already built.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt hatchling \
 && pip wheel --no-deps --no-build-isolation --wheel-dir / ./proto ./client ./sandbox ./environments/* ./services/*

FROM ${BASE_IMAGE} AS packages
ARG ENVIRONMENT=sokoban
RUN python -m venv --without-pip /opt/arlarena
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip --python /opt/arlarena/bin/python install --constraint /constraints.txt --find-links /wheels \
        arlarena-env-server "arlarena-${ENVIRONMENT}" \
 && if [ "${ENVIRONMENT}" = tir_math ]; then \
      pip --python /opt/arlarena/bin/python install --no-deps --constraint /constraints.txt reasoning-gym; \
      find /opt/arlarena/lib/python3*/site-packages/sympy -type d -name tests -prune -exec rm -rf {} +; \
    fi

FROM ${BASE_IMAGE}
ARG ENVIRONMENT=sokoban
# The sandbox of TIR Math installs a seccomp filter with this library. Debian updates it within its stable release.
# hadolint ignore=DL3008
RUN if [ "${ENVIRONMENT}" = tir_math ]; then \
      apt-get update && apt-get install --yes --no-install-recommends libseccomp2 && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=packages /opt/arlarena /opt/arlarena
COPY docker/healthcheck.py /opt/arlarena/healthcheck.py
ENV PATH=/opt/arlarena/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    ARLARENA_ENVIRONMENT_NAME=${ENVIRONMENT}
# The revision changes with each commit, so that no slow step may be below it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ARLArena environment server: ${ENVIRONMENT}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=6 \
    CMD ["python", "-IS", "/opt/arlarena/healthcheck.py", "--url", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["python", "-m", "arlarena.env_server"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
