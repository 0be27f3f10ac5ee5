"""From sequences to the bodies that clients read."""

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
from arlarena.inference.embedded.text.token_bytes import Spelled
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
class Writer:
    """Writes the answers to one request. `sequences` are the choices in order, `n` of them per prompt."""

    identity: str
    model: str
    plan: SamplingPlan
    text: TextCodec
    sequences: list[Sequence]

    @property
    def size(self) -> int:
        """Tokens and log-probs that the answer has."""
        sampled = sum(len(s.tokens) for s in self.sequences) * (1 + (self.plan.params.logprobs or 0))
        scored = sum(len(s.prompt) for s in self.sequences if s.scored) * (1 + (self.plan.params.prompt_logprobs or 0))
        return sampled + scored

    # --- /inference/v1/generate ---

    def generate(self, *, return_ids: bool) -> GenerateResponse:
        """The whole answer of the token route."""
        first = self.sequences[0]
        return GenerateResponse(
            request_id=self.identity,
            choices=[self.generate_choice(i, s, 0, len(s.tokens), final=True) for i, s in enumerate(self.sequences)],
            model=self.model,
            created=int(time.time()),
            usage=self.usage(),
            prompt_logprobs=self.prompt_logprobs(first),
            prompt_token_ids=first.prompt if return_ids else None,
        )

    def generate_choice(self, index: int, s: Sequence, begin: int, end: int, *, final: bool) -> GenerateChoice:
        """Tokens [begin, end) of one choice."""
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
        """The whole answer of the completions route."""
        choices = [
            CompletionChoice(
                index=i,
                text=self.final_text(s),
                logprobs=self.completion_logprobs(s, 0, self.spelled(s)),
                finish_reason=s.finish_reason,
                stop_reason=s.stop_reason,
                token_ids=s.tokens if return_ids else None,
                prompt_token_ids=s.prompt if return_ids else None,
                prompt_logprobs=self.prompt_logprobs(s),
            )
            for i, s in enumerate(self.sequences)
        ]
        return CompletionResponse(
            id=self.identity, model=self.model, choices=choices, created=int(time.time()), usage=self.usage()
        )

    def completion_logprobs(self, s: Sequence, begin: int, spelled: list[Spelled] | None) -> CompletionLogprobs | None:
        """Log-probs of the tokens from `begin` on that are `spelled`."""
        if self.plan.params.logprobs is None or spelled is None:
            return None
        lists = CompletionLogprobs([], [], [], [])
        for i, one in enumerate(spelled, start=begin):
            lists.text_offset.append(one.begin)
            lists.tokens.append(one.token)
            lists.token_logprobs.append(finite(s.logprobs[i]))
            top = islice(_candidates(s, i), self.plan.params.logprobs + 1)
            lists.top_logprobs.append(self._by_text(one.token, [(token, finite(value)) for token, value, _ in top]))
        return lists

    def _by_text(self, sampled: str, top: list[tuple[int, float]]) -> dict[str, float]:
        """Candidates by their text, the sampled token first. One whose text another has is `token_id:ID`."""
        found: dict[str, float] = {sampled: top[0][1]}
        for token, value in top[1:]:
            text = self.text.piece(token)
            found[f"token_id:{token}" if text in found else text] = value
        return found

    # --- /v1/chat/completions ---

    def chat(self, *, return_ids: bool) -> ChatResponse:
        """The whole answer of the chat route."""
        choices = [
            ChatChoice(
                index=i,
                message=ChatMessage("assistant", self.final_text(s)),
                logprobs=self.chat_logprobs(s, 0, self.spelled(s)),
                finish_reason=s.finish_reason,
                stop_reason=s.stop_reason,
                token_ids=s.tokens if return_ids else None,
            )
            for i, s in enumerate(self.sequences)
        ]
        first = self.sequences[0]
        return ChatResponse(
            id=self.identity,
            model=self.model,
            choices=choices,
            created=int(time.time()),
            usage=self.usage(),
            prompt_logprobs=self.prompt_logprobs(first),
            prompt_token_ids=first.prompt if return_ids else None,
        )

    def chat_logprobs(self, s: Sequence, begin: int, spelled: list[Spelled] | None) -> ChatLogprobs | None:
        """Log-probs of the tokens from `begin` on that are `spelled`."""
        if self.plan.params.logprobs is None or spelled is None:
            return None
        content = []
        for i, one in enumerate(spelled, start=begin):
            sampled = ChatTopLogprob(one.token, finite(s.logprobs[i]), list(one.raw))
            ids, values = s.top[i] if s.top else ((), ())  # by log-prob, descending
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

    def spelled(self, s: Sequence) -> list[Spelled] | None:
        """All tokens of a response, cut like its text, if log-probs are asked for."""
        if self.plan.params.logprobs is None:
            return None
        spelling = self.text.spelling(skip_special=self.plan.params.skip_special_tokens)
        spelling.grow(s.tokens)
        if isinstance(s.stop_reason, str):
            spelling.cut(len(self.final_text(s)))
        return spelling.tokens

    def final_text(self, s: Sequence) -> str:
        """The response as text, without a stop string unless that was asked for."""
        p = self.plan.params
        whole = self.text.decode(s.tokens, skip_special=p.skip_special_tokens)
        stop = s.stop_reason if isinstance(s.stop_reason, str) else None
        return cut(whole, stop, include=p.include_stop_str_in_output)

    def usage(self) -> Usage:
        """Token counts: each prompt once, all choices."""
        prompt = sum(len(s.prompt) for s in self.sequences[:: self.plan.params.n])
        response = sum(len(s.tokens) for s in self.sequences)
        return Usage(prompt, prompt + response, response)

    def prompt_logprobs(self, s: Sequence) -> PromptLogprobs | None:
        """Scores of the prompt, the first entry None; present on the first choice of a prompt if asked for."""
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
    """(id, log-prob, rank): the sampled token of position `i`, then the likeliest others by rank."""
    sampled = (s.tokens[i], s.logprobs[i], s.ranks[i])
    if not s.top:
        return [sampled]
    ids, values = s.top[i]
    ranked = [(t, v, rank) for rank, (t, v) in enumerate(zip(ids, values, strict=True), start=1) if t != sampled[0]]
    return [sampled, *ranked]


def new_identity(kind: str) -> str:
    """An id for an answer, for example `cmpl-6f0c…`."""
    return f"{kind}-{secrets.token_hex(8)}"
