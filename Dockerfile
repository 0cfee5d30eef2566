# docker build -t voxlate .
# docker run --rm --gpus all --network none -u "$(id -u):$(id -g)" -v "$PWD:/data" voxlate \
#     translate /data/t1.nii.gz --source t1 --to t2 --to flair --output /data/out
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/voxlate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY . /src
RUN python3 -m venv /opt/voxlate \
    && pip install --no-cache-dir "/src[demo]" \
    && rm -rf /src

# Nothing is fetched at run time; caches go where any user id may write.
ENV HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib

RUN useradd --create-home --uid 10001 voxlate
USER voxlate
WORKDIR /data
ENTRYPOINT ["voxlate"]
CMD ["--help"]
