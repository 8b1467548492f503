"""What the hub, the network or the disk did, as one line that says what to do."""

from __future__ import annotations

import errno

from coterie.config import CheckpointError
from coterie.hub.names import HubName


class HubError(CheckpointError):
    """A model cannot be had from the hub. `final`: what is in the cache must not stand in for it."""

    def __init__(self, message: str, reason: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.final = final


def hub_error(name: HubName, error: Exception) -> HubError:
    """The line for an error of the hub's client; an error that is one already is returned as it is."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HubError):
        return error
    authorised = get_token() is not None
    if isinstance(error, OfflineModeIsEnabled):
        reason, advice = "HF_HUB_OFFLINE is set", "unset it, or give a local directory"
    elif isinstance(error, GatedRepoError):
        reason = "it is gated, and your token has no access" if authorised else "it is gated"
        advice = f"ask for access on its page ({_page(name)})" + ("" if authorised else ", then set HF_TOKEN")
    elif isinstance(error, RevisionNotFoundError):
        reason, advice = f"it has no revision '{name.asked}'", f"see its branches and tags ({_page(name)})"
    elif isinstance(error, RepositoryNotFoundError):
        hidden = "or your token may not see it" if authorised else "or it is private: set HF_TOKEN"
        reason, advice = "the hub has no model of that name", f"check the name, {hidden}"
    elif isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = f"the hub answered {status} {error.response.reason_phrase}".rstrip()
        advice = "check HF_TOKEN" if status in (401, 403) else "try again later"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        reason, advice = "the disk is full", "free space and run it again; what was fetched is kept"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        reason, advice = f"{error.filename}: {error.strerror}", "check permissions, HF_HOME and HF_HUB_CACHE"
    elif isinstance(error, ValueError):  # an answer other than JSON, or a file that only hf_xet fetches
        reason = f"the hub's client failed ({_detail(error)})"
        advice = "check HF_ENDPOINT and the network"
    else:
        reason = f"the hub cannot be reached ({_detail(error)})"
        advice = "check the network and run it again; what was fetched is kept"
    final = isinstance(error, RevisionNotFoundError)
    return HubError(f"{name}: {reason}; {advice}", reason, final)


def _detail(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _page(name: HubName) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name.repo}"
