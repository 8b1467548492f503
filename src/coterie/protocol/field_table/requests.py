"""Fields of whole requests in the OpenAI form: OpenAI's own, and those of other servers and of clients."""

from __future__ import annotations

from coterie.protocol.field_table.entries import Extra, because

# The contract names these for every server of this form, so `--strict` names them too.
LABELS = {
    "store": "replies are not stored",
    "metadata": "a label of the request",
    "service_tier": "there is one tier",
    "safety_identifier": "identifies the user",
    "user": "identifies the user",
    "prompt_cache_key": "starts of prompts are shared without it",
    "prompt_cache_retention": "starts of prompts stay in memory while there is room",
    "verbosity": "a hint that open models are not trained on",
}

_CLIENTS = Extra(
    because("a label of the request", "client_metadata", "tags", "trace", "generation_name", "*_metadata")
    | because("identifies the user or the session", "user_id", "session_id", "chat_id", "message_id")
    | because("an id for another program's records", "request_id", "trace_id", "id")
    | because("starts of prompts are shared without it", "prompt_cache_*", "cache_prompt", "n_cache_reuse")
    | because("a setting of the client", "timeout", "max_retries", "num_retries", "drop_params", "fallbacks")
    | because("a setting of the client", "allowed_openai_params", "additional_drop_params", "caching")
    | because("a setting of the client", "api_base", "base_url", "api_version", "custom_llm_provider")
    | because("a setting of the client", "litellm_*", "no-log", "x_*", "x-*")
    | because("secrets belong in the header 'Authorization'", "api_key")
    | because("this server is the only provider", "provider", "route")
    | because("the named model answers or nobody", "models")
    | because("a prompt that does not fit is refused, never cut", "transforms")
    | because("usage is given as 'stream_options' asks", "usage")
    | because("the model stays in memory", "keep_alive")
    | because("the context has the model's full length", "num_ctx", "truncation_length", "n_ctx", "n_keep")
    | because("a place in another server's cache", "id_slot", "slot_id", "kv_transfer_params")
    | because("timings are in /metrics", "timings_per_token", "return_progress"),
    refused={
        "background": "a background job",
        "suffix": "text after the reply",
        "extra_body": "a body inside the body (put its fields next to 'model')",
        "extra_headers": "headers inside the body",
        "extra_query": "a query inside the body",
        "plugins": "a plugin",
        "preset": "a stored preset",
        "options": "'options' (put its fields next to 'model', as OpenAI names them)",
    },
)

# What the sampler of the same name is called in a message, and the values with which it does nothing.
_SAMPLERS = Extra(
    named=because("a setting of mirostat, which is off", "mirostat_tau", "mirostat_eta")
    | because("there is one way to enforce a form", "guided_decoding_backend")
    | because("special tokens in a reply are text, but for the marks of its form", "skip_special_tokens")
    | because("a setting of DRY, which is off", "dry_base", "dry_allowed_length", "dry_penalty_last_n")
    | because("a setting of DRY, which is off", "dry_sequence_breakers", "dry_range")
    | because("a setting of XTC, which is off", "xtc_threshold")
    | because("a setting of the dynamic temperature, which is off", "dynatemp_exponent")
    | because("a setting of the dynamic temperature, which is off", "dynatemp_low", "dynatemp_high")
    | because("a setting of smoothing, which is off", "smoothing_curve")
    | because("a setting of beam search, which is off", "length_penalty", "early_stopping"),
    same={
        **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_length"), "max_tokens"),
        **dict.fromkeys(("repeat_penalty", "rep_pen"), "repetition_penalty"),
        **dict.fromkeys(("stop_sequence", "stop_sequences", "stopping_strings"), "stop"),
        **dict.fromkeys(("sampler_seed", "random_seed"), "seed"),
        "temp": "temperature",
        "presence_pen": "presence_penalty",
        "frequency_pen": "frequency_penalty",
    },
    neutral={
        "mirostat": ((0,), "mirostat sampling"),
        "mirostat_mode": ((0,), "mirostat sampling"),
        "typical_p": ((1,), "locally typical sampling"),
        "typical": ((1,), "locally typical sampling"),
        "tfs": ((1,), "tail-free sampling"),
        "tfs_z": ((1,), "tail-free sampling"),
        "top_a": ((0,), "top-a sampling"),
        "top_n_sigma": ((0, -1), "top-n-sigma sampling"),
        "nsigma": ((0, -1), "top-n-sigma sampling"),
        "epsilon_cutoff": ((0,), "epsilon sampling"),
        "eta_cutoff": ((0,), "eta sampling"),
        "repeat_last_n": ((-1,), "a penalty on some of the tokens only"),
        "rep_pen_range": ((-1, 0), "a penalty on some of the tokens only"),
        "repetition_penalty_range": ((-1, 0), "a penalty on some of the tokens only"),
        "rep_pen_slope": ((0, 1), "a penalty that depends on the distance"),
        "min_keep": ((0, 1), "a least number of candidates"),
        "dynatemp_range": ((0,), "a dynamic temperature"),
        "dynamic_temperature": ((False,), "a dynamic temperature"),
        "smoothing_factor": ((0,), "smoothing"),
        "dry_multiplier": ((0,), "DRY sampling"),
        "xtc_probability": ((0,), "XTC sampling"),
        "penalty_alpha": ((0,), "contrastive search"),
        "no_repeat_ngram_size": ((0,), "a ban on repeated n-grams"),
        "encoder_repetition_penalty": ((1,), "a penalty on words that the prompt lacks"),
        "guidance_scale": ((1,), "guidance by a negative prompt"),
        "cfg_scale": ((1,), "guidance by a negative prompt"),
        "temperature_last": ((False,), "another order of samplers"),
        "do_sample": ((True,), "'do_sample' (send \"temperature\": 0)"),
        "num_beams": ((1,), "beam search"),
        "use_beam_search": ((False,), "beam search"),
        "spaces_between_special_tokens": ((True, False), "special tokens in the text"),
        "add_bos_token": ((True,), "a prompt without its first token"),
        "n_probs": ((0,), "'n_probs' (send 'logprobs')"),
        "t_max_predict_ms": ((0, -1), "a time limit in a request"),
        "post_sampling_probs": ((False,), "probabilities after sampling"),
    },
    refused={
        "negative_prompt": "guidance by a negative prompt",
        "sampler_order": "another order of samplers",
        "sampler_priority": "another order of samplers",
        "samplers": "another order of samplers",
        "logits_processors": "code in a request",
        "guided_whitespace_pattern": "a choice of white space in JSON",
        "allowed_token_ids": "a list of allowed tokens (send 'logit_bias')",
        "bad_words": "a list of banned words",
        "banned_tokens": "a list of banned words",
        "banned_strings": "a list of banned words",
        "custom_token_bans": "a list of banned words",
        "lora": "adapters by number (name one in 'model')",
        "vllm_xargs": "arguments of another server",
    },
)

