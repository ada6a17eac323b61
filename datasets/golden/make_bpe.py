#!/usr/bin/env python3
"""Token ids of awkward texts by Hugging Face's tokenizers, for harness/glm4_moe/bpe_tokenizer.cpp.

    python3 datasets/golden/make_bpe.py        writes datasets/golden/bpe.json (needs the package tokenizers)
"""
import json
import pathlib
import random

import tokenizers

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "tiny_glm4_moe" / "canary" / "tokenizer.json"


def texts():
    yield from ["", " ", "  ", "a", " a", "  a", "a ", "\n", "\n\n", "\t\r\n", "Question: 1+1?\nAnswer: 2\n#### 2", "x" * 300,
                "don't stop", "naïve café", "数学 18 ÷ 3", "e\u0301", "🙂🙂 ok", "<|endoftext|>", "a<|endoftext|>b",
                "<|endoftext|", " <|endoftext|> <|endoftext|>", "\u2028 \u00a0x", "1,234.50 $5.00 50% 3*4=12", "A B C", "  Two  spaces  "]
    rng = random.Random(11)
    alphabet = list("aeiouxyzTHE  \n.,$#0123456789") + ["é", "漢", "🙂", "Question", " the", " dollars", "####"]
    for _ in range(200):
        yield "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60)))
    for line in (HERE.parent / "word_problems" / "test.jsonl").read_text().splitlines()[:40]:
        row = json.loads(line)
        yield f"Question: {row['question']}\nAnswer: {row['answer']}"


def main():
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    rows = [{"text": t, "ids": tokenizer.encode(t).ids} for t in texts()]
    out = {"tokenizers": tokenizers.__version__, "rows": rows}
    (HERE / "bpe.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(len(rows), "texts")


if __name__ == "__main__":
    main()
