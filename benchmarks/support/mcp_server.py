"""A server with all that the conformance suite of MCP asks for, on `make_server` and `create_mcp_app`.

Tools that return text, raise, or have an unusual schema are ours. Pictures and sound, log messages, progress, questions
to the client, resources, prompts and completions are features that modelworks' own tools do not have: handlers of the
SDK's server answer for them, and what the suite finds there is about the SDK.

    python benchmarks/support/mcp_server.py     prints its URL
"""

from __future__ import annotations

import base64
import json
import re
import struct
import warnings
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import MCPDeprecationWarning

from modelworks.agents.mcp.server import make_server
from modelworks.agents.tool import Tool, tool
from modelworks.serve import server as serving
from modelworks.serve.mcp import PATH, Offering, create_mcp_app

Handler = Callable[[Any, dict[str, Any]], Awaitable[types.CallToolResult]]
PAUSE = 0.05


def _png() -> str:
    """A red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return _base64(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b""))


def _wav() -> str:
    """Eight samples of silence."""
    form = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data" + struct.pack("<I", 8)
    return _base64(b"RIFF" + struct.pack("<I", len(form) + 8) + form + b"\x80" * 8)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGE = types.ImageContent(data=_png(), mime_type="image/png")


# --- tools of ours ----------------------------------------------------------------------------------------------------


@tool(effects=["reads"])
def test_simple_text() -> str:
    """Returns a text."""
    return "This is a simple text response for testing."


@tool(effects=["reads"])
def test_error_handling() -> str:
    """Always raises."""
    raise RuntimeError("This tool intentionally returns an error for testing")


SCHEMA = Tool(
    name="json_schema_2020_12_tool",
    description="Has a schema with keywords of JSON Schema 2020-12.",
    parameters={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
        },
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
    run=lambda **given: json.dumps(given),
    effects=frozenset({"reads"}),
)


# --- tools that the SDK answers for -----------------------------------------------------------------------------------


def _said(*blocks: types.ContentBlock | str) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(text=block) if isinstance(block, str) else block for block in blocks]
    )


def _embedded(uri: str, kind: str, text: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=kind, text=text))


async def _image(_: Any, __: dict[str, Any]) -> types.CallToolResult:
    return _said(IMAGE)


async def _audio(_: Any, __: dict[str, Any]) -> types.CallToolResult:
    return _said(types.AudioContent(data=_wav(), mime_type="audio/wav"))


async def _resource(_: Any, __: dict[str, Any]) -> types.CallToolResult:
    return _said(_embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))


async def _mixed(_: Any, __: dict[str, Any]) -> types.CallToolResult:
    embedded = _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return _said("Multiple content types test:", IMAGE, embedded)


async def _logging(context: Any, _: dict[str, Any]) -> types.CallToolResult:
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.session.send_log_message("info", text, related_request_id=context.request_id)
        await anyio.sleep(PAUSE)
    return _said("Logged three messages.")


async def _progress(context: Any, _: dict[str, Any]) -> types.CallToolResult:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100)
        await anyio.sleep(PAUSE)
    return _said("Came to the end.")


async def _sampling(context: Any, given: dict[str, Any]) -> types.CallToolResult:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=given["prompt"]))
    answer = await context.session.create_message([message], max_tokens=100, related_request_id=context.request_id)
    return _said(f"LLM response: {getattr(answer.content, 'text', '')}")


def _eliciting(message: str | None, properties: dict[str, Any], required: list[str], told: str) -> Handler:
    async def elicit(context: Any, given: dict[str, Any]) -> types.CallToolResult:
        schema = {"type": "object", "properties": properties, "required": required}
        answer = await context.session.elicit_form(
            message or given["message"], schema, related_request_id=context.request_id
        )
        return _said(f"{told}: action={answer.action}, content={json.dumps(answer.content)}")

    return elicit


async def _reconnection(context: Any, _: dict[str, Any]) -> types.CallToolResult:
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
    await anyio.sleep(2 * PAUSE)
    return _said("The answer came after the stream was closed.")


USER = {
    "username": {"type": "string", "description": "User's response"},
    "email": {"type": "string", "description": "User's email address"},
}
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
OPTIONS = ["option1", "option2", "option3"]
ENUMS = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {
        "type": "string",
        "oneOf": [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second"), 1)],
    },
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {
        "type": "array",
        "items": {
            "anyOf": [
                {"const": f"value{n}", "title": f"{word} Choice"} for n, word in enumerate(("First", "Second"), 1)
            ]
        },
    },
}
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
OTHERS: dict[str, tuple[Handler, dict[str, Any]]] = {
    "test_image_content": (_image, EMPTY),
    "test_audio_content": (_audio, EMPTY),
    "test_embedded_resource": (_resource, EMPTY),
    "test_multiple_content_types": (_mixed, EMPTY),
    "test_tool_with_logging": (_logging, EMPTY),
    "test_tool_with_progress": (_progress, EMPTY),
    "test_sampling": (
        _sampling,
        {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]},
    ),
    "test_elicitation": (
        _eliciting(None, USER, ["username", "email"], "User response"),
        {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
    ),
    "test_elicitation_sep1034_defaults": (
        _eliciting("Defaults of all kinds", DEFAULTS, [], "Elicitation completed"),
        EMPTY,
    ),
    "test_elicitation_sep1330_enums": (_eliciting("Choices", ENUMS, [], "Elicitation completed"), EMPTY),
    "test_reconnection": (_reconnection, EMPTY),
}


# --- what is no tool --------------------------------------------------------------------------------------------------

RESOURCES = {
    "test://static-text": ("Static Text Resource", "text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("Static Binary Resource", "image/png", None),
    "test://watched-resource": ("Watched Resource", "text/plain", "Watched resource content"),
}
TEMPLATE = re.compile(r"test://template/([^/]+)/data")
PROMPTS: dict[str, list[str]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
}


async def list_resources(_: Any, __: Any) -> types.ListResourcesResult:
    return types.ListResourcesResult(
        resources=[
            types.Resource(uri=uri, name=name, description=f"{name} for testing", mime_type=kind)
            for uri, (name, kind, _) in RESOURCES.items()
        ]
    )


async def list_templates(_: Any, __: Any) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(
        uri_template="test://template/{id}/data",
        name="Resource Template",
        description="A resource template with parameter substitution",
        mime_type="application/json",
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(_: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    contents: types.TextResourceContents | types.BlobResourceContents
    if (found := TEMPLATE.fullmatch(uri)) is not None:
        text = json.dumps({"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"})
        contents = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
    elif uri not in RESOURCES:
        raise MCPError(types.INVALID_PARAMS, f"there is no resource {uri}")
    elif (text_ := RESOURCES[uri][2]) is not None:
        contents = types.TextResourceContents(uri=uri, mime_type=RESOURCES[uri][1], text=text_)
    else:
        contents = types.BlobResourceContents(uri=uri, mime_type=RESOURCES[uri][1], blob=_png())
    return types.ReadResourceResult(contents=[contents])


async def acknowledge(_: Any, __: Any) -> types.EmptyResult:
    return types.EmptyResult()


async def list_prompts(_: Any, __: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name,
                description=f"{name} for testing",
                arguments=[types.PromptArgument(name=each, description=each, required=True) for each in arguments],
            )
            for name, arguments in PROMPTS.items()
        ]
    )


async def get_prompt(_: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            blocks: list[Any] = ["This is a simple prompt for testing."]
        case "test_prompt_with_arguments":
            blocks = [f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"]
        case "test_prompt_with_embedded_resource":
            embedded = _embedded(given["resourceUri"], "text/plain", "Embedded resource content for testing.")
            blocks = [embedded, "Please process the embedded resource above."]
        case "test_prompt_with_image":
            blocks = [IMAGE, "Please analyze the image above."]
        case _:
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt {params.name}")
    return types.GetPromptResult(
        messages=[types.PromptMessage(role="user", content=block) for block in _said(*blocks).content]
    )


async def complete(_: Any, __: Any) -> types.CompleteResult:
    return types.CompleteResult(completion=types.Completion(values=[], total=0, has_more=False))


class Events(EventStore):
    """Events of streams, so that a client that reconnects gets those it missed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        last = int(last_event_id)
        if not 0 <= last < len(self._events):
            return None
        stream = self._events[last][0]
        for number, (of, message) in enumerate(self._events[last + 1 :], last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def make() -> Any:
    """The SDK's server: ours, with handlers for the rest."""
    server = make_server(
        [test_simple_text, test_error_handling, SCHEMA],
        name="modelworks-conformance",
        version="1.0.0",
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=acknowledge,
        on_unsubscribe_resource=acknowledge,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=acknowledge,
    )
    listing, calling = server.get_request_handler("tools/list"), server.get_request_handler("tools/call")
    assert listing is not None
    assert calling is not None

    async def list_tools(context: Any, params: types.PaginatedRequestParams) -> Any:
        ours: Any = await listing.handler(context, params)
        others = [
            types.Tool(name=name, description=f"{name} for testing", input_schema=schema)
            for name, (_, schema) in OTHERS.items()
        ]
        return types.ListToolsResult(tools=[*ours.tools, *others])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> Any:
        if params.name not in OTHERS:
            return await calling.handler(context, params)
        return await OTHERS[params.name][0](context, params.arguments or {})

    server.add_request_handler("tools/list", types.PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", types.CallToolRequestParams, call_tool)
    return server


def main() -> None:
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suite is for the versions before 2026-07-28
    bound = serving.bind("127.0.0.1", 0)
    app = create_mcp_app(Offering(make()), event_store=Events(), retry_interval=500)
    running = serving.make_server(
        app, shutdown_seconds=1, on_start=lambda: print(f"{serving.url(bound)}{PATH}", flush=True)
    )
    running.run([bound])


if __name__ == "__main__":
    main()
