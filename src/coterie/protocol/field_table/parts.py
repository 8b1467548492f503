"""Fields of the objects inside requests in the OpenAI form: messages, their parts, calls, tools, items.

What these objects describe has been said or made, so that a field of another name is accepted and named; the
refused ones carry something that the model would have to read.
"""

from __future__ import annotations

from coterie.protocol.field_table.entries import Extra, because

_ATTACHED = because(
    "what a library attaches on the way", "provider_specific_fields", "extra_content"
) | because("starts of prompts are shared without it", "cache_control", "prompt_cache_breakpoint")
_RECORD = because("part of the record of a reply, which the model does not read",
                  "id", "status", "object", "created", "model", "annotations", "logprobs")  # fmt: skip
_ITEM = _ATTACHED | because(
    "part of the record of a reply, which the model does not read",
    *("id", "status", "caller", "created_by", "namespace", "async", "async_", "phase"),
)
_REASONING = ("reasoning_content", "reasoning")
_MEDIA = because(
    "anything but text",
    *("image_url", "input_audio", "audio_url", "video_url", "image", "audio", "video", "source"),
    *("file", "file_id", "file_data", "file_url"),
) | {"refusal": "a refusal in the history"}
_PART = _ATTACHED | _RECORD | because("says how to read an image or a file", "detail", "filename")
_TEXT = {"parsed": ("text",)}
_CALL = {"parsed_arguments": ("arguments",)}

PARTS = {
    "method": Extra(refused={"reinforcement": "learning from graders"}),
    "stream_options": Extra(because("nothing is added to hide lengths", "include_obfuscation")),
    "structured_outputs": Extra(
        because("JSON is written without optional white space", "disable_any_whitespace")
        | because("there is one way to enforce a form", "disable_fallback"),
        refused={
            "whitespace_pattern": "a choice of white space in JSON",
            "disable_additional_properties": "a change of the schema (say it in the schema)",
            "structural_tag": "structural tags (send 'tools' or a grammar)",
        },
    ),
    "messages": Extra(
        _ATTACHED | _RECORD | because("says what the message is", "type", "phase"),
        {"parsed": ("content",), "reasoning_details": _REASONING, "thinking_blocks": _REASONING},
        refused={
            "refusal": "a refusal in the history",
            "audio": "audio in the history",
            "images": "anything but text",
            "function_call": "the old 'function_call' (send 'tool_calls')",
        },
        is_open=True,
    ),
    "messages.content": Extra(_PART, _TEXT, refused=_MEDIA, is_open=True),
    "messages.tool_calls": Extra(
        _ATTACHED | because("the order of the list decides", "index") | because("the call is over", "status"),
        is_open=True,
    ),
    "messages.tool_calls.function": Extra(_ATTACHED, _CALL, is_open=True),
    "documents": Extra(
        because("only the text of a document is read", "id", "title", "metadata"),
        refused=_MEDIA,
        is_open=True,
    ),
    "tools": Extra(_ATTACHED, is_open=True),
    "tools.function": Extra(
        _ATTACHED
        | because("the model is shown every tool at once", "defer_loading")
        | because("templates do not show what a tool returns", "output_schema", "outputSchema")
        | because("a note for the client", "annotations", "title"),
        neutral={"allowed_callers": ((["direct"],), "calls by other tools")},
        refused=because("calls that end later", "async", "async_"),
        is_open=True,
    ),
    "tool_choice": Extra(
        refused={"custom": "a custom tool", "allowed_tools": "a choice among several tools"},
    ),
    "/v1/chat/completions thinking": Extra(
        refused={"clear_thinking": "a choice of the reasoning that is shown"},
    ),
    "/v1/chat/completions reasoning": Extra(
        because("there are no summaries of reasoning", "summary", "generate_summary"),
        refused={"exclude": "a reply without its reasoning"},
    ),
    "reasoning": Extra(
        neutral={
            "context": (("auto",), "a choice of the reasoning that is shown"),
            "mode": (("standard",), "another mode of reasoning"),
        },
    ),
    "input.message": Extra(_ITEM | _RECORD, is_open=True),
    "input.message.content": Extra(_PART, _TEXT, refused=_MEDIA, is_open=True),
    "input.reasoning": Extra(
        _ITEM | because("only the server that made it can read it", "encrypted_content"), is_open=True
    ),
    "input.function_call": Extra(_ITEM, _CALL, is_open=True),
    "input.custom_tool_call": Extra(_ITEM, is_open=True),
    "input.custom_tool_call_output": Extra(_ITEM | because("the call names its tool", "name"), is_open=True),
    "input.function_call_output": Extra(_ITEM | because("the call names its tool", "name"), is_open=True),
}

# Types of items of the Responses API that are refused: what they would need.
ITEMS = (
    because("a file search", "file_search_call")
    | because("a web search", "web_search_call")
    | because("a computer to use", "computer_call", "computer_call_output")
    | because("a search for tools", "tool_search_call", "tool_search_output", "additional_tools")
    | because("settings that change inside a conversation", "configuration_update")
    | because("a history that only its own server can read", "compaction", "compaction_trigger")
    | because("images", "image_generation_call")
    | because("a program that the server runs", "code_interpreter_call", "program", "program_output")
    | because("a shell", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output")
    | because("a tool for patches", "apply_patch_call", "apply_patch_call_output")
    | because(
        "servers of tools", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call"
    )
)
