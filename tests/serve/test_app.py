"""The application through the real `openai` client: answers equal those of the model called directly."""

from __future__ import annotations

import asyncio

import openai
import pytest
import torch

from coterie.infer.sampling import SamplingParams
from tests.arithmetic import approx, approx_model, assert_model_close
from tests.serve.support import ASK, language_model

GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def reference():
    return language_model()


def test_models(client):
    listed = client.models.list().data
    assert [(m.id, m.parent) for m in listed] == [("tiny", None), ("small", "tiny")]
    assert client.models.retrieve("small").max_model_len == 512
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("owner/name")
    assert caught.value.code == "model_not_found"


def test_chat_is_what_the_model_says(client, reference):
    answer = client.chat.completions.create(model="tiny", messages=ASK, **GREEDY)
    expected = reference.chat(ASK, SamplingParams(**GREEDY))
    choice = answer.choices[0]
    assert choice.message.content == expected.text.strip()
    assert choice.finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == len(reference.render(ASK))
    assert answer.usage.completion_tokens == len(expected.ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-") and answer.system_fingerprint.startswith("fp_")


def test_stream_equals_plain(client):
    settings = {"model": "tiny", "messages": ASK, "temperature": 1.3, "seed": 5, "max_tokens": 40, "n": 3}
    plain = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    )
    texts, finish = ["", "", ""], [None] * 3
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish[choice.index] = choice.finish_reason or finish[choice.index]
    assert texts == [choice.message.content for choice in plain.choices]
    assert finish == [choice.finish_reason for choice in plain.choices]
    assert len(set(texts)) == 3
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[0].choices[0].delta.role == "assistant"


def test_stream_helper_and_async(server):
    async def run() -> tuple[str, str]:
        client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        async with client.chat.completions.stream(
            model="tiny", messages=ASK, seed=3, max_tokens=20
        ) as stream:
            final = await stream.get_final_completion()
        plain = await client.chat.completions.create(model="tiny", messages=ASK, seed=3, max_tokens=20)
        await client.close()
        return final.choices[0].message.content or "", plain.choices[0].message.content or ""

    streamed, plain = asyncio.run(run())
    assert streamed == plain


def test_chat_logprobs(client, reference):
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, logprobs=True, top_logprobs=4, **GREEDY
    )
    expected = reference.chat(ASK, SamplingParams(logprobs=4, **GREEDY))
    entries = answer.choices[0].logprobs.content
    kept = [i for i, token in enumerate(expected.ids) if token not in reference.stop_ids]
    tokens = len(reference.render(ASK)) + len(expected.ids)
    size = max(abs(value) for i in kept for _, value in expected.top[i])
    chosen = [expected.logprobs[i] for i in kept]
    assert [entry.logprob for entry in entries] == approx_model(reference.config, chosen, tokens, size)
    for entry, i in zip(entries, kept, strict=True):
        assert bytes(entry.bytes) == reference.tokenizer.token_bytes([expected.ids[i]])[0]
        best = [value for _, value in expected.top[i]]
        assert [t.logprob for t in entry.top_logprobs] == approx_model(reference.config, best, tokens, size)


def test_echoed_logprobs_are_the_forward_pass(client, reference):
    prompts = [[5, 17, 200, 31, 8, 44], reference.encode("Once upon a time")]
    answer = client.completions.create(
        model="tiny", prompt=prompts, max_tokens=1, logprobs=3, echo=True, temperature=0, seed=1
    )
    for ids, choice in zip(prompts, answer.choices, strict=True):
        found = choice.logprobs
        assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
        assert len(found.token_logprobs) == len(found.tokens) == len(found.text_offset) == len(ids) + 1
        expected = reference.logprobs(ids).tolist()
        assert found.token_logprobs[1:-1] == approx_model(reference.config, expected, len(ids))
        best = reference.logits(ids).log_softmax(-1).amax(-1).tolist()
        tops = [max(top.values()) for top in found.top_logprobs[1:]]
        size = max(abs(value) for value in expected)
        assert tops == approx_model(reference.config, best, len(ids), size)
        # Greedy: the drawn token's number is the same float as the best one's.
        assert found.token_logprobs[-1] == tops[-1]
        assert "".join(found.tokens[:-1]) == reference.tokenizer.decode(ids) or "bytes:" in "".join(
            found.tokens
        )


def test_a_prompt_scored_alone(client, reference):
    ids = reference.encode("there was a fox")
    answer = client.completions.create(model="tiny", prompt=ids, max_tokens=0, logprobs=0, echo=True)
    choice = answer.choices[0]
    assert choice.text == reference.tokenizer.decode(ids) and answer.usage.completion_tokens == 0
    expected = reference.logprobs(ids).tolist()
    assert choice.logprobs.token_logprobs[1:] == approx_model(reference.config, expected, len(ids))


def test_completion_stream_equals_plain(client):
    settings = {
        "model": "small",
        "prompt": ["Once", "little"],
        "seed": 9,
        "max_tokens": 24,
        "logprobs": 2,
        "echo": True,
    }
    plain = client.completions.create(**settings)
    texts, values = ["", ""], [[], []]
    for chunk in client.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            values[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice.text for choice in plain.choices]
    assert values == [choice.logprobs.token_logprobs for choice in plain.choices]


def test_penalties_bias_and_stops(client, reference):
    prompt = reference.encode("Once upon")
    banned = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=8)
    first = reference.generate(prompt, SamplingParams(temperature=0, max_tokens=8))
    assert banned.choices[0].text == first.text
    biased = client.completions.create(
        model="tiny",
        prompt=prompt,
        max_tokens=4,
        logit_bias={"70": 100},
        extra_body={"return_token_ids": True},
    )
    assert biased.choices[0].token_ids == [70] * 4
    spread = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=3, temperature=0, presence_penalty=2, frequency_penalty=2,
        logit_bias={"70": 30, "71": 29}, extra_body={"return_token_ids": True},
    )  # fmt: skip
    assert spread.choices[0].token_ids == [70, 71, 70]
    text = first.text
    cut = client.completions.create(
        model="tiny", prompt=prompt, temperature=0, max_tokens=8, stop=[text[3:5]]
    )
    assert cut.choices[0].text == text[: text.index(text[3:5])] and cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings(client, reference, form):
    texts = ["a little fox", "Hello, user!"]
    answer = client.embeddings.create(model="tiny", input=texts, encoding_format=form)
    from coterie.nn.forward_context import ForwardContext

    for text, entry in zip(texts, answer.data, strict=True):
        ids = reference.encode(text)
        with torch.no_grad():
            mean = reference.model(torch.tensor(ids), ForwardContext.packed([len(ids)])).mean(0)
        if form == "base64":
            import base64

            vector = torch.frombuffer(bytearray(base64.b64decode(entry.embedding)), dtype=torch.float32)
        else:
            vector = torch.tensor(entry.embedding)
        assert_model_close(reference.config, vector, mean / mean.norm(), len(ids))
    short = client.embeddings.create(model="tiny", input="a", dimensions=5).data[0].embedding
    assert len(short) == 5 and sum(x * x for x in short) == approx(1.0, terms=5, depth=2)


def test_raw_headers(client):
    raw = client.chat.completions.with_raw_response.create(
        model="tiny",
        messages=ASK,
        max_tokens=2,
        user="me",
        store=True,
        extra_headers={"x-request-id": "mine-1"},
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-coterie-ignored"] == "store,user"
