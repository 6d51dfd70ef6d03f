# docker build -t lingo-bench .
# docker run --rm --shm-size 2g -v "$PWD/results:/lingo/results" lingo-bench
# With GPUs add --gpus all: PyTorch's wheel brings CUDA, the host the driver. --shm-size is for Ray's object store.
FROM python:3.12-slim

RUN pip install --no-cache-dir torch==2.13.0
COPY . /src
RUN pip install --no-cache-dir "/src[peft]" \
    && useradd --create-home --uid 1000 lingo \
    && mkdir -p /lingo/results \
    && chown -R lingo /lingo
USER 1000
WORKDIR /lingo
ENTRYPOINT ["lingo-bench"]
