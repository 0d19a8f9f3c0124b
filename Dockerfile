# docker build -t telegram-clone-backend . && docker run -p 8000:8000 telegram-clone-backend
# To hold the base to the byte, give it by digest: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /app
RUN python -m venv /opt/venv
# The dependencies first: this layer is built anew only when the lock changes.
COPY requirements.txt ./
RUN /opt/venv/bin/pip install --quiet --no-compile --require-hashes --only-binary :all: -r requirements.txt
COPY alembic.ini LICENSE ./
COPY app ./app
COPY migrations ./migrations
COPY scripts ./scripts
RUN /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib app migrations

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="telegram-clone-backend" \
      org.opencontainers.image.description="A messenger backend" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/app \
    HOST=0.0.0.0 \
    PORT=8000 \
    VAR_DIR=/app/var \
    LOG_FILE=/app/var/app.log
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# The code belongs to root and stays as it is; the server may write to var alone. A number and not
# a name: an orchestrator can then tell that it is not root.
RUN install -d -m 0700 -o 10001 -g 10001 /app/var
USER 10001:10001
# The database, the files, the generated keys and the log: everything that must outlive the container.
VOLUME /app/var
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health/ready', timeout=2)"]
CMD ["python", "-m", "app"]
