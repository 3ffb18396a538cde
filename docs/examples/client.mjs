// A partner's client of TicketBoss: one file, Node.js 18 or newer, no package.
//
//     node client.mjs reserve abc-corp 3 order-1001
//     node client.mjs cancel 01a204a0-c8d1-768e-ab01-e9f371e252b8
//     node client.mjs follow 14
//
// TICKETBOSS_URL says where the service is, EVENT_ID which event is meant, and TICKETBOSS_KEY is
// your key, where the service wants one. Take what you need; what matters is in `call`.

import { setTimeout as sleep } from "node:timers/promises";

const SERVICE = (process.env.TICKETBOSS_URL ?? "http://127.0.0.1:8080") + "/api/v1";
const EVENT = `${SERVICE}/events/${process.env.EVENT_ID ?? "node-meetup-2025"}`;
const KEY = process.env.TICKETBOSS_KEY;

const TRIES = 6;
const PATIENCE = 10_000; // milliseconds for one answer; the service itself gives up after 5 s
const POLL = 1_000; // milliseconds between two looks at a feed in which nothing happens
// "Not now": from the service, or from a proxy in front of it.
const AGAIN = [429, 502, 503, 504];

// The service has understood, and says no; the same request again changes nothing.
export class Refused extends Error {
  constructor(answer) {
    super(`${answer.code}: ${answer.error}`);
    this.code = answer.code;
    this.answer = answer;
  }
}

// Return the status, headers and JSON of an answer.
//
// Where no answer came, nobody knows what has happened: the request is sent again as it
// was. Every call of TicketBoss may be repeated so; a reserve only with its key.
async function call(method, url, body, headers = {}) {
  let failure;
  if (KEY) {
    headers = { ...headers, Authorization: `Bearer ${KEY}` };
  }
  if (body !== undefined) {
    headers = { ...headers, "Content-Type": "application/json" };
    body = JSON.stringify(body);
  }
  for (let attempt = 0; attempt < TRIES; attempt++) {
    let wait = 0;
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const answer = await fetch(url, { method, body, headers, signal });
      const text = await answer.text();
      if (!AGAIN.includes(answer.status)) {
        return [answer.status, answer.headers, text ? JSON.parse(text) : null];
      }
      failure = `status ${answer.status}`;
      wait = 1000 * (parseInt(answer.headers.get("Retry-After")) || 0); // some proxies send a date
    } catch (error) {
      failure = error.cause?.message ?? error.message;
    }
    // Longer each time and never the same, so that not all come back at once.
    await sleep(wait + Math.random() * 100 * 2 ** attempt);
  }
  throw new Error(`no answer in ${TRIES} tries: ${failure}`);
}

// Reserve seats and return the reservation; `key` is this order's own, for all its tries.
//
// Keep the key with the order before you call: after a crash, the same call finds out.
export async function reserve(partner, seats, key) {
  const body = { partnerId: partner, seats };
  const headers = { "Idempotency-Key": key };
  const [status, , answer] = await call("POST", `${EVENT}/reservations`, body, headers);
  if (status !== 201) throw new Refused(answer);
  // The reservation as it is now: a late repetition may show it cancelled, see `status`.
  return answer;
}

// Give all seats back. That they are back already is no failure: judge a 404 by its code.
export async function cancel(reservationId) {
  const [status, , answer] = await call("DELETE", `${SERVICE}/reservations/${reservationId}`);
  if (status !== 204 && !["already_cancelled", "hold_expired"].includes(answer.code)) {
    throw new Refused(answer);
  }
}

// Yield the changes of the event after a version, as they happen, for as long as you ask.
//
// Each version comes once, in order, with none missing. Keep the last one with what you
// made of it, and go on from there after a crash. `cursor_ahead` says that the service has
// not got that far: it was restored from a backup, and you know more than it does.
export async function* follow(after) {
  let seen;
  for (;;) {
    const headers = seen ? { "If-None-Match": seen } : {};
    const [status, told, page] = await call("GET", `${EVENT}/changes?after=${after}`, undefined, headers);
    if (status !== 200 && status !== 304) throw new Refused(page);
    if (status === 200 && page.items.length) {
      yield* page.items;
      [after, seen] = [page.next, undefined];
    } else {
      seen = told.get("ETag"); // nothing new: the next such answer has no body
      await sleep(POLL);
    }
  }
}

const [command, ...given] = process.argv.slice(2);
try {
  if (command === "reserve") {
    const [partner, seats, key] = given;
    console.log(JSON.stringify(await reserve(partner, Number(seats), key)));
  } else if (command === "cancel") {
    await cancel(given[0]);
  } else if (command === "follow") {
    for await (const change of follow(Number(given[0]))) console.log(JSON.stringify(change));
  } else {
    console.error("node client.mjs reserve PARTNER SEATS KEY | cancel ID | follow VERSION");
    process.exitCode = 1;
  }
} catch (failure) {
  console.error(failure.message);
  process.exitCode = 1;
}
