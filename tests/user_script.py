"""Train a tiny GPT-2 on one sentence; what a user's first script looks like."""

import numpy as np

import tinygpt
import tinygpt.functional as F
from tinygpt import GPT, AdamW, GPTConfig, Tensor, Tokenizer, clip_grad_norm, gradcheck, no_grad


def main() -> None:
    text = "The hen said good night to the moon, and the moon said good night to the hen. " * 4
    tokenizer = Tokenizer.train(text, vocab_size=280, progress=False)
    ids = np.array(tokenizer.encode(text))
    config = GPTConfig(vocab_size=tokenizer.n_vocab, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    model = GPT(config, seed=1337)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for start in range(8):
        loss = model.loss(ids[None, start : start + 32], ids[None, start + 1 : start + 33])
        loss.backward()
        norm: float = clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"{loss.item():.3f} {norm:.3f}")
    x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)
    y: Tensor = F.layernorm(x, Tensor(np.ones(4, np.float32)), Tensor(np.zeros(4, np.float32)))
    with no_grad(), tinygpt.implementation("numpy"):
        print((y * 2 + x).sum().item())
    print(gradcheck(F.gelu, [np.ones(3)]))
    print(tokenizer.decode(list(model.generate(tokenizer.encode("The hen"), max_tokens=12, temperature=0))))


if __name__ == "__main__":
    main()
