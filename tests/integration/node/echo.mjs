// An echo server of the npm package `ws` on a free port, which it prints; `bye CODE` closes with that code.
import { WebSocketServer } from "ws";

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true, maxPayload: 1 << 26 }, () => {
  console.log(server.address().port);
});
server.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => {
    const bye = isBinary || data.length > 20 ? null : /^bye (\d+)$/.exec(String(data));
    if (bye) socket.close(Number(bye[1]), "as you wish");
    else socket.send(data, { binary: isBinary });
  });
});
