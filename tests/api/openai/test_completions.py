"""The fields that researchers use, as vLLM names them, in completions and chat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from coterie.infer.sampling import SamplingParams
from coterie.text.tokenizer import SPECIALS, Tokenizer
from tests.arithmetic import approx_model
from tests.infer.models import tiny_model
from tests.serve.support import ASK, TEXTS, LanguageModel, language_model, serving

GREEDY = {"model": "tiny", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def reference() -> LanguageModel:
    return language_model()


@pytest.fixture(scope="module")
def ids(reference):
    """What greedy decoding says after a prompt, with nothing that ends it."""
    return reference.generate([9, 8, 7], SamplingParams(temperature=0, max_tokens=12, stop_ids=())).ids


def ids_of(client, **extra):
    body = {"return_token_ids": True, **extra}
    return client.completions.create(prompt=[9, 8, 7], extra_body=body, **GREEDY).choices[0]


def test_stop_token_ids_ignore_eos_and_min_tokens(client, ids):
    stop = ids[4]
    first = ids.index(stop) + 1
    stopped = ids_of(client, stop_token_ids=[stop])
    assert stopped.token_ids == ids[:first] and stopped.finish_reason == "stop"
    assert ids_of(client, ignore_eos=True).token_ids == ids
    later = ids_of(client, stop_token_ids=[stop], min_tokens=12)
    assert len(later.token_ids) == 12 and stop not in later.token_ids and later.finish_reason == "length"
    assert later.token_ids[: first - 1] == ids[: first - 1]
    unused = next(token for token in range(300) if token not in ids)
    assert ids_of(client, stop_token_ids=[unused], min_tokens=12, ignore_eos=True).token_ids == ids


def test_the_stop_string_may_stay(client, ids, reference):
    text = reference.tokenizer.decode(ids)
    stop = text[4:6]
    end = text.index(stop) + len(stop)
    for stream in (False, True):
        answer = client.completions.create(
            prompt=[9, 8, 7], stop=[stop], stream=stream, **GREEDY,
            extra_body={"include_stop_str_in_output": True, "ignore_eos": True},
        )  # fmt: skip
        found = "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
        assert found == text[:end]


def test_chat_stops_late_and_may_keep_the_stop(client):
    def said(**extra):
        choice = client.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=30, seed=4, extra_body={"ignore_eos": True, **extra}
        ).choices[0]
        return choice.message.content, choice.finish_reason

    free, _ = said()
    stop = next(char for char in free if free.count(char) > 1 and not char.isspace())
    early, finish = said(stop=[stop])
    assert (early, finish) == (free[: free.index(stop)], "stop")
    assert said(stop=[stop], include_stop_str_in_output=True)[0] == free[: free.index(stop) + 1]
    late, _ = said(stop=[stop], min_tokens=20)
    assert late.startswith(free[: free.index(stop) + 1]) and len(late) > len(early)


def test_an_end_that_is_ignored_is_a_token_of_the_reply(client, reference):
    end = reference.tokenizer.eos_id
    counts = []
    for extra in ({"ignore_eos": True}, {}, {"ignore_eos": True, "stop_token_ids": [end]}):
        choice = client.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=3, logit_bias={str(end): 100}, logprobs=True,
            extra_body={"return_token_ids": True, **extra},
        ).choices[0]  # fmt: skip
        counts.append((len(choice.token_ids), len(choice.logprobs.content), choice.finish_reason))
    assert counts == [(3, 3, "length"), (1, 1, "stop"), (1, 1, "stop")]


@pytest.mark.parametrize("skip", [None, False, True])
def test_special_tokens_in_a_text(client, reference, skip):
    special = reference.tokenizer.token_id("<think>")
    choice = client.completions.create(
        model="tiny", prompt=[5, 6], max_tokens=3, seed=1, logit_bias={str(special): 100}, logprobs=0,
        extra_body={"skip_special_tokens": skip, "return_token_ids": True},
    ).choices[0]  # fmt: skip
    assert choice.token_ids == [special] * 3 and choice.text == ("" if skip else "<think>" * 3)
    assert choice.logprobs.text_offset == ([0, 0, 0] if skip else [0, 7, 14])


def test_prompt_logprobs_are_those_of_the_model(client, reference):
    prompt = reference.encode("Once upon a time")
    expected = reference.logprobs(prompt).tolist()
    body = {"prompt_logprobs": 2}
    completed = client.completions.create(
        model="tiny", prompt=[prompt, prompt[:3]], n=2, max_tokens=1, extra_body=body
    )
    answers = [choice.prompt_logprobs for choice in completed.choices]
    assert answers[0] == answers[1] and len(answers[2]) == len(answers[3]) == 3
    chat = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=1, n=2, extra_body={**body, "return_token_ids": True}
    )
    talk = chat.choices[0].prompt_token_ids
    for tokens, entries in ((prompt, answers[0]), (talk, chat.prompt_logprobs)):
        assert entries[0] is None and len(entries) == len(tokens)
        values = [entry[str(token)]["logprob"] for token, entry in zip(tokens[1:], entries[1:], strict=True)]
        assert values == approx_model(reference.config, reference.logprobs(tokens).tolist(), len(tokens))
        for token, entry in zip(tokens[1:], entries[1:], strict=True):
            ranks = sorted((one["rank"], -one["logprob"]) for one in entry.values())
            assert [rank for rank, _ in ranks][:2] == [1, 2] and ranks == sorted(ranks, key=lambda r: r[1])
            assert entry[str(token)]["decoded_token"] == reference.tokenizer.token_bytes([token])[0].decode(
                "utf-8", "replace"
            )
    assert len(expected) == len(prompt) - 1


def test_echo_and_prompt_logprobs_together(client):
    answer = client.completions.create(
        model="tiny", prompt=[4, 5, 6], n=2, max_tokens=1, logprobs=1, echo=True, seed=1,
        extra_body={"prompt_logprobs": 4},
    )  # fmt: skip
    for choice in answer.choices:
        assert all(len(entry) in (4, 5) for entry in choice.prompt_logprobs[1:])
        assert all(len(top) in (1, 2) for top in choice.logprobs.top_logprobs[1:])


def test_the_end_of_a_prompt_is_kept(client, reference):
    long = list(range(20, 60)) * 20  # more than the model's positions
    for keep, expected in ((3, long[-3:]), (-1, long[-(512 - 7) :])):
        answer = client.completions.create(
            model="tiny", prompt=long, max_tokens=7, temperature=0,
            extra_body={"truncate_prompt_tokens": keep, "return_token_ids": True},
        )  # fmt: skip
        assert answer.choices[0].prompt_token_ids == expected
        assert answer.usage.prompt_tokens == len(expected)
    chat = [
        client.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=1, extra_body={"return_token_ids": True, **extra}
        ).choices[0].prompt_token_ids
        for extra in ({}, {"truncate_prompt_tokens": 5}, {"truncate_prompt_tokens": 5000})
    ]  # fmt: skip
    assert chat[1] == chat[0][-5:] and chat[2] == chat[0]


@pytest.mark.parametrize("include", [False, True])
def test_usage_in_every_event(client, include):
    options = {"include_usage": include, "continuous_usage_stats": True}
    more = {"model": "tiny", "max_tokens": 6, "stream": True, "stream_options": options, "n": 2,
            "extra_body": {"ignore_eos": True}}  # fmt: skip
    for stream in (
        client.chat.completions.create(messages=ASK, **more),
        client.completions.create(prompt=[5, 6], **more),
    ):
        counts = [chunk.usage.completion_tokens for chunk in stream]
        assert counts == sorted(counts) and counts[-1] == 12 and counts[0] < 12


def test_many_choices_are_those_of_their_seeds(client):
    more = {"model": "tiny", "prompt": [5, 6], "max_tokens": 2}
    answer = client.completions.create(n=40, best_of=40, seed=7, **more)
    assert [choice.index for choice in answer.choices] == list(range(40))
    assert answer.choices[33].text == client.completions.create(seed=40, **more).choices[0].text


@pytest.fixture(scope="module")
def filling():
    """A server of a model with Qwen's tokens, and its tokenizer."""
    names = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
    tokenizer = Tokenizer.train(TEXTS, 330, (*SPECIALS, *names))
    model = tiny_model("moe", vocab_size=tokenizer.vocab_size, max_positions=256)
    with serving(LanguageModel(model, tokenizer)) as running:
        yield openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0), tokenizer


