"""One call of the official Kaggle client, in a process of its own: `ask.py OUT METHOD JSON`.

Calls KaggleApi's METHOD with the JSON object as its arguments and writes to OUT what came of it, as JSON: {"reply": …},
or {"message", "status", "connection"} for a failure: the service's own message, whole; the HTTP status it answered
with, or null; and for a connection that failed `unsent` (the request cannot have arrived) or `lost`, or null. None of
this changes with what a version of the client prints. A process of its own, because importing the client logs in.
"""

import contextlib
import enum
import json
import sys
from pathlib import Path


def plain(reply):
    """A reply of the client as JSON holds it: its objects are mappings of their fields, as on the wire."""
    if hasattr(reply, "to_dict"):
        return reply.to_dict()
    if isinstance(reply, list | tuple):
        return [plain(one) for one in reply]
    return reply.name if isinstance(reply, enum.Enum) else reply


def failure(error: BaseException) -> dict:
    """What a failed call ended in, from the exceptions themselves: clients wrap them in others."""
    import requests
    from urllib3.exceptions import HTTPError as Broken
    from urllib3.exceptions import MaxRetryError, NewConnectionError

    chain, connection, status = [], None, None
    while error and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for one in chain:
        if getattr(one, "response", None) is not None and status is None:
            status = one.response.status_code
        if isinstance(
            one, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError | Broken
        ):
            connection = connection or "lost"
        if isinstance(one, NewConnectionError | requests.ConnectTimeout) or (
            isinstance(one, MaxRetryError) and isinstance(one.reason, NewConnectionError)
        ):
            connection = "unsent"
    said = [one for one in chain if getattr(one, "response", None) is not None] or chain
    return {
        "message": str(said[0]) or type(said[0]).__name__,
        "status": status,
        "connection": connection if status is None else None,
    }


def main(out: str, method: str, arguments: str) -> None:
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        with contextlib.redirect_stdout(sys.stderr):
            api.authenticate()
            found = {"reply": plain(getattr(api, method)(**json.loads(arguments)))}
    except (Exception, SystemExit) as error:  # whatever it was is handed on, to be told in a sentence
        found = failure(error)
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
