"""Fields of requests in Ollama's form (https://docs.ollama.com/api), and the options of its runner."""

from __future__ import annotations

from coterie.protocol.field_table.entries import Extra, because

_NEVER_CUT = because("a prompt that is too long is refused, never cut", "truncate", "shift")
_OWN = "how the server uses its machine is its own concern"
_REQUEST = Extra(
    because("the server's own settings say how long a model stays loaded", "keep_alive"),
    refused={
        "template": "a template in a request (see --template)",
        "context": "the tokens of an earlier reply (send the conversation to /api/chat)",
        "width": "an image",
        "height": "an image",
        "steps": "an image",
    },
)

OLLAMA = {
    "/api/chat": _REQUEST | Extra(_NEVER_CUT),
    "/api/generate": _REQUEST | Extra(_NEVER_CUT),
    "/api/embed": _REQUEST,
    "/api/embeddings": _REQUEST,
    "/api/show": Extra(
        because("all that is known is said anyway", "verbose", "system", "template", "options")
    ),
    "/api/chat messages": Extra(
        because("a label of the turn", "id", "created_at"),
        refused={"images": "anything but text"},
        is_open=True,
    ),
    "/api/chat messages.tool_calls": Extra(is_open=True),
    "/api/chat messages.tool_calls.function": Extra(
        because("the order of the list says it", "index"), is_open=True
    ),
    "options": Extra(
        because("the whole context of the model is always there", "num_ctx")
        | because(_OWN, "num_batch", "num_gpu", "main_gpu")
        | because(_OWN, "low_vram", "f16_kv", "vocab_only")
        | because(_OWN, "use_mmap", "use_mlock", "numa")
        | because(_OWN, "num_thread", "num_keep")
        | because("belongs to a sampler that is off", "mirostat_eta", "mirostat_tau"),
        neutral={
            "mirostat": ((0,), "another sampler"),
            "tfs_z": ((1, 1.0), "another sampler"),
            "typical_p": ((1, 1.0), "another sampler"),
            "repeat_last_n": ((-1,), "a penalty on the last tokens only; ours counts the whole reply"),
            "penalize_newline": ((True, False), "the penalty has no exceptions"),
        },
    ),
}
