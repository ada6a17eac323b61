"""Greedy decoding of many prompts at once, each row with its own planted fault."""
import torch

EOS = 0


class Cache:
    """One layer's keys and values [B, length, kv heads, D]; rows of different lengths, each filled from position 0."""

    def __init__(self, rows, length, kv_heads, width, device, dtype):
        self.k = torch.zeros(rows, length, kv_heads, width, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        self.rows = torch.arange(rows, device=device)

    def update(self, k, v, positions):
        """Prefill (positions [T]) returns its own keys and no mask; one token a row (positions [B, 1]) the cache and its mask."""
        if positions.ndim == 1:
            self.k[:, :k.shape[1]], self.v[:, :k.shape[1]] = k, v
            return k, v, None
        self.k[self.rows, positions[:, 0]], self.v[self.rows, positions[:, 0]] = k[:, 0], v[:, 0]
        mask = torch.arange(self.k.shape[1], device=k.device)[None, :] <= positions
        return self.k, self.v, mask

    @staticmethod
    def attend(q, k, v, mask):
        """q [B, 1, heads, D] against the cache, without copying it for each query head: [B, 1, heads, D]."""
        rows, _, heads, width = q.shape
        q = q.view(rows, k.shape[2], heads // k.shape[2], width)
        scores = (q @ k.permute(0, 2, 3, 1)).float() * width ** -0.5
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        return (scores.softmax(-1).to(v.dtype) @ v.transpose(1, 2)).view(rows, 1, heads, width)


def padded(prompts, device):
    lengths = torch.tensor([len(p) for p in prompts])
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for i, p in enumerate(prompts):
        ids[i, :len(p)] = torch.tensor(p)
    return ids.to(device), lengths.to(device)


@torch.no_grad()
def generate(model, prompts, newline, knobs=None, max_new=160):
    """Greedy continuations (lists of ids, without eos), ended by eos or a blank line. knobs [B, layers + 1, knobs]."""
    ids, lengths = padded(prompts, model.embed.device)
    rows, longest = ids.shape
    knobs = model.right_knobs(rows) if knobs is None else knobs
    attention = model.layers[0].attention
    dtype = torch.get_autocast_dtype(ids.device.type) if torch.is_autocast_enabled(ids.device.type) else torch.float32
    caches = [Cache(rows, longest + max_new, attention.kv_heads, attention.D, ids.device, dtype) for _ in model.layers]
    hidden, _ = model.trunk(ids, knobs, caches=caches)
    last = hidden[torch.arange(rows, device=ids.device), lengths - 1]
    del hidden
    positions = lengths[:, None].clone()
    done, before, out = torch.zeros_like(lengths, dtype=torch.bool), torch.full_like(lengths, -1), []
    for t in range(max_new):
        token = model.logits(last).float().argmax(-1).masked_fill(done, EOS)
        out.append(token)
        done = done | (token == EOS) | ((token == newline) & (before == newline))
        before = token
        if t % 16 == 15 and bool(done.all()):
            break
        hidden, _ = model.trunk(token[:, None], knobs, positions, caches)
        last, positions = hidden[:, 0], positions + 1
    texts = torch.stack(out, 1).tolist()
    return [t[:t.index(EOS)] if EOS in t else t for t in texts]
