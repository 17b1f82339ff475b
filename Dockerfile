# One image, two targets: `api` has no torch; `gpu` is what workers and the embedded engine need.
FROM python:3.11-slim-bookworm AS api
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY api api
COPY worker worker
COPY core core
COPY cli cli
COPY migrations migrations
COPY assets assets
# The lock constrains versions; only what the base install names is taken from it.
RUN pip install --constraint requirements.lock .
# A new volume takes its owner and first content from the folder it covers. What is mounted read-only must be whole.
RUN useradd --uid 10001 --create-home bluelora \
 && install -d -o bluelora -g bluelora /data /adapters /bases /objects /objects/blobs /objects/sha256
USER bluelora
ENV BLUELORA_DATA_DIR=/data
ENTRYPOINT ["python", "-m"]
CMD ["api"]

FROM api AS gpu
USER root
RUN pip install --constraint requirements.lock ".[gpu]"
USER bluelora
CMD ["worker"]
