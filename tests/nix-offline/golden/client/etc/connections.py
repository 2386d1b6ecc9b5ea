"""TCP connections that are watched: a server that sends back what it gets, and a client that holds connections open,
says a numbered line on each every tenth of a second and counts the right answers.

usage: connections.py server
       connections.py client HOST COUNT     the counts so far: /run/connections.json
"""

import asyncio
import json
import os
import sys
import time

PORT = 7007
COUNTS = "/run/connections.json"


async def serve():
    async def answer(reader, writer):
        while data := await reader.read(4096):
            writer.write(data)

    server = await asyncio.start_server(answer, None, PORT)
    await server.serve_forever()


async def connection(host, number, state):
    try:
        reader, writer = await asyncio.open_connection(host, PORT)
        while True:
            # one line at a time: the next one waits for the answer to this one, whatever TCP does meanwhile
            line = f"{number} {state['answers']}\n".encode()
            writer.write(line)
            if await reader.readline() != line:
                raise ConnectionError("a wrong answer, or none")
            state["answers"] += 1
            now = time.monotonic()
            state["gap"] = max(state["gap"], now - state["last"])
            state["last"] = now
            await asyncio.sleep(0.1)
    except OSError as error:
        state["error"] = str(error)


async def watch(host, count):
    states = [
        {"answers": 0, "gap": 0.0, "last": time.monotonic(), "error": None}
        for _ in range(count)
    ]
    connections = [
        asyncio.create_task(connection(host, number, state))
        for number, state in enumerate(states)
    ]
    while connections:
        with open(COUNTS + ".new", "w") as file:
            json.dump(states, file)
        os.rename(COUNTS + ".new", COUNTS)
        await asyncio.sleep(0.2)


if sys.argv[1] == "server":
    asyncio.run(serve())
else:
    asyncio.run(watch(sys.argv[2], int(sys.argv[3])))
