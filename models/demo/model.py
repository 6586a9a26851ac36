"""The Llama network in PyTorch, its optimiser, and greedy generation.

Rotary embedding turns adjacent pairs (2i, 2i+1) of each head, which is how GGUF's "llama" architecture stores Q and K:
weights go to the file as they are, unpermuted.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Config:
    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    context: int = 4096
    rope_base: float = 1e6              # most pairs hardly turn within the context: recall by content works at any distance
    epsilon: float = 1e-5


# "small" was trained on two CPU cores in about an hour and a half; "large" wants a GPU.
SIZES = {"small": dict(vocabulary=1536, layers=4, width=256, heads=4, kv_heads=2, head_width=64, ffn_width=512),
         "large": dict(vocabulary=2560, layers=6, width=512, heads=8, kv_heads=2, head_width=64, ffn_width=1024)}


def norm(x, weight, epsilon):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x, cos, sin):
    """x: [tokens, heads, head_width]; cos, sin: [tokens, head_width / 2]"""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[:, None], sin[:, None]
    return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2).to(x.dtype)


def before_attention(x, norm_w, q_w, k_w, v_w, cos, sin, c: Config, dtype):
    """x: [tokens, width] -> q [tokens, heads, head_width], k and v [tokens, kv_heads, head_width]"""
    h = norm(x, norm_w, c.epsilon).to(dtype)
    q = F.linear(h, q_w.to(dtype)).unflatten(-1, (c.heads, c.head_width))
    k = F.linear(h, k_w.to(dtype)).unflatten(-1, (c.kv_heads, c.head_width))
    v = F.linear(h, v_w.to(dtype)).unflatten(-1, (c.kv_heads, c.head_width))
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def after_attention(x, o, o_w, norm_w, gate_w, up_w, down_w, c: Config, dtype):
    x = x + F.linear(o, o_w.to(dtype)).float()
    h = norm(x, norm_w, c.epsilon).to(dtype)
    return x + F.linear(F.silu(F.linear(h, gate_w.to(dtype))) * F.linear(h, up_w.to(dtype)), down_w.to(dtype)).float()


def short_attention(q, k, v):
    """Causal attention as plain products, which for short rows a CPU does faster than the fused kernel; q, k, v:
    [rows, heads, length, head_width]"""
    length = q.shape[-2]
    ahead = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    return scores.masked_fill(ahead, -1e9).softmax(-1).to(v.dtype) @ v


def losses(x, norm_w, embedding, targets, weights, c: Config, dtype):
    """Weighted loss to minimise, and [chat loss sum, chat tokens, recall loss sum, recall tokens] to watch."""
    logits = F.linear(norm(x, norm_w, c.epsilon).to(dtype), embedding.to(dtype)).float()
    each = F.cross_entropy(logits, targets, reduction="none")
    chat, recall = ((weights > 0.5) & (weights < 2)).float(), (weights >= 2).float()
    watch = torch.stack(((each * chat).sum(), chat.sum(), (each * recall).sum(), recall.sum()))
    return (each * weights).sum() / weights.sum().clamp(min=1), watch.detach()


class Model:
    """Parameters are stacked over the layers: wq is [layers, heads * head_width, width], and so on."""

    def __init__(self, config: Config, device, compiled=False, dtype=torch.bfloat16):
        c = self.config = config
        self.device = device
        self.dtype = dtype
        kv = c.kv_heads * c.head_width
        shapes = {"wq": (c.heads * c.head_width, c.width), "wk": (kv, c.width), "wv": (kv, c.width), "wo": (c.width, c.heads * c.head_width),
                  "gate": (c.ffn_width, c.width), "up": (c.ffn_width, c.width), "down": (c.width, c.ffn_width)}
        self.matrices = {}
        for name, (rows, columns) in shapes.items():
            scale = columns ** -0.5 * (0.0 if name in ("wo", "down") else 0.8)      # residual branches start at nothing
            self.matrices[name] = torch.randn(c.layers, rows, columns, device=device) * scale
        # Mimetic initialisation: queries start out like keys, so that a token looks for its like from the first step and
        # recall does not have to be found by chance (Trockman and Kolter, "Mimetic Initialization of Self-Attention").
        like = self.matrices["wk"].unflatten(1, (c.kv_heads, 1, c.head_width)).expand(-1, -1, c.heads // c.kv_heads, -1, -1)
        self.matrices["wq"] = 0.6 * self.matrices["wq"] + 0.8 * like.flatten(1, 3)
        self.others = {"embedding": torch.randn(c.vocabulary, c.width, device=device) * 0.02, "attention_norm": torch.ones(c.layers, c.width, device=device),
                       "ffn_norm": torch.ones(c.layers, c.width, device=device), "output_norm": torch.ones(c.width, device=device)}
        for p in self.all().values():
            p.requires_grad_()
        angle = torch.arange(c.context + 1, device=device)[:, None] * c.rope_base ** (-torch.arange(0, c.head_width, 2, device=device) / c.head_width)
        self.cos, self.sin = angle.cos(), angle.sin()
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.trained = (wrap(before_attention), wrap(after_attention), wrap(short_attention), wrap(losses))

    def all(self):
        return {**self.matrices, **self.others}

    def parameters(self):
        return sum(p.numel() for p in self.all().values())

    def hidden(self, ids, functions):
        """ids: [rows, length] -> [rows * length, width] before the last norm"""
        c = self.config
        rows, length = ids.shape
        cos, sin = self.cos[:length].repeat(rows, 1), self.sin[:length].repeat(rows, 1)
        x = F.embedding(ids.flatten(), self.others["embedding"])
        m = {name: p.unbind(0) for name, p in self.matrices.items()}
        norms = self.others["attention_norm"].unbind(0), self.others["ffn_norm"].unbind(0)
        for i in range(c.layers):
            q, k, v = functions[0](x, norms[0][i], m["wq"][i], m["wk"][i], m["wv"][i], cos, sin, c, self.dtype)
            k, v = (t.repeat_interleave(c.heads // c.kv_heads, 1) for t in (k, v))
            q, k, v = (t.view(rows, length, c.heads, c.head_width).transpose(1, 2) for t in (q, k, v))
            o = functions[2](q, k, v) if ids.device.type == "cpu" and length <= 256 else F.scaled_dot_product_attention(q, k, v, is_causal=True)
            o = o.transpose(1, 2).reshape(rows * length, -1)
            x = functions[1](x, o, m["wo"][i], norms[1][i], m["gate"][i], m["up"][i], m["down"][i], c, self.dtype)
        return x

    def step(self, ids, targets, weights):
        """Forward and backward; leaves the gradients, returns the watched sums of losses()."""
        x = self.hidden(ids, self.trained)
        loss, watch = self.trained[3](x, self.others["output_norm"], self.others["embedding"], targets.flatten().long(), weights.flatten(), self.config, self.dtype)
        loss.backward()
        return watch

    @torch.no_grad()
    def next_tokens(self, ids, lengths):
        """Greedy next token after the first lengths[i] tokens of row i of ids (padded on the right)."""
        x = self.hidden(ids, (before_attention, after_attention, short_attention))
        last = x.view(*ids.shape, -1)[torch.arange(len(lengths), device=ids.device), lengths - 1]
        h = norm(last, self.others["output_norm"], self.config.epsilon)
        return F.linear(h, self.others["embedding"]).argmax(-1)

    def save(self):
        return {k: p.detach().float().cpu().numpy() for k, p in self.all().items()}

    @torch.no_grad()
    def load(self, arrays):
        for k, p in self.all().items():
            p.copy_(torch.tensor(arrays[k]).to(p.dtype))


class Optimizer:
    """Muon (orthogonalised momentum) for the matrices, Adam for embedding and norms; one learning rate for both, in
    Adam's units."""

    def __init__(self, model, momentum=0.95, decay=0.05, clip=1.0):
        self.model, self.momentum, self.decay, self.clip = model, momentum, decay, clip
        self.buffers = {k: torch.zeros_like(p) for k, p in model.matrices.items()}
        self.adam = torch.optim.AdamW(list(model.others.values()), lr=1e-3, betas=(0.9, 0.95), eps=1e-9, weight_decay=0.0)

    @staticmethod
    def orthogonal(g):
        """Newton-Schulz iteration (quintic) towards the nearest matrix with all singular values 1; g: [layers, rows, columns]."""
        x = g.to(torch.bfloat16)
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return (x.mT if tall else x).to(g.dtype)

    @torch.no_grad()
    def step(self, rate):
        for name, p in self.model.matrices.items():
            buffer = self.buffers[name]
            buffer.lerp_(p.grad, 1 - self.momentum)
            update = self.orthogonal(p.grad.lerp(buffer, self.momentum))
            p.mul_(1 - rate * self.decay)
            p.add_(update, alpha=-rate * 0.2 * max(p.shape[-2:]) ** 0.5)
            p.grad = None
        torch.nn.utils.clip_grad_norm_(list(self.model.others.values()), self.clip)
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


@torch.no_grad()
def generate(model, prompts, stop, most, tokens_at_once=262144):
    """Greedy answers (ids, without the stop token) to prompts (ids). Recomputes the whole text for every token: simple,
    and fast enough for an evaluation."""
    answers = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    limit = model.config.context
    while order:
        longest, group = 0, []
        while order and (not group or (len(group) + 1) * (len(prompts[order[0]]) + most) <= tokens_at_once):
            group.append(order.pop(0))
        live = list(group)
        while live:
            texts = [prompts[i] + answers[i] for i in live]
            longest = max(len(t) for t in texts)
            ids = torch.tensor([t + [0] * (longest - len(t)) for t in texts], device=model.device)
            new = model.next_tokens(ids, torch.tensor([len(t) for t in texts], device=model.device)).tolist()
            for i, token in zip(list(live), new):
                if token != stop:
                    answers[i].append(token)
                if token == stop or len(answers[i]) >= most or len(prompts[i]) + len(answers[i]) >= limit:
                    live.remove(i)
    return answers
