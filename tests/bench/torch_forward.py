"""Times the forward passes of `denoised bench kernels` in PyTorch on the same CPU, beside ours.

    build/release/denoised bench kernels --json >/tmp/kernels.json
    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch
    /tmp/torch/bin/python tests/bench/torch_forward.py /tmp/kernels.json

Shapes, rows, dtype and threads are read from the document. The weights are random: no time depends
on their values. Every pass is a plain forward over whole canvases with full attention
(scaled_dot_product_attention), with the logits of every row, their softmax and the best token, as
ours computes them; linear layers run in oneDNN where PyTorch has it. Both need a quiet machine:
PyTorch's threads wait for each other by spinning. PyTorch is no dependency of this project: nothing
but this script needs it.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F


class Layer:
    def __init__(self, shape: dict, random) -> None:
        width, head_dim = shape["width"], shape["head_dim"]
        columns = (shape["heads"] + 2 * shape["kv_heads"]) * head_dim
        self.qkv = random(columns, width)
        self.out = random(width, shape["heads"] * head_dim)
        self.gate_up = random(2 * shape["ffn_width"], width)
        self.down = random(width, shape["ffn_width"])
        self.attention_norm = torch.ones(width, dtype=self.qkv.dtype)
        self.ffn_norm = torch.ones(width, dtype=self.qkv.dtype)


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


class Model:
    """A dense LLaDA with tied embeddings."""

    def __init__(self, shape: dict, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)

        def random(*size: int) -> torch.Tensor:
            return (0.02 * torch.randn(*size, generator=generator)).to(dtype)

        self.shape = shape
        self.dtype = dtype
        self.embedding = random(shape["vocabulary"], shape["width"])
        self.layers = [Layer(shape, random) for _ in range(shape["layers"])]
        self.norm = torch.ones(shape["width"], dtype=dtype)

    def angles(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.shape["head_dim"] // 2
        frequencies = 10000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(positions)[:, None] * frequencies
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and id of the best token of every row."""
        heads, kv_heads, head_dim = (self.shape[k] for k in ("heads", "kv_heads", "head_dim"))
        sequences, positions = tokens.shape
        cosines, sines = self.angles(positions)
        x = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            normed = F.rms_norm(x, x.shape[-1:], layer.attention_norm, 1e-5)
            qkv = F.linear(normed, layer.qkv).view(sequences, positions, -1, head_dim).transpose(1, 2)
            q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
            q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
            attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)
            x = x + F.linear(attended.transpose(1, 2).reshape(sequences, positions, -1), layer.out)
            normed = F.rms_norm(x, x.shape[-1:], layer.ffn_norm, 1e-5)
            gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        logits = F.linear(F.rms_norm(x, x.shape[-1:], self.norm, 1e-5), self.embedding)
        return logits.float().log_softmax(-1).max(-1)


def median_ms(model: Model, sequences: int, positions: int, budget_s: float) -> float:
    tokens = torch.randint(model.shape["vocabulary"], (sequences, positions))
    model.forward(tokens)  # warm-up: oneDNN chooses and caches its kernels
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 99):
        begin = time.perf_counter()
        model.forward(tokens)
        samples.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", help="what denoised bench kernels --json has written")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each row count [1]")
    arguments = parser.parse_args()
    with open(arguments.document, encoding="utf-8") as file:
        document = json.load(file)
    torch.set_num_threads(document["threads"])
    dtype = getattr(torch, document["dtype"])
    print(
        f"PyTorch {torch.__version__}, oneDNN {torch.backends.mkldnn.is_available()}, {document['dtype']}, "
        f"{document['threads']} threads of {document['cpu']}; ours: weights {document['weight_dtype']}, "
        f"{document['instructions']}, {document['date']}"
    )
    print(f"{'model':28} {'rows':>5} {'sequences':>9} {'PyTorch ms':>11} {'denoised ms':>11} {'ratio':>6}")
    models: dict[str, Model] = {}
    with torch.inference_mode():
        for row in document["forward"]:
            if row["model"] not in models:
                models[row["model"]] = Model(row["shape"], dtype)
            ms = median_ms(models[row["model"]], row["sequences"], row["positions"], arguments.seconds)
            print(
                f"{row['model']:28} {row['rows']:5} {row['sequences']:9} {ms:11.3f} {row['ms']:11.3f} "
                f"{ms / row['ms']:6.2f}",
                flush=True,
            )
    print("ratio: PyTorch's time over ours; above 1 ours is faster.")


if __name__ == "__main__":
    main()
