def test_reserve_and_cancel(client, server, verify):
    made = client.post("/api/v1/reservations", json={"partnerId": "abc-corp", "seats": 3})
    assert made.status_code == 201
    http = server.client()
    assert http.get("/api/v1/reservations").json["availableSeats"] == 497
    assert http.delete(made.location).status == 204
    assert http.delete(made.location).json["code"] == "already_cancelled"
    held = http.post("/api/v1/reservations", {"partnerId": "a", "seats": 3, "holdSeconds": 60})
    assert held.status == 201
    assert http.post(held.headers["Location"] + "/confirm").json["status"] == "confirmed"
    assert http.post(held.headers["Location"] + "/confirm").json["status"] == "confirmed"
    assert http.patch(held.headers["Location"], {"seats": 1}).json["seats"] == 1
    assert http.get("/api/v1/events/node-meetup-2025/changes").json["next"] == 5
    assert verify() == (0, "node-meetup-2025: 5 changes, ok\n")
