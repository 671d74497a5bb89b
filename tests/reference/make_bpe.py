"""bpe.json: byte pairs learned the slow way: after every merge all pairs are counted anew.

    python tests/reference/make_bpe.py

`texts`, `vocabulary` asked for, `pairs` learned, and `samples`: texts and their tokens. The rules are
those that datasets/bpe.h states; the code is another, and shares nothing with it.
"""

import json
import pathlib
import re
from collections import Counter

TEXTS = [
    "low low low low low lower lower newest newest newest newest newest newest",
    "widest widest widest",
    "Ein Mädchen, das lacht; zwei Mädchen, die lachen.",
    "koba of dorn says (tulo says [mire of elt has 7 axes.].)",
    "mire sees tulo. tulo of dorn helps koba. koba helps mire.",
    "aaaa aaaaaaa aa",
]
SAMPLES = TEXTS + ["slowest  newer, Mäd", "", " ", "unseen: 日本語!", "aaaaa"]
VOCABULARY = 258 + 40


def pieces(text):
    """A run of letters (bytes from 128 on, too) and digits, or one other byte, and a space before."""
    raw = (" " + text).encode()
    return re.findall(rb" ?[0-9A-Za-z\x80-\xff]+| ?[^ 0-9A-Za-z\x80-\xff]| ", raw)


def merged(word, pair, token):
    out, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def learn(texts):
    counts = Counter(piece for text in texts for piece in pieces(text))
    words = [([2 + byte for byte in piece], count) for piece, count in counts.items()]
    pairs = []
    while 258 + len(pairs) < VOCABULARY:
        seen = Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                seen[pair] += count
        if not seen or max(seen.values()) < 2:
            break
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        words = [(merged(word, best, 258 + len(pairs)), count) for word, count in words]
        pairs.append(best)
    return pairs


def encode(text, pairs):
    tokens = []
    for piece in pieces(text):
        word = [2 + byte for byte in piece]
        for rank, pair in enumerate(pairs):
            word = merged(word, pair, 258 + rank)
        tokens += word
    return tokens


def main():
    pairs = learn(TEXTS)
    result = {
        "texts": TEXTS,
        "vocabulary": VOCABULARY,
        "pairs": pairs,
        "samples": [[text, encode(text, pairs)] for text in SAMPLES],
    }
    path = pathlib.Path(__file__).resolve().parent / "bpe.json"
    path.write_text(json.dumps(result, ensure_ascii=False) + "\n")
    names = [bytes([i - 2]) if i >= 2 else b"" for i in range(258)]
    for a, b in pairs:
        names.append(names[a] + names[b])
    print(names[258:])


if __name__ == "__main__":
    main()