_REASONING = Extra(
    because("reasoning is always a separate field", "include_reasoning", "separate_reasoning"),
    neutral={
        "reasoning_format": (("auto", "parsed", "deepseek"), "reasoning inside the content"),
        "stream_reasoning": ((True,), "reasoning in one piece"),
        "reasoning_split": ((True,), "reasoning inside the content"),
        "echo": ((False,), "the last message at the start of the reply"),
        "add_special_tokens": ((False,), "special tokens before those of the template"),
        "safe_prompt": ((False,), "a prompt of another server"),
        "enable_search": ((False,), "web search"),
        "incremental_output": ((True,), "the whole text in every event"),
        "function_call": (("none", "auto"), "the old 'function_call' (send 'tool_choice')"),
    },
)

_CHAT = Extra(
    because("arguments of calls are streamed as they are written", "tool_stream"),
    refused={
        "audio": "audio output",
        "web_search_options": "web search",
        "functions": "the old 'functions' (send 'tools')",
        "chat_template": "a template in a request",
        "documents": "a list of documents (put them into a message)",
        "mm_processor_kwargs": "anything but text",
        "moderation": "moderation",
        "format": "'format' (send 'response_format')",
        "json_schema": "'json_schema' next to the messages (send 'response_format')",
        "return_tokens_as_token_ids": "ids in place of texts (send 'return_token_ids')",
    },
)

_RESPONSES = Extra(
    because("built-in tools are never called", "max_tool_calls")
    | because("there are no programs of this kind", "access_programs")
    | because("there are no images", "image"),
    refused={
        "background_options": "a background job",
        "prompt": "a stored prompt",
        "moderation": "moderation",
        "context_management": "cutting the prompt",
    },
)

_COUNTING = Extra(
    because("it does not change the number of tokens", "max_output_tokens", "temperature", "top_p", "seed")
    | because("it does not change the number of tokens", "stream", "stream_options", "include", "logit_bias")
    | because("it does not change the number of tokens", "top_logprobs", "cache_salt")
)

_EMBEDDINGS = Extra(
    because("texts of all kinds have the same vectors", "input_type", "task", "task_type"),
    neutral={
        "normalize": ((True,), "vectors that are not of length 1"),
        "normalized": ((True,), "vectors that are not of length 1"),
        "add_special_tokens": ((True,), "a text without its special tokens"),
        "truncate": (("NONE",), "cutting the input"),
    },
)

_RERANK = Extra(
    neutral={
        "return_embeddings": ((False,), "vectors next to scores"),
        "rank_fields": ((["text"],), "a choice of fields of documents"),
        "max_chunks_per_doc": ((1,), "documents in several pieces"),
    }
)

_TOKENIZE = Extra(
    neutral={"continue_final_message": ((False,), "a message that goes on")},
    refused={"chat_template": "a template in a request", "mm_processor_kwargs": "anything but text"},
)

_BATCHES = Extra(
    refused={"output_expires_after": "another end of the results than after 30 days"},
)

_TUNING = Extra(refused={"integrations": "reports to another service"})

_LABELLED = Extra(because("identifies the user", "user", "safety_identifier"))

EVERYWHERE = Extra(LABELS) | _CLIENTS
# Parts of the table that several requests have in common, for the documents.
SHARED = {"Most requests": EVERYWHERE, "Chat and text completions": _SAMPLERS}
REQUESTS = {
    "/v1/chat/completions": EVERYWHERE | _SAMPLERS | _REASONING | _CHAT,
    "/v1/completions": EVERYWHERE | _SAMPLERS,
    "/v1/responses": EVERYWHERE | _RESPONSES,
    "/v1/responses/input_tokens": EVERYWHERE | _RESPONSES | _COUNTING,
    "/v1/embeddings": EVERYWHERE | _EMBEDDINGS,
    "/v1/rerank": EVERYWHERE | _EMBEDDINGS | _RERANK,
    "/v1/score": EVERYWHERE | _EMBEDDINGS,
    "/v1/adapters": Extra(
        refused=because("another adapter than the path names", "lora_name", "lora_path", "load_inplace")
    ),
    "/v1/files": _LABELLED,
    "/v1/batches": _LABELLED | _BATCHES,
    "/v1/fine_tuning/jobs": _LABELLED | _TUNING,
    "/tokenize": EVERYWHERE | _TOKENIZE,
    "/detokenize": EVERYWHERE,
}
