"""A rival: the textbook's Flask, which locks the event's row, in read committed."""

import os
from uuid import uuid4

from flask import Flask, jsonify, request
from marshmallow import Schema, ValidationError, fields, validate
from psycopg2.pool import ThreadedConnectionPool

POOL_SIZE = int(os.environ["POOL_SIZE"])
# As many as there are threads; with a lower minimum it would close what is given back.
pool = ThreadedConnectionPool(POOL_SIZE, POOL_SIZE, "")
app = Flask(__name__)


class Wanted(Schema):
    partner_id = fields.Str(
        data_key="partnerId", required=True, validate=validate.Length(min=1, max=64)
    )
    seats = fields.Int(strict=True, required=True, validate=validate.Range(min=1, max=10))


WANTED = Wanted()


@app.get("/livez")
def livez():
    return jsonify(status="ok")


@app.post("/api/v1/events/<event_id>/reservations")
def reserve(event_id: str):
    try:
        wanted = WANTED.load(request.get_json())
    except ValidationError as error:
        return jsonify(error=error.messages), 400
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT available_seats FROM events WHERE event_id = %s FOR UPDATE", (event_id,)
            )
            found = cursor.fetchone()
            if found is None:
                return jsonify(error="Event not found"), 404
            if found[0] < wanted["seats"]:
                return jsonify(error="Not enough seats left"), 409
            cursor.execute(
                "UPDATE events SET available_seats = available_seats - %s WHERE event_id = %s",
                (wanted["seats"], event_id),
            )
            reservation_id = str(uuid4())
            cursor.execute(
                "INSERT INTO reservations (reservation_id, event_id, partner_id, seats)"
                " VALUES (%s, %s, %s, %s) RETURNING created_at",
                (reservation_id, event_id, wanted["partner_id"], wanted["seats"]),
            )
            (created_at,) = cursor.fetchone()
    finally:
        pool.putconn(connection)
    reservation = {
        "reservationId": reservation_id,
        "eventId": event_id,
        "partnerId": wanted["partner_id"],
        "seats": wanted["seats"],
        "status": "confirmed",
        "createdAt": created_at.isoformat(),
    }
    return jsonify(reservation), 201
