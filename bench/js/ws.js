// The rival `ws` on Node: every event to every client, deflate off. Commands on standard input, as the others take them.
const { WebSocketServer } = require("ws");
const { start } = require("./common.js");

const server = new WebSocketServer({ port: Number(process.argv[2]), perMessageDeflate: false, clientTracking: true });
server.on("connection", (socket) => socket.on("error", () => {}));
start(() => server.clients.size, (payload) => {
  for (const client of server.clients) client.send(payload, { binary: true });
});
