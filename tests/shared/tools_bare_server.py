"""An MCP server of a few lines and no library, which starts in a moment and misbehaves when it is told to.

`python tools_bare_server.py FILE` adds a line to FILE at each start. `never` as a further argument never answers,
`fails` ends at once with words on standard error.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PAGES: dict[str | None, tuple[list[str], str | None]] = {
    None: (["echo", "die", "die_once"], "2"),
    "2": (["hang", "chatter", "leave_child", "nonsense", "code", "picky"], None),
}


def listed(cursor: str | None) -> dict[str, Any]:
    names, following = PAGES[cursor]
    page: dict[str, Any] = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
    return page if following is None else {**page, "nextCursor": following}


def text(said: str) -> dict[str, Any]:
    return {"result": {"content": [{"type": "text", "text": said}]}}


def called(name: str, arguments: dict[str, Any], log: Path) -> dict[str, Any]:
    match name:
        case "die":
            print("out of memory", file=sys.stderr)
            os._exit(3)
        case "die_once" if len(log.read_text().splitlines()) == 1:
            os._exit(3)
        case "hang":
            time.sleep(60)
        case "chatter":
            for _ in range(50):
                sys.stdout.write("x" * 1_000_000)
            print("\nand no message either")
        case "leave_child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            return text(str(child.pid))
        case "nonsense":
            return {"result": {"content": "nothing that the protocol knows"}}
        case "code":
            return {"error": {"code": -32000, "message": "the server's own error"}}
        case "picky":
            return {"error": {"code": -32602, "message": "n must be even"}}
    return text(json.dumps(arguments))


def main() -> None:
    log, kind = Path(sys.argv[1]), sys.argv[2:]
    with log.open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    if "fails" in kind:
        sys.exit(f"no licence for {os.environ.get('LICENCE')}")
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request or "never" in kind:
            continue
        params = request.get("params", {})
        match request["method"]:
            case "initialize":
                info = {"name": "bare", "version": "1"}
                capabilities: dict[str, Any] = {"tools": {}}
                version = params["protocolVersion"]
                answer = {"result": {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}}
            case "tools/list":
                answer = {"result": listed(params.get("cursor"))}
            case "tools/call":
                answer = called(params["name"], params["arguments"], log)
            case _:
                answer = {"error": {"code": -32601, "message": "unknown method"}}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}), flush=True)


if __name__ == "__main__":
    main()
