// A subscriber of a node's feed, for browsers: reconnects by itself with growing, random pauses, and goes on where it
// stood. No dependencies.
//
//   import { Feed } from "./feed.js";
//   const feed = new Feed("/events?prefix=models/", {
//     onEvent: (event) => console.log(event.offset, event.kind, event.key),
//     onState: (state) => console.log(state), // "connecting", "open", "lost"
//   });
//   feed.close();

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
const GOOD_AFTER_MS = 60_000;
// The node tells its numbers every second: after this much silence it is gone, whatever the socket says.
const SILENCE_MS = 5_000;
const CONNECTING_MS = 15_000;

export class Feed {
  constructor(path, { onEvent = () => {}, onState = () => {}, token = "" } = {}) {
    this.path = path;
    this.onEvent = onEvent;
    this.onState = onState;
    this.token = token;
    this.next = null; // the first offset that was not seen
    this.epoch = null; // changes when the node's offsets start again
    this.ahead = new Set(); // offsets beyond `next` that overtook others
    this.attempts = 0;
    this.closed = false;
    this.connect();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
    this.socket?.close();
    this.socket = null; // what it still delivers is nobody's
  }

  connect() {
    const url = new URL(this.path, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    // The numbers tell that the node is there, and which epoch it is: they come whatever else is wanted.
    const kinds = url.searchParams.getAll("kind").flatMap((kind) => kind.split(","));
    this.numbers = kinds.length === 0 || kinds.includes("stats");
    if (!this.numbers) url.searchParams.append("kind", "stats");
    if (this.next !== null) {
      url.searchParams.set("from", this.next);
      if (this.epoch !== null) url.searchParams.set("epoch", this.epoch);
    }
    // Browsers cannot set headers on a WebSocket: the token travels among the subprotocols.
    const protocols = ["straightway.v1.json"];
    if (this.token) protocols.push("straightway.bearer." + base64url(this.token));
    this.onState("connecting");
    const socket = new WebSocket(url, protocols);
    this.socket = socket;
    this.heard(CONNECTING_MS);
    socket.onopen = () => {
      if (socket !== this.socket) return;
      this.opened = Date.now();
      this.onState("open");
      this.heard();
    };
    socket.onmessage = (message) => {
      if (socket !== this.socket) return;
      this.heard();
      this.take(JSON.parse(message.data));
    };
    socket.onclose = () => this.lost(socket);
  }

  heard(again = SILENCE_MS) {
    clearTimeout(this.watchdog);
    const socket = this.socket;
    this.watchdog = setTimeout(() => {
      socket.close();
      this.lost(socket);
    }, again);
  }

  lost(socket) {
    if (socket !== this.socket || this.closed) return;
    this.socket = null;
    clearTimeout(this.watchdog);
    this.onState("lost");
    if (this.opened && Date.now() - this.opened > GOOD_AFTER_MS) this.attempts = 0;
    this.opened = null;
    const most = Math.min(FIRST_PAUSE_MS * 2 ** this.attempts, LONGEST_PAUSE_MS);
    this.attempts = Math.min(this.attempts + 1, 10);
    this.timer = setTimeout(() => this.connect(), Math.random() * most);
  }

  take(event) {
    if (event.kind === undefined) return;
    if (event.kind === "stats") {
      if (this.epoch !== null && this.epoch !== event.epoch) {
        this.next = event.offset;
        this.ahead.clear();
      }
      this.epoch = event.epoch;
      this.next ??= event.offset;
      if (!this.numbers) return;
    } else if (event.kind === "gap") {
      this.next = event.offset;
      if (event.reason === "restarted") this.ahead.clear();
    } else if (!this.isNew(event)) {
      return;
    }
    this.onEvent(event);
  }

  isNew({ offset, urgent }) {
    const seen = (this.next !== null && offset < this.next) || this.ahead.has(offset);
    if (urgent) {
      if (!seen) this.ahead.add(offset);
    } else if (this.next === null || offset >= this.next) {
      this.next = offset + 1;
      for (const known of this.ahead) if (known < this.next) this.ahead.delete(known);
    }
    return !seen;
  }
}

function base64url(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