def test_suffix(filling):
    asking, tokenizer = filling
    before, after = "Once upon ", " a fox."
    prefix, middle, suffix, pad = (tokenizer.token_id(f"<|fim_{name}|>") for name in
                                   ("prefix", "middle", "suffix", "pad"))  # fmt: skip
    choice = asking.completions.create(
        model="tiny", prompt=before, suffix=after, max_tokens=4, temperature=0, logit_bias={str(pad): 100},
        extra_body={"return_token_ids": True},
    ).choices[0]  # fmt: skip
    by_hand = [prefix, *tokenizer.encode(before), suffix, *tokenizer.encode(after), middle]
    assert choice.prompt_token_ids == by_hand
    assert choice.finish_reason == "stop" and choice.text == "" and choice.token_ids == [pad]
    for nothing in ("", None):
        plain = asking.completions.create(
            model="tiny", prompt=before, suffix=nothing, max_tokens=1, extra_body={"return_token_ids": True}
        ).choices[0]
        assert plain.prompt_token_ids == tokenizer.encode(before)
    for extra, pointer in (
        ({"prompt": [1, 2]}, "/suffix"),
        ({"echo": True}, "/echo"),
        ({"truncate_prompt_tokens": 4}, "/truncate_prompt_tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            asking.completions.create(**{"model": "tiny", "prompt": "a", "suffix": "b", "extra_body": extra})
        assert caught.value.body["param"] == pointer


@pytest.mark.parametrize(
    ("extra", "pointer"),
    [
        ({"min_tokens": 5}, "/min_tokens"),
        ({"stop_token_ids": [1, 330]}, "/stop_token_ids/1"),
        ({"stop_token_ids": [-1]}, "/stop_token_ids/0"),
        ({"prompt_logprobs": 21}, "/prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "/prompt_logprobs"),
        ({"truncate_prompt_tokens": 0}, "/truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "/truncate_prompt_tokens"),
        ({"n": 129}, "/n"),
        ({"n": 4, "best_of": 8}, "/best_of"),
        ({"n": 100, "prompt": [[1]] * 100}, "/n"),
        ({"suffix": "b"}, "/suffix"),
    ],
)
def test_what_is_refused(client, extra, pointer):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", max_tokens=4, extra_body=extra)
    assert caught.value.body["param"] == pointer


def test_a_seeded_reply_does_not_depend_on_others():
    """With the fields that mask tokens, next to requests that do too."""
    bodies = [
        {"seed": 3, "min_tokens": 9, "stop_token_ids": [60, 70, 80, 90]},
        {"seed": 4, "guided_regex": "[a-z ]{12,20}[.]"},
        {"seed": 5, "stop": ["e"], "min_tokens": 6, "include_stop_str_in_output": True},
        {"seed": 6, "prompt_logprobs": 2, "truncate_prompt_tokens": 3},
    ]
    with serving(deterministic=True) as running:
        asking = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)

        def said(body):
            choice = asking.completions.create(
                model="tiny", prompt=[5, 6, 7, 8, 9], max_tokens=24, logprobs=0, extra_body=body
            ).choices[0]
            return choice.text, choice.finish_reason, choice.logprobs.token_logprobs

        alone = [said(body) for body in bodies]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(said, [*bodies, *bodies]))
    assert together == [*alone, *alone]
