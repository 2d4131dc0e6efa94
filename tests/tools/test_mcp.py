"""Tools of real MCP servers: what they answer, and what becomes of a run when they do not."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tools_bare_server

from gapscope.errors import SettingsError, UnknownName
from gapscope.outcomes import ErrorMarkers
from gapscope.tools.base import Call, ToolFailure, ToolResult
from gapscope.tools.mcp_ import McpServer

SERVER = Path(tools_bare_server.__file__).with_name("tools_mcp_server.py")

judge = ErrorMarkers().judge


def real(**options: Any) -> McpServer:
    return McpServer("real", command=[sys.executable, str(SERVER)], **options)


def bare(log: Path, *kind: str, **options: Any) -> McpServer:
    return McpServer("bare", command=[sys.executable, tools_bare_server.__file__, str(log), *kind], **options)


def starts(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()]


def lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # One that is dead and that nobody has asked for.


@asynccontextmanager
async def over_http(app: Any) -> AsyncIterator[str]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (it has no event for that)
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await task


async def each_kind_of_answer(server: McpServer) -> None:
    assert await server.call(Call("add", {"a": 2, "b": 3})) == ToolResult("5")
    assert await server.call(Call("picture", {})) == ToolResult("one\ntwo", (b"pixels",))
    assert await server.call(Call("structured", {})) == ToolResult('{"population": 3}')
    refused = await server.call(Call("refuse", {"why": "not today"}))
    assert refused == ToolResult("Error: not today", error=True)
    raised = await server.call(Call("raises", {}))
    assert raised.error
    assert judge("raises", raised.text) == "executed_error"
    wrong = await server.call(Call("add", {"a": 2}))
    assert wrong.error
    assert judge("add", wrong.text) == "bad_arguments"


def test_a_server_over_pipes_answers_with_texts_images_structure_and_errors() -> None:
    async def run() -> None:
        async with real(env={"GIVEN": "${FROM_HERE}"}) as server:
            await each_kind_of_answer(server)
            assert (await server.call(Call("environment", {"name": "GIVEN"}))).text == "${FROM_HERE}"
            assert (await server.call(Call("environment", {"name": "FROM_HERE"}))).text == "not set"
            assert (await server.call(Call("environment", {"name": "OPENAI_API_KEY"}))).text == "not set"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROM_HERE", "a-secret")
        patch.setenv("OPENAI_API_KEY", "sk-1")
        asyncio.run(run())


def test_a_server_over_http_answers_alike_and_gets_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    allowed = True

    async def run() -> None:
        nonlocal allowed
        # Not at the top: the library takes a second to load, which every process of the suite would pay.
        import tools_mcp_server

        app = tools_mcp_server.server().streamable_http_app()

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
                if not allowed:
                    await send({"type": "http.response.start", "status": 401, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return
            await app(scope, receive, send)

        async with over_http(guarded) as url:
            headers = {"Authorization": "Bearer ${SEARCH_KEY}"}
            async with McpServer("web", url=f"{url}?key=abc", headers=headers, seconds=0.3) as server:
                assert server.about.startswith(f"web: MCP server {url} (add, ")
                await each_kind_of_answer(server)
                slow, quick = await asyncio.gather(
                    server.call(Call("wait", {"seconds": 9})), server.call(Call("add", {"a": 1, "b": 1}))
                )
                assert quick.text == "2"
                assert judge("wait", slow.text) == "timeout"
                allowed = False
                with pytest.raises(ToolFailure, match="MCP server refuses") as refused:
                    await server.call(Call("add", {"a": 1, "b": 1}))
                assert refused.value.detail == "HTTP status 401"
            with pytest.raises(SettingsError, match="HTTP status 401"):
                await McpServer("web", url=url).__aenter__()

    monkeypatch.setenv("SEARCH_KEY", "a-secret")
    asyncio.run(run())
    assert set(seen) == {"Bearer a-secret", ""}


def test_all_pages_are_listed_some_are_chosen_and_others_renamed(tmp_path: Path) -> None:
    async def run() -> None:
        async with bare(tmp_path / "log") as server:
            assert server.names == (
                "echo",
                "die",
                "die_once",
                "hang",
                "chatter",
                "leave_child",
                "nonsense",
                "code",
                "picky",
            )
        async with bare(tmp_path / "log", only=["echo", "code"], rename={"echo": "search"}) as server:
            assert server.names == ("search", "code")
            assert (await server.call(Call("search", {"q": "x"}))).text == '{"q": "x"}'
        with pytest.raises(UnknownName, match="'ecko'") as unknown:
            await bare(tmp_path / "log", only=["ecko"]).__aenter__()
        assert unknown.value.hint == "Did you mean echo or code?"
        with pytest.raises(SettingsError, match="the same name"):
            await bare(tmp_path / "log", rename={"echo": "code"}).__aenter__()

    asyncio.run(run())
    assert not any(map(lives, starts(tmp_path / "log")))


def test_a_server_that_dies_is_started_again_and_the_call_repeated_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with bare(tmp_path / "log") as server:
            first, second = await asyncio.gather(
                server.call(Call("die_once", {"n": 1})), server.call(Call("echo", {"n": 2}))
            )
            assert (first.text, second.text) == ('{"n": 1}', '{"n": 2}')
            assert len(starts(tmp_path / "log")) == 2
            with pytest.raises(ToolFailure, match="MCP server ended") as failure:
                await server.call(Call("die", {}))
            assert failure.value.detail == "twice during die\nout of memory"
            assert (await server.call(Call("echo", {"n": 3}))).text == '{"n": 3}'
            assert len(starts(tmp_path / "log")) == 4

    asyncio.run(run())
    assert not any(map(lives, starts(tmp_path / "log")))


def test_a_server_that_hangs_costs_the_call_that_hung(tmp_path: Path) -> None:
    async def run() -> None:
        async with bare(tmp_path / "log", seconds=0.2) as server:
            answer = await server.call(Call("hang", {}))
            assert judge("hang", answer.text) == "timeout"
            assert (await server.call(Call("echo", {"n": 1}))).text == '{"n": 1}'
            assert len(starts(tmp_path / "log")) == 2

    asyncio.run(run())
    assert not any(map(lives, starts(tmp_path / "log")))


def test_what_a_server_prints_and_answers_beside_the_protocol_is_passed_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> int:
        async with bare(tmp_path / "log") as server:
            assert (await server.call(Call("chatter", {"n": 1}))).text == '{"n": 1}'
            nonsense = await server.call(Call("nonsense", {}))
            assert nonsense.text.startswith("Error: nonsense gave no usable answer")
            assert (await server.call(Call("code", {}))).text == "Error: the server's own error"
            picky = await server.call(Call("picky", {"n": 1}))
            assert picky.text == "Error: invalid arguments: n must be even"
            assert judge("picky", picky.text) == "bad_arguments"
            return int((await server.call(Call("leave_child", {}))).text)

    child = asyncio.run(run())
    assert len(starts(tmp_path / "log")) == 1
    deadline = time.monotonic() + 5
    while lives(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(child)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_cannot_be_started_is_said_with_its_command_and_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICENCE", "a-secret")

    async def fails(server: McpServer) -> SettingsError:
        with pytest.raises(SettingsError) as error:
            await server.__aenter__()
        return error.value

    ended = asyncio.run(fails(bare(tmp_path / "log", "fails", env={"LICENCE": "${LICENCE}"})))
    assert f"tools_bare_server.py {tmp_path / 'log'} fails cannot be used" in ended.message
    assert ended.hint == "no licence for ${LICENCE}\n"
    silent = asyncio.run(fails(bare(tmp_path / "log", "never", starting=0.3)))
    assert silent.message.endswith("cannot be used: no answer within 0.3 s")
    missing = asyncio.run(fails(McpServer("gone", command=["./no-such-server"])))
    assert "./no-such-server" in missing.message
    down = asyncio.run(fails(McpServer("down", url="http://user:word@127.0.0.1:9/mcp?key=abc")))
    assert down.message.startswith("down: the MCP server http://127.0.0.1:9/mcp cannot be used: ")
    unset = asyncio.run(fails(McpServer("web", url="http://x/", headers={"Key": "${NO_SUCH}"})))
    assert unset.message == "web: the environment variable NO_SUCH is not set"
    with pytest.raises(SettingsError, match="either a command or a url"):
        McpServer("both", command=["x"], url="http://x/")
    assert not any(map(lives, starts(tmp_path / "log")))


def test_a_server_that_is_gone_for_good_is_a_failure_of_the_tool(tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(Path(tools_bare_server.__file__).read_text())

    async def run() -> None:
        command = [sys.executable, str(program), str(tmp_path / "log")]
        async with McpServer("fleeting", command=command) as server:
            program.write_text("import sys; sys.exit('moved away')")
            calls = [server.call(Call("die", {})) for _ in range(3)]
            failures = await asyncio.gather(*calls, return_exceptions=True)
            assert [str(failure) for failure in failures] == ["MCP server lost"] * 3
            assert isinstance(failures[0], ToolFailure)
            assert failures[0].detail.endswith("moved away")

    asyncio.run(run())


@pytest.mark.parametrize("value", ["sk-12345\nx", "sk-12345é"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(value: str) -> None:
    with pytest.raises(SettingsError, match="the header X-Api-Key holds a character") as error:
        asyncio.run(McpServer("web", url="http://127.0.0.1:9/", headers={"X-Api-Key": value}).__aenter__())
    assert "12345" not in str(error.value)
