# The page of `audio2img app`, for the CPU: docker build -t audio2img . && docker run -p 7860:7860 audio2img
FROM python:3.11-slim

# The index whose torch is taken: the CPU's, or https://pypi.org/simple, where it is built for NVIDIA GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HOME=/models/huggingface

RUN useradd --create-home --uid 1000 audio2img \
    && mkdir /models \
    && chown audio2img /models

WORKDIR /app
# Torch first, in a layer of its own: it is most of the image and changes least.
COPY constraints.txt ./
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY audio2img_core audio2img_core
COPY training training
COPY examples examples
# Editable, so that the page finds the examples beside the package.
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt -e ".[app]"

USER 1000
# Models from the hub are kept here; models of your own can be mounted anywhere.
VOLUME /models
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860', timeout=5)"]
ENTRYPOINT ["audio2img"]
CMD ["app", "--host", "0.0.0.0"]
