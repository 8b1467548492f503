"""Fields of requests in Anthropic's form, of the newest published types, betas included."""

from __future__ import annotations

from coterie.protocol.field_table.entries import Extra, because

_CACHE = because("starts of prompts are shared without it", "cache_control")

_RECORD = "part of the record of a reply, which the model does not read"

_REQUEST = Extra(
    _CACHE
    | because("a label of the request", "metadata", "diagnostics")
    | because("names the user", "user_profile_id", "workspace_id")
    | because("there is one tier", "service_tier", "speed", "inference_geo")
    | because("nothing is billed", "billing_policy", "fallback_credit_token")
    | because("the named model answers or nobody", "fallbacks")
    | because("a prompt that does not fit is refused, never cut", "context_management")
    | because("says what the client knows", "betas", "anthropic_beta", "anthropic_version"),
    refused={
        "mcp_servers": "a server of tools (connect the client to it)",
        "thread": "a stored conversation (send all messages)",
    },
)

ANTHROPIC = {
    "/v1/messages": _REQUEST
    | Extra(
        refused={
            "container": "a container (run tools in the client)",
            "compaction": "a summary in place of the history",
        },
    ),
    "/v1/messages/count_tokens": _REQUEST
    | Extra(
        because("the reply is not counted", "max_tokens", "stream", "temperature", "top_p", "top_k")
        | because("the reply is not counted", "stop_sequences", "seed", "logit_bias", "container")
        | because("the count is that of the messages", "compaction")
    ),
    "/v1/messages system": Extra(_CACHE | because(_RECORD, "citations"), is_open=True),
    "/v1/messages messages": Extra(
        because(_RECORD, "id", "type", "model", "stop_reason", "stop_sequence", "usage")
        | because("the effort is that of the request", "output_config"),
        is_open=True,
    ),
    "/v1/messages messages.content": Extra(
        _CACHE
        | because(_RECORD, "citations", "caller")
        | because("the name of the tool says it", "toolset_name"),
        is_open=True,
    ),
    "/v1/messages tools": Extra(
        _CACHE
        | because("the model is shown every tool at once", "defer_loading")
        | because("templates show no examples of calls", "input_examples")
        | because("arguments of calls are streamed as they are written", "eager_input_streaming"),
        neutral={"allowed_callers": ((["direct"],), "calls by other tools")},
        is_open=True,
    ),
    "/v1/messages tool_choice": Extra(),
    "/v1/messages thinking": Extra(because("thinking in the history is not checked", "block_binding")),
    "/v1/messages output_config": Extra(
        because("templates do not show how much is left", "task_budget"),
    ),
    "/v1/messages output_format": Extra(because("a name for the schema", "name")),
}
