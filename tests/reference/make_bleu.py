"""bleu.json: translations, references, and what sacrebleu makes of them.

    python tests/reference/make_bleu.py

`tokens`: texts as its 13a tokenizer cuts them. `corpora`: lists of translations and references,
with the score, the precisions, the brevity penalty and the lengths of its defaults.
"""

import json
import pathlib
import random

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

TEXTS = [
    "A man, in a blue shirt, stands on a ladder.",
    "It costs $3.50, or 1,000 yen (about 2-3%)...",
    "Zwei Männer – „Freunde“ – grüßen: ‚Hallo!‘",
    "&quot;Rock &amp; roll&quot; &lt;live&gt;",
    "a,b,,c..d 1,2,,3 .5 5. 5.a a.5 10-year-old -7 e.g. U.S.A.",
    "it's the dogs' [ball] {and} a|b~c a/b\\c #1 @home x=y+z * ^ _ `q`",
    "tabs\tand  double   spaces \u00a0 and\u3000wide",
    "line\nbreak and hyphen-\nation <skipped>here",
    "",
    "é.5 5.é é,é €5,00",
]

WORDS = "a man woman dog in the blue red shirt is running , . on street with ball - 3 2.5".split()


def spoiled(rng, words):
    words = list(words)
    for _ in range(rng.randrange(4)):
        kind, at = rng.randrange(3), rng.randrange(len(words))
        if kind == 0:
            words[at] = rng.choice(WORDS)
        elif kind == 1 and len(words) > 1:
            del words[at]
        else:
            words.insert(at, rng.choice(WORDS))
    return words


def main():
    rng = random.Random(1)
    corpora = [
        (["the cat sat on the mat ."], ["the cat sat on the mat ."]),
        (["the the the the the the the"], ["the cat is on the mat"]),
        (["It is a guide."], ["It is a guide to action that ensures obedience."]),
        (["nothing right here at all"], ["completely other words in this one"]),
        (["two words", "yes"], ["two words", "no"]),
        (["one two three", "a b"], ["one two three", "b a"]),
        (["", "a man runs in the street"], ["a dog", "a man is running in the street"]),
    ]
    for size in (3, 20):
        references = [rng.choices(WORDS, k=rng.randrange(3, 15)) for _ in range(size)]
        translations = [spoiled(rng, r) for r in references]
        corpora.append(([" ".join(t) for t in translations], [" ".join(r) for r in references]))
    cut = Tokenizer13a()
    result = {"tokens": [[text, cut(text).split()] for text in TEXTS], "corpora": []}
    for translations, references in corpora:
        score = sacrebleu.corpus_bleu(translations, [references])
        result["corpora"].append(
            {
                "translations": translations,
                "references": references,
                "score": score.score,
                "precisions": score.precisions,
                "brevity_penalty": score.bp,
                "length": score.sys_len,
                "reference_length": score.ref_len,
            }
        )
    path = pathlib.Path(__file__).resolve().parent / "bleu.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
