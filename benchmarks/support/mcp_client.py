"""The client that the conformance suite of MCP starts with a URL: our `McpServer`, all of whose tools are called once.

Where the suite's server asks for authorisation, the SDK's OAuth provider answers, as a user of `McpServer` would give
it; a browser and a person are played by a request that follows the suite's own redirect.

    python benchmarks/support/mcp_client.py URL
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import mcp_types
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from modelworks.agents.mcp.client import McpError, McpServer, Server

REDIRECT = "http://localhost:3030/callback"
METADATA = "https://conformance-test.local/client-metadata.json"
VALUES: dict[str, Any] = {"string": "x", "integer": 2, "number": 2, "boolean": True, "array": [], "object": {}}


class Storage:
    """Tokens in memory."""

    def __init__(self, client: OAuthClientInformationFull | None = None) -> None:
        self._client, self._tokens = client, None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens  # type: ignore[assignment]

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class Browser:
    """Goes where the authorisation server sends it, and brings the code back."""

    def __init__(self) -> None:
        self._answer: dict[str, list[str]] = {}

    async def open(self, url: str) -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            response = await client.get(url, follow_redirects=False)
        self._answer = parse_qs(urlsplit(response.headers["location"]).query)

    async def wait(self) -> AuthorizationCodeResult:
        told = {name: values[0] for name, values in self._answer.items()}
        return AuthorizationCodeResult(code=told["code"], state=told.get("state"), iss=told.get("iss"))


def authorised(url: str, scenario: str, context: dict[str, Any]) -> httpx2.Auth | None:
    """The SDK's provider for a scenario; None where there is nothing to authorise."""
    if not scenario.startswith("auth/"):
        return None
    if scenario == "auth/client-credentials-basic":
        return ClientCredentialsOAuthProvider(url, Storage(), context["client_id"], context["client_secret"])
    if scenario == "auth/client-credentials-jwt":
        signed = SignedJWTParameters(
            issuer=context["client_id"],
            subject=context["client_id"],
            signing_algorithm=context["signing_algorithm"],
            signing_key=context["private_key_pem"],
        )
        return PrivateKeyJWTOAuthProvider(url, Storage(), context["client_id"], signed.create_assertion_provider())
    known = None
    if "client_id" in context:
        known = OAuthClientInformationFull(
            client_id=context["client_id"],
            client_secret=context.get("client_secret"),
            token_endpoint_auth_method="client_secret_basic",
            redirect_uris=[AnyUrl(REDIRECT)],
        )
    browser = Browser()
    return OAuthClientProvider(
        url,
        OAuthClientMetadata(
            client_name="modelworks",
            redirect_uris=[AnyUrl(REDIRECT)],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        ),
        Storage(known),
        redirect_handler=browser.open,
        callback_handler=browser.wait,
        client_metadata_url=METADATA,
    )


async def accept(_: Any, params: Any) -> mcp_types.ElicitResult:
    """A user who leaves a form as it is: what has a default keeps it."""
    properties = params.requested_schema.get("properties", {})
    content = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    return mcp_types.ElicitResult(action="accept", content=content)


def main() -> int:
    url = sys.argv[-1]
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    server = Server("suite", url=url, seconds=20.0)
    try:
        with McpServer(
            server, auth=authorised(url, scenario, context), options={"elicitation_callback": accept}
        ) as used:
            for tool in used.tools():
                properties = tool.parameters.get("properties", {})
                arguments = {name: VALUES[schema.get("type", "string")] for name, schema in properties.items()}
                print(tool.name, tool.run(**arguments))
    except McpError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
