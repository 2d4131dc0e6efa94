"""Connections to MCP servers that last for a run: over a process's standard input and output, or over HTTP."""

from gapscope.mcp_servers.connection import Connection, Transport
from gapscope.mcp_servers.process import ProcessTransport
from gapscope.mcp_servers.streamable_http import HttpTransport

__all__ = ["Connection", "HttpTransport", "ProcessTransport", "Transport"]
