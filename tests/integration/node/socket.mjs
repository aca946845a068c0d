// A client of the npm package `ws`: talks to the echo server at SOCKET_URL, and prints what came as one JSON object.
import { createHash, randomBytes } from "node:crypto";
import WebSocket from "ws";

const digest = (data) => createHash("sha256").update(data).digest("hex");
const told = {};
const socket = new WebSocket(process.env.SOCKET_URL, ["chat"], { perMessageDeflate: process.env.DEFLATE === "1" });
const next = () => new Promise((resolve, reject) => {
  socket.once("message", (data, isBinary) => resolve([data, isBinary]));
  socket.once("error", reject);
});
await new Promise((resolve, reject) => { socket.once("open", resolve); socket.once("error", reject); });
told.protocol = socket.protocol;
told.extensions = socket.extensions;

socket.send("grüße");
told.text = String((await next())[0]);

// Ten megabytes in fragments.
const whole = randomBytes(10_000_000);
for (let at = 0; at < whole.length; at += 1_000_000) {
  socket.send(whole.subarray(at, at + 1_000_000), { binary: true, fin: at + 1_000_000 >= whole.length });
}
const [back, isBinary] = await next();
told.whole = isBinary && digest(back) === digest(whole);

socket.ping("there?");
told.pong = String(await new Promise((resolve) => socket.once("pong", resolve)));

socket.close(4321, "enough");
told.closed = await new Promise((resolve) => socket.once("close", (code, reason) => resolve([code, String(reason)])));
console.log(JSON.stringify(told));
