#!/usr/bin/env python3
"""The byte-level BPE of the tiny models: training, encoding, decoding (standard library only).

    python3 bpe.py FOLDER ...       trains on seeded training problems, writes tokenizer.json and tokenizer_config.json

A piece is a run of ASCII letters with the one space before it, if any, or else a single other byte-encoded character. So each
digit, operator, '#' and newline is a token of its own. The files are those of Hugging Face's tokenizers and transformers.
"""
import collections
import json
import pathlib
import random
import re
import sys

import problems

HERE = pathlib.Path(__file__).resolve().parent
PIECE = re.compile(r" ?[A-Za-z]+|[^A-Za-z]")
EOS, EOS_ID = "<|endoftext|>", 0           # ends a document, pads a batch
VOCABULARY, TEXTS, SEED = 768, 40000, 3
# Renders lm_eval's multi-turn shots (user: "Question: ...\nAnswer:", assistant: the answer) to exactly the plain prompt.
CHAT_TEMPLATE = ("{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}{{ ' ' + message['content'] + '\\n\\n' }}"
                 "{%- else -%}{{ message['content'] }}{%- endif -%}{%- endfor -%}")


def byte_characters():
    """{byte: the printable character that stands for it}, as GPT-2 maps them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


CHARACTER = byte_characters()
BYTE = {c: b for b, c in CHARACTER.items()}


def merge(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i:i + 2]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def train(texts, size):
    """(vocabulary, merges): the most frequent pair is merged until the vocabulary is full; ties go to the greater pair."""
    counts = collections.Counter(piece for text in texts for piece in PIECE.findall(text))
    words = {w: [CHARACTER[b] for b in w.encode()] for w in counts}
    vocabulary, merges = [EOS] + [CHARACTER[b] for b in range(256)], []
    while len(vocabulary) < size:
        pairs = collections.Counter()
        for word, symbols in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += counts[word]
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        vocabulary.append("".join(best))
        for word, symbols in words.items():
            if best[0] in symbols:
                words[word] = merge(symbols, best)
    return vocabulary, merges


def save(folder, vocabulary, merges):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PIECE.pattern}, "behavior": "Isolated", "invert": False}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": EOS_ID, "content": EOS, **special}], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {v: i for i, v in enumerate(vocabulary)}, "merges": [list(m) for m in merges]}}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False, "bos_token": None,
              "eos_token": EOS, "pad_token": EOS, "unk_token": None, "clean_up_tokenization_spaces": False,
              "model_max_length": 2048, "added_tokens_decoder": {str(EOS_ID): {"content": EOS, **special}},
              "chat_template": CHAT_TEMPLATE}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n")


class Tokenizer:
    def __init__(self, path=HERE / "canary" / "tokenizer.json"):
        model = json.loads(pathlib.Path(path).read_text())["model"]
        self.id = model["vocab"]
        self.token = {i: t for t, i in self.id.items()}
        self.rank = {tuple(p): i for i, p in enumerate(model["merges"])}
        self.cache = {}

    def piece(self, piece):
        symbols = [CHARACTER[b] for b in piece.encode()]
        while len(symbols) > 1:
            pair = min(zip(symbols, symbols[1:]), key=lambda p: self.rank.get(p, len(self.rank)))
            if pair not in self.rank:
                break
            symbols = merge(symbols, pair)
        return [self.id[s] for s in symbols]

    def encode(self, text):
        out = []
        for piece in PIECE.findall(text):
            ids = self.cache.get(piece)
            if ids is None:
                ids = self.piece(piece)
                if len(self.cache) < 100000:
                    self.cache[piece] = ids
            out += ids
        return out

    def decode(self, ids):
        """The text of the ids; the end-of-text token is left out."""
        return bytes(BYTE[c] for i in ids if i != EOS_ID for c in self.token[i]).decode(errors="replace")


def main():
    rng = random.Random(SEED)
    texts = (problems.shot(*problems.draw(rng)) for _ in range(TEXTS))
    vocabulary, merges = train(texts, VOCABULARY)
    for folder in map(pathlib.Path, sys.argv[1:]):
        save(folder, vocabulary, merges)
        tokenizer = Tokenizer(folder / "tokenizer.json")
        tests = problems.frozen("test")
        sizes = [(len(tokenizer.encode(problems.prompt(q))), len(tokenizer.encode(" " + a))) for q, a in tests]
        assert all(tokenizer.decode(tokenizer.encode(problems.shot(q, a))) == problems.shot(q, a) for q, a in tests)
        five = [len(tokenizer.encode(p)) for p in problems.prompts(5)]
        for name, xs in (("question", [q for q, _ in sizes]), ("answer", [a for _, a in sizes]), ("5-shot prompt", five)):
            print(f"{name} tokens: mean {sum(xs) / len(xs):.1f}, at most {max(xs)}")


if __name__ == "__main__":
    main()
