"""Builds the bodies of responses from sequences."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from itertools import islice

from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.serving.chat_wire import (
    ChatChoice,
    ChatLogprobs,
    ChatMessage,
    ChatResponse,
    ChatTokenLogprob,
    ChatTopLogprob,
)
from arlarena.inference.embedded.serving.request_checks import SamplingPlan
from arlarena.inference.embedded.text.codec import TextCodec, cut
from arlarena.inference.embedded.text.token_bytes import TokenText
from arlarena.proto.policy import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionResponse,
    GenerateChoice,
    GenerateLogprobs,
    GenerateResponse,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
    Usage,
    WeightSpan,
    finite,
)


@dataclass(frozen=True, slots=True)
class ResponseBuilder:
    """Builds the response to one request. `sequences`: one sequence for each choice. They are ordered by prompt: first
    the `n` choices of the first prompt, then the `n` choices of the second prompt, and so on.
    """

    response_id: str
    model: str
    plan: SamplingPlan
    text: TextCodec
    sequences: list[Sequence]

    @property
    def size(self) -> int:
        """The number of tokens and log-probs in the response, as a measure of its size."""
        sampled = sum(len(s.tokens) for s in self.sequences) * (1 + (self.plan.params.logprobs or 0))
        scored = sum(len(s.prompt) for s in self.sequences if s.scored) * (1 + (self.plan.params.prompt_logprobs or 0))
        return sampled + scored

    # --- /inference/v1/generate ---

    def generate(self, *, return_ids: bool) -> GenerateResponse:
        """Returns the response of `/inference/v1/generate`. `return_ids`: also return the prompt's token ids."""
        first = self.sequences[0]
        return GenerateResponse(
            request_id=self.response_id,
            choices=[self.generate_choice(i, s, 0, len(s.tokens), final=True) for i, s in enumerate(self.sequences)],
            model=self.model,
            created=int(time.time()),
            usage=self.usage(),
            prompt_logprobs=self.prompt_logprobs(first),
            prompt_token_ids=first.prompt if return_ids else None,
        )

    def generate_choice(self, index: int, s: Sequence, begin: int, end: int, *, final: bool) -> GenerateChoice:
        """Returns one choice with its tokens [begin, end). A response that is not streamed contains all tokens of a
        choice. An event of a stream contains a part. `index`: the index of the choice. `final`: True if this part is
        the last part of the choice.
        """
        logprobs = None
        if self.plan.params.logprobs is not None:
            logprobs = GenerateLogprobs([self._token_logprob(s, i) for i in range(begin, end)])
        return GenerateChoice(
            index=index,
            token_ids=s.tokens[begin:end],
            finish_reason=s.finish_reason if final else None,
            stop_reason=s.stop_reason if final else None,
            logprobs=logprobs,
            weight_versions=[WeightSpan(*span) for span in s.spans()] if final else None,
        )

    def _token_logprob(self, s: Sequence, i: int) -> TokenLogprob:
        count = max(self.plan.params.logprobs or 0, 1)
        top = [TopLogprob(t, finite(value), rank) for t, value, rank in islice(_candidates(s, i), count)]
        return TokenLogprob(s.tokens[i], finite(s.logprobs[i]), s.ranks[i], top)

    # --- /v1/completions ---

    def completion(self, *, return_ids: bool) -> CompletionResponse:
        """Returns the response of `/v1/completions`. `return_ids`: also return the token ids of prompts and choices."""
        choices = [
            CompletionChoice(
                index=i,
                text=self.final_text(s),
                logprobs=self.completion_logprobs(s, 0, self.token_texts(s)),
                finish_reason=s.finish_reason,
                stop_reason=s.stop_reason,
                token_ids=s.tokens if return_ids else None,
                prompt_token_ids=s.prompt if return_ids else None,
                prompt_logprobs=self.prompt_logprobs(s),
            )
            for i, s in enumerate(self.sequences)
        ]
        return CompletionResponse(
            id=self.response_id, model=self.model, choices=choices, created=int(time.time()), usage=self.usage()
        )

    def completion_logprobs(self, s: Sequence, begin: int, texts: list[TokenText] | None) -> CompletionLogprobs | None:
        """Returns the log-probs of some tokens of a response. `begin`: the index of the first of these tokens. `texts`:
        the texts of these tokens. Returns None if no log-probs are requested.
        """
        if self.plan.params.logprobs is None or texts is None:
            return None
        lists = CompletionLogprobs([], [], [], [])
        for i, text in enumerate(texts, start=begin):
            lists.text_offset.append(text.begin)
            lists.tokens.append(text.token)
            lists.token_logprobs.append(finite(s.logprobs[i]))
            top = islice(_candidates(s, i), self.plan.params.logprobs + 1)
            lists.top_logprobs.append(self._by_text(text.token, [(token, finite(value)) for token, value, _ in top]))
        return lists

    def _by_text(self, sampled: str, top: list[tuple[int, float]]) -> dict[str, float]:
        """Returns a dictionary with the log-prob of each candidate token. The keys are the texts of the tokens. If two
        candidates have the same text, the key of the second candidate is `token_id:ID`. `top`: pairs (id, log-prob) of
        the candidates, with the sampled token first. `sampled`: the text of the sampled token.
        """
        candidates: dict[str, float] = {sampled: top[0][1]}
        for token, value in top[1:]:
            text = self.text.piece(token)
            candidates[f"token_id:{token}" if text in candidates else text] = value
        return candidates

    # --- /v1/chat/completions ---

    def chat(self, *, return_ids: bool) -> ChatResponse:
        """Returns the response of `/v1/chat/completions`. `return_ids`: also return the token ids of the prompt and of
        all choices.
        """
        choices = [
            ChatChoice(
                index=i,
                message=ChatMessage("assistant", self.final_text(s)),
                logprobs=self.chat_logprobs(s, 0, self.token_texts(s)),
                finish_reason=s.finish_reason,
                stop_reason=s.stop_reason,
                token_ids=s.tokens if return_ids else None,
            )
            for i, s in enumerate(self.sequences)
        ]
        first = self.sequences[0]
        return ChatResponse(
            id=self.response_id,
            model=self.model,
            choices=choices,
            created=int(time.time()),
            usage=self.usage(),
            prompt_logprobs=self.prompt_logprobs(first),
            prompt_token_ids=first.prompt if return_ids else None,
        )

    def chat_logprobs(self, s: Sequence, begin: int, texts: list[TokenText] | None) -> ChatLogprobs | None:
        """Returns the log-probs of some tokens of a response. `begin`: the index of the first of these tokens. `texts`:
        the texts of these tokens. Returns None if no log-probs are requested.
        """
        if self.plan.params.logprobs is None or texts is None:
            return None
        content = []
        for i, text in enumerate(texts, start=begin):
            sampled = ChatTopLogprob(text.token, finite(s.logprobs[i]), list(text.raw))
            ids, values = s.top[i] if s.top else ((), ())  # in descending order of log-prob
            top = [
                sampled if token == s.tokens[i] else self._candidate(token, value)
                for token, value in zip(ids, values, strict=True)
            ]
            content.append(ChatTokenLogprob(sampled.token, sampled.logprob, sampled.bytes, top))
        return ChatLogprobs(content)

    def _candidate(self, token: int, value: float) -> ChatTopLogprob:
        raw = self.text.bytes_of(token, skip_special=self.plan.params.skip_special_tokens)
        return ChatTopLogprob(self.text.piece(token), finite(value), list(raw))

    # --- shared ---

    def token_texts(self, s: Sequence) -> list[TokenText] | None:
        """Returns the text of each token of a response. If a stop string ended the response, the tokens contain no text
        after the end of the response. Returns None if no log-probs are requested.
        """
        if self.plan.params.logprobs is None:
            return None
        texts = self.text.token_texts(skip_special=self.plan.params.skip_special_tokens)
        texts.extend(s.tokens)
        if isinstance(s.stop_reason, str):
            texts.cut(len(self.final_text(s)))
        return texts.tokens

    def final_text(self, s: Sequence) -> str:
        """Returns the text of a response. If a stop string ended the response, the text ends before this stop string.
        If the request has `include_stop_str_in_output`, the text ends after the stop string.
        """
        p = self.plan.params
        text = self.text.decode(s.tokens, skip_special=p.skip_special_tokens)
        stop = s.stop_reason if isinstance(s.stop_reason, str) else None
        return cut(text, stop, include=p.include_stop_str_in_output)

    def usage(self) -> Usage:
        """Returns the token counts. Each prompt is counted once, even if it has several choices."""
        prompt = sum(len(s.prompt) for s in self.sequences[:: self.plan.params.n])
        response = sum(len(s.tokens) for s in self.sequences)
        return Usage(prompt, prompt + response, response)

    def prompt_logprobs(self, s: Sequence) -> PromptLogprobs | None:
        """Returns one entry for each prompt token. The entry contains the log-prob and the rank of the prompt token and
        of the most likely tokens at its position. The entry of the first prompt token is None. Returns None instead of
        the list if prompt log-probs are not requested, or if `s` is not the first choice of its prompt.
        """
        scored = s.scored
        if scored is None:
            return None
        entries: PromptLogprobs = [None]
        for i, token in enumerate(s.prompt[1:]):
            entry = {token: PromptLogprob(finite(scored.logprobs[i]), scored.ranks[i], self._decoded(token))}
            if scored.top is not None:
                for rank, (other, value) in enumerate(zip(scored.top[0][i], scored.top[1][i], strict=True), start=1):
                    entry.setdefault(other, PromptLogprob(finite(value), rank, self._decoded(other)))
            entries.append(entry)
        return entries

    def _decoded(self, token: int) -> str | None:
        return self.text.piece(token) if self.text.present else None


def _candidates(s: Sequence, i: int) -> list[tuple[int, float, int]]:
    """Returns a list of (id, log-prob, rank) for position `i` of a response. The sampled token is first. The other most
    likely tokens follow in the order of their ranks.
    """
    sampled = (s.tokens[i], s.logprobs[i], s.ranks[i])
    if not s.top:
        return [sampled]
    ids, values = s.top[i]
    ranked = [(t, v, rank) for rank, (t, v) in enumerate(zip(ids, values, strict=True), start=1) if t != sampled[0]]
    return [sampled, *ranked]


def new_response_id(kind: str) -> str:
    """Returns a random id for a response. `kind`: the id's prefix. An example of an id with the prefix `cmpl` is
    `cmpl-6f0c1d2e3a4b5c6d`.
    """
    return f"{kind}-{secrets.token_hex(8)}"
