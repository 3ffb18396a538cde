"""A rival: FastAPI with asyncpg, and one statement for a reservation, in read committed."""

import os
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

POOL_SIZE = int(os.environ["POOL_SIZE"])
RESERVE = """
WITH taken AS (
    UPDATE events
    SET available_seats = available_seats - $4
    WHERE event_id = $2 AND available_seats >= $4
    RETURNING event_id
)
INSERT INTO reservations (reservation_id, event_id, partner_id, seats)
SELECT $1, event_id, $3, $4
FROM taken
RETURNING created_at
"""


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    partner_id: str = Field(alias="partnerId", min_length=1, max_length=64)
    seats: int = Field(ge=1, le=10)


@asynccontextmanager
async def connected(app: FastAPI):
    async with asyncpg.create_pool(min_size=POOL_SIZE, max_size=POOL_SIZE) as app.pool:
        yield


app = FastAPI(lifespan=connected)


@app.get("/livez")
async def livez():
    return JSONResponse({"status": "ok"})


@app.post("/api/v1/events/{event_id}/reservations")
async def reserve(event_id: str, wanted: Wanted, request: Request):
    reservation_id = uuid4()
    made = await request.app.pool.fetchrow(
        RESERVE, reservation_id, event_id, wanted.partner_id, wanted.seats
    )
    if made is None:
        return JSONResponse({"error": "Not enough seats left"}, 409)
    reservation = {
        "reservationId": str(reservation_id),
        "eventId": event_id,
        "partnerId": wanted.partner_id,
        "seats": wanted.seats,
        "status": "confirmed",
        "createdAt": made["created_at"].isoformat(),
    }
    return JSONResponse(reservation, 201)
