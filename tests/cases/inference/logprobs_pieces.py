"""The tokens and bytes of log-probs spell the text, in chat and completions, and for SentencePiece-like tokenizers."""

from cases.case_support import call, check, finish, policy, run

LLAMA = r"""
from tokenizers import Tokenizer, decoders, models
from arlarena.inference.embedded.text.codec import TextCodec
t = Tokenizer(models.BPE(vocab={"<unk>": 0, "\u2581go": 1, "\u2581up": 2, "x": 3}, merges=[], unk_token="<unk>"))
t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
text = TextCodec(t)
print("".join(text.piece(i) for i in (1, 2, 3)) + "|" + text.decode([1, 2, 3]))
"""

with policy() as at:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 40,
        "seed": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "ignore_eos": True,
        "skip_special_tokens": False,
    }
    choice = call(at, "POST", "/v1/chat/completions", body)[1]["choices"][0]
    spelled = b"".join(bytes(one["bytes"]) for one in choice["logprobs"]["content"]).decode("utf-8", "replace")
    check("chat: the bytes of the tokens, joined, are the text", spelled == choice["message"]["content"], True)
    lost = short = 0
    for seed in range(5):
        body = {"prompt": "hi", "max_tokens": 40, "seed": seed, "logprobs": 4, "ignore_eos": True}
        found = call(at, "POST", "/v1/completions", body)[1]["choices"][0]["logprobs"]
        for token, value, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
            lost += abs(top[token] - value) > 1e-9
            short += len(top) < 4
    check("completions: positions (of 200) whose top_logprobs give the sampled token another value", lost, 0)
    check("completions: positions (of 200) with fewer candidates than asked for", short, 0)

pieces, _, whole = run(LLAMA).strip().partition("|")
check("Llama's tokenizer: pieces, joined", pieces.strip(), whole)
finish()
