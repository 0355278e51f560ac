# Two images, as docs/how-to/container.md describes:
#   docker build -t medseglatdiff .                                  what inference needs: predict, watch, view …
#   docker build -t medseglatdiff-label --target label-server .      MONAI Label with the bundles
# TORCH_INDEX_URL is the package index that torch alone is taken from, by default PyTorch's CPU builds; empty, it is
# PyPI, which has a CUDA build.

FROM python:3.11-slim-bookworm AS python
ENV PATH=/opt/venv/bin:$PATH
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

FROM python AS sources
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /source
RUN python3 -m venv /opt/venv
COPY constraints.txt constraints-label.txt ./

FROM sources AS packages
# torch comes first: left to the other packages' requirements, pip could choose another version or build of it.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' constraints.txt)"
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[dicom,dicomweb,staple,view]" ./bundles

FROM sources AS label-packages
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' constraints-label.txt)"
RUN pip install --no-cache-dir --no-deps -r constraints-label.txt
COPY . .
RUN pip install --no-cache-dir --no-deps . ./bundles

# Nothing belongs to the user but what is mounted; HOME holds caches and may be a tmpfs.
FROM python AS run
ENV HOME=/tmp PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-3.0 AND CC-BY-4.0 AND CC-BY-NC-4.0"
RUN useradd --uid 1000 --no-create-home --home-dir /tmp medseglatdiff && install -d -o medseglatdiff /data
WORKDIR /data
USER 1000

FROM run AS label-server
COPY --from=label-packages /opt/venv /opt/venv
EXPOSE 8000
ENTRYPOINT ["python", "-m", "medseglatdiff_monai.integrations.monai_label"]
# The port is published by whoever starts the container: to 127.0.0.1, since MONAI Label has no login.
CMD ["studies", "--host", "0.0.0.0"]

FROM run AS medseglatdiff
COPY --from=packages /opt/venv /opt/venv
ENTRYPOINT ["medseglatdiff"]
CMD ["--help"]
