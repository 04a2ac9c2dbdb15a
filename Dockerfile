# One image for the API (the default command) and the workers (docker-compose.yml shows both).
# Everything in it comes from requirements.lock: uv holds each download against the hash noted there.

FROM python:3.11-slim-bookworm AS build
ENV UV_PYTHON_DOWNLOADS=never
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.8
WORKDIR /src
# Dependencies first: this layer stays as long as the lock does.
COPY pyproject.toml requirements.lock ./
RUN /opt/uv/bin/uv venv --python python3.11 /opt/perdure \
    && /opt/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/perdure/bin/python \
       --constraint requirements.lock --requirements pyproject.toml
COPY README.md LICENSE worker.py ./
COPY perdure perdure
COPY workflows workflows
COPY activities activities
COPY api api
RUN /opt/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/perdure/bin/python \
    --build-constraint requirements.lock --no-deps .

FROM python:3.11-slim-bookworm
COPY --from=build /opt/perdure /opt/perdure
# A fixed number, so that a shared volume means the same owner on every machine.
RUN useradd --system --uid 10001 --no-create-home perdure \
    && mkdir -p /var/lib/perdure /etc/perdure \
    && chown perdure /var/lib/perdure
USER perdure
ENV PATH=/opt/perdure/bin:$PATH PYTHONUNBUFFERED=1 PERDURE_HOME=/var/lib/perdure
# perdure.toml and the modules of PERDURE_TOOLS are looked for here.
WORKDIR /etc/perdure
VOLUME /var/lib/perdure
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8600/healthz', timeout=2)"]
CMD ["python", "-P", "-m", "perdure.cli.child", "api"]
