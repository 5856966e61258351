"""A character-level model of names, written for PyTorch; tests/test_pytorch_script.py runs it with tinygpt, too."""

import argparse
import math
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

NAMES = [
    "anna",
    "emma",
    "olivia",
    "ava",
    "mia",
    "nora",
    "lena",
    "clara",
    "ida",
    "ella",
    "lina",
    "maja",
    "lotta",
    "paula",
]
CHARS = sorted(set("".join(NAMES)))
STOI = {c: i + 1 for i, c in enumerate(CHARS)}
ITOS = {i: c for c, i in STOI.items()}


class Head(nn.Module):
    """One head of causal self-attention."""

    def __init__(self, n_embd, head_size, block_size, dropout):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        T = x.shape[1]
        k, q, v = self.key(x), self.query(x), self.value(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        weights = self.dropout(F.softmax(scores, dim=-1))
        return weights @ v


class Block(nn.Module):
    """Attention, then a perceptron, each with a residual connection."""

    def __init__(self, n_embd, n_head, block_size, dropout):
        super().__init__()
        size = n_embd // n_head
        self.heads = nn.ModuleList([Head(n_embd, size, block_size, dropout) for _ in range(n_head)])
        self.proj = nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.ReLU(),
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(dropout),
        )
        self.ln1 = nn.LayerNorm(n_embd)
        self.ln2 = nn.LayerNorm(n_embd)

    def forward(self, x):
        y = self.ln1(x)
        heads = [head(y) for head in self.heads]
        x = x + self.proj(torch.cat(heads, dim=-1))
        return x + self.mlp(self.ln2(x))


class NameModel(nn.Module):
    def __init__(self, vocab_size, n_embd=32, n_head=4, n_layer=2, block_size=16, dropout=0.1):
        super().__init__()
        self.block_size = block_size
        self.tok = nn.Embedding(vocab_size, n_embd)
        self.pos = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block(n_embd, n_head, block_size, dropout) for _ in range(n_layer)])
        self.ln = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size)
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, mean=0.0, std=0.08)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, idx, targets=None):
        B, T = idx.size()
        pos = torch.arange(T)
        x = self.tok(idx) + self.pos(pos)
        logits = self.head(self.ln(self.blocks(x)))
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.view(B * T, -1), targets.view(-1), ignore_index=-1)
        return logits, loss

    @torch.no_grad()
    def sample(self, rng, end=0):
        self.eval()
        ids = [end]
        while len(ids) < self.block_size:
            idx = torch.tensor([ids])
            logits, _ = self(idx)
            probs = F.softmax(logits[0, -1], dim=-1).numpy().astype(np.float64)
            ids.append(int(rng.choice(len(probs), p=probs / probs.sum())))
            if ids[-1] == end:
                break
        self.train()
        return "".join(ITOS[i] for i in ids if i)


def get_batch(rng, size, block_size, device):
    x = torch.zeros((size, block_size), dtype=torch.long)
    y = torch.full((size, block_size), -1, dtype=torch.long)
    for row in range(size):
        ids = [0] + [STOI[c] for c in NAMES[rng.integers(len(NAMES))]][: block_size - 1] + [0]
        for column in range(len(ids) - 1):
            x[row, column], y[row, column] = ids[column], ids[column + 1]
    return x.to(device), y.to(device)


@torch.no_grad()
def evaluate(model):
    model.eval()
    x, y = get_batch(np.random.default_rng(7), 64, model.block_size, next(model.parameters()).device)
    _, loss = model(x, y)
    model.train()
    return loss.item()


def train(model, steps, total, checkpoint_path, lr=0.2, weight_decay=1e-4):
    device = next(model.parameters()).device
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=total // 5)
    cosine = CosineAnnealingLR(optimizer, T_max=total - total // 5, eta_min=1e-3)
    scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[total // 5])
    start, losses = 0, []
    if os.path.exists(checkpoint_path):
        checkpoint = torch.load(checkpoint_path)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        start = checkpoint["step"]
    for step in range(start, start + steps):
        x, y = get_batch(np.random.default_rng(step), 16, model.block_size, device)
        _, loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}, norm {norm:.2f}, lr {scheduler.get_last_lr()[0]:.4f}")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    state["step"] = start + steps
    torch.save(state, checkpoint_path)
    return losses


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoint", default="names.pt")
    args = parser.parse_args()

    torch.manual_seed(1337)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = NameModel(len(CHARS) + 1).to(device)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    train(model, args.steps, args.steps, args.checkpoint)
    print(f"final loss {evaluate(model):.4f}")
    rng = np.random.default_rng(1)
    print(*[model.sample(rng) for _ in range(5)])


if __name__ == "__main__":
    main()
