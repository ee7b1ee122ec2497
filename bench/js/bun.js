// The rival Bun (uWebSockets inside): `publish` to a topic that all clients are subscribed to.
const { start } = require("./common.js");

let clients = 0;
const server = Bun.serve({
  port: Number(process.argv[2]),
  hostname: "127.0.0.1",
  fetch(request, server) {
    return server.upgrade(request) ? undefined : new Response("no");
  },
  websocket: {
    perMessageDeflate: false,
    open(socket) { clients += 1; socket.subscribe("feed"); },
    close() { clients -= 1; },
    message() {},
  },
});
start(() => clients, (payload) => server.publish("feed", payload));
