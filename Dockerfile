# The page on port 7860:  docker build -t captioner . && docker run -p 7860:7860 captioner
# With another captioner:  docker run -p 7860:7860 captioner --model ORG/NAME
FROM python:3.11-slim

WORKDIR /app
# PyTorch's own index has wheels without CUDA, and what only they need; all else comes from PyPI, with the lock's hashes.
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
    && pip install --no-cache-dir torch==2.14.1 torchvision==0.29.1 --index-url https://download.pytorch.org/whl/cpu

RUN useradd --create-home captioner
USER captioner
COPY app.py ./
COPY captioning captioning
COPY demo demo
COPY modeling_captioner modeling_captioner

EXPOSE 7860
ENTRYPOINT ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
