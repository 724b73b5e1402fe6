# The page in a container: docker build -t captioner . && docker run -p 7860:7860 captioner
FROM python:3.11-slim

RUN useradd --create-home captioner
WORKDIR /home/captioner/app

COPY requirements.txt .
# PyPI's PyTorch for Linux brings CUDA along, several gigabytes that a CPU never uses; the local version +cpu is newer.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt

COPY . .
USER captioner
EXPOSE 7860
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
