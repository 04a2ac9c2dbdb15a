"""Conversations and agents."""

from __future__ import annotations

from tests.api.service import AGENT, Service


async def test_a_session_is_a_transcript_over_several_runs(service: Service) -> None:
    made = await service.post("/v1/sessions", {"labels": {"who": "me"}, "metadata": {"a": 1}})
    session = made.json()
    assert made.headers["location"] == f"/v1/sessions/{session['id']}"
    for _ in range(2):
        run = await service.new_run(session_id=session["id"])
        await service.started(run["id"])
        await service.answered(run["id"])
        await service.finished(run["id"])
    transcript = (await service.get(f"/v1/sessions/{session['id']}/messages")).json()["data"]
    assert [(message["number"], message["role"]) for message in transcript] == [
        (1, "user"), (2, "assistant"), (3, "user"), (4, "assistant"),
    ]  # fmt: skip
    assert (await service.get(f"/v1/runs/{run['id']}/messages")).json()["data"] == transcript[2:]
    now = await service.get(f"/v1/sessions/{session['id']}")
    assert (now.json()["last_number"], now.json()["labels"]) == (4, {"who": "me"})
    assert now.headers["etag"] != made.headers["etag"]


async def test_a_transcript_is_read_page_by_page(service: Service) -> None:
    run = await service.completed_run()
    first = (await service.get(f"/v1/runs/{run['id']}/messages?limit=1")).json()
    second = (await service.get(f"/v1/runs/{run['id']}/messages?limit=1&after={first['next_cursor']}")).json()
    assert [page["data"][0]["number"] for page in (first, second)] == [1, 2]
    assert (first["has_more"], second["has_more"]) == (True, False)


async def test_sessions_are_listed_and_need_no_body(service: Service) -> None:
    ids = [(await service.http.post("/v1/sessions")).json()["id"] for _ in range(3)]
    page = (await service.get("/v1/sessions?limit=2")).json()
    assert ([session["id"] for session in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)


async def test_an_agent_has_versions_that_never_change(service: Service) -> None:
    first = await service.post("/v1/agents", {"name": "scout", **AGENT})
    same = await service.post("/v1/agents", {"name": "scout", **AGENT})
    second = await service.post("/v1/agents", {"name": "scout", **AGENT, "instructions": "Be long."})
    assert [reply.status_code for reply in (first, same, second)] == [201, 200, 201]
    assert [reply.headers["etag"] for reply in (first, same, second)] == ['"1"', '"1"', '"2"']
    assert (await service.get(second.headers["location"])).json() == second.json()
    agent_id = first.json()["id"]
    assert (await service.get(f"/v1/agents/{agent_id}?version=1")).json() == first.json()
    assert (await service.get("/v1/agents/scout")).json()["version"] == 2
    versions = (await service.get("/v1/agents/scout/versions")).json()["data"]
    assert sorted(version["version"] for version in versions) == [1, 2]
    assert [agent["version"] for agent in (await service.get("/v1/agents")).json()["data"]] == [2]
    missing = await service.post("/v1/runs", {"agent": "scout@3", "input": "x"})
    assert (missing.status_code, missing.json()["code"]) == (404, "agent_not_found")


async def test_models_and_tools_are_listed(service: Service) -> None:
    tools = {tool["name"]: tool for tool in (await service.get("/v1/tools")).json()["data"]}
    assert tools["calculator"]["parameters"]["type"] == "object"
    assert (await service.get("/v1/models")).json()["object"] == "list"


async def test_readiness_names_what_is_missing(service: Service) -> None:
    assert (await service.get("/readyz")).json()["status"] == "ready"
    service.runs.workers = 0
    reply = await service.get("/readyz")
    checks = reply.json()["checks"]
    assert (reply.status_code, checks["journal"]["ok"], checks["workers"]["ok"]) == (503, True, False)
    service.runs.away = True
    assert not (await service.get("/readyz")).json()["checks"]["temporal"]["ok"]
    assert (await service.get("/healthz")).json() == {"status": "ok"}


async def test_the_service_tells_what_it_is(service: Service) -> None:
    info = (await service.get("/v1/info")).json()
    assert (info["name"], info["task_queue"]) == ("perdure", "perdure")
    assert info["limits"]["request_bytes_max"] == 16 * 1024 * 1024
