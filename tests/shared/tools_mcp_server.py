"""A small MCP server made with the `mcp` library, one tool for each kind of answer.

`python tools_mcp_server.py` talks over standard input and output; `server().streamable_http_app()` is it over HTTP.
"""

import asyncio
import base64
import os
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ImageContent, TextContent


def add(a: int, b: int) -> str:
    return str(a + b)


def picture() -> CallToolResult:
    image = ImageContent(data=base64.b64encode(b"pixels").decode(), mime_type="image/png")
    return CallToolResult(content=[TextContent(text="one"), image, TextContent(text="two")])


def structured() -> CallToolResult:
    return CallToolResult(content=[], structured_content={"population": 3})


def refuse(why: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=why)], is_error=True)


def raises() -> str:
    message = "there is no such city"
    raise ValueError(message)


async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


def environment(name: str) -> str:
    return os.environ.get(name, "not set")


def server() -> MCPServer[Any]:
    """It is made when it is needed, as making one sets up logging for the whole process."""
    made: MCPServer[Any] = MCPServer("tests")
    for tool in (add, picture, structured, refuse, raises, wait, environment):
        made.add_tool(tool)
    return made


if __name__ == "__main__":
    server().run()
