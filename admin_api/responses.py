"""The API's JSON responses."""

from typing import Any

from fastapi.responses import JSONResponse

from citus_cluster.model.visible import json_text


class VisibleJSONResponse(JSONResponse):
    """JSON with control and format characters escaped: names come from servers, and curl prints to terminals."""

    def render(self, content: Any) -> bytes:
        return json_text(content, compact=True).encode()
